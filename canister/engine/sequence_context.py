"""What the tokens of a call are among: the limits of the context, the vocabulary, the sampler."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from canister.engine.request import Tokens
from canister.engine.sampling.logprobs import TokenLogprobs


class Vocabulary(Protocol):
    """What a call must know of tokens."""

    def is_eog(self, token: int) -> bool: ...
    def piece(self, token: int, special: bool) -> bytes: ...


class TokenSampler(Protocol):
    """Chooses tokens for one call. n_draws: how often it has drawn, calls before included."""

    n_draws: int

    def begin(self, history: Tokens, n_continued: int) -> None:
        """Before the first sample: the chat's tokens so far; the last n_continued go on an earlier generation."""

    def sample(self, logits: NDArray[np.float32], index: int) -> int:
        """The token number `index` of the chat. Same logits, index, seed and history: same token."""

    def accept(self, token: int) -> None:
        """The token becomes part of the chat."""

    def logprobs(self, token: int, n_top: int) -> tuple[float, TokenLogprobs]:
        """Of the token just sampled, and of the n_top likeliest, among those that there were to choose from."""


@dataclass(frozen=True, slots=True)
class ContextLimits:
    """The context's: tokens of a conversation, of a logical batch; may positions move; is BOS put before prompts.

    repeats_cut: a prompt that is decoded again must be cut as it was before. uses_whole: and since KV rows are nowhere
    stored, states are used up to where a decode ended, and none that has more than the call may decode, or that is cut
    otherwise than the call would cut it. n_chunk: the most prompt tokens that a call decodes at once when it is alone.
    """

    n_ctx: int
    n_batch: int
    can_shift: bool
    add_bos: bool
    repeats_cut: bool = False
    uses_whole: bool = False
    n_chunk: int = 0
