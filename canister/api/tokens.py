"""Generated tokens as those are told of them who asked for their probabilities. Plain records."""

from __future__ import annotations

from typing import NamedTuple


class Likely(NamedTuple):
    """A token that might have come. data: its bytes, which need not be whole characters."""

    id: int
    data: bytes
    logprob: float


class Token(NamedTuple):
    """A token that came. logprob: natural logarithm of its probability by the raw logits; None: not asked for.

    top: the likeliest tokens at its place, likeliest first; as many as were asked for.
    """

    id: int
    data: bytes
    logprob: float | None = None
    top: tuple[Likely, ...] = ()
