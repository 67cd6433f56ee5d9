"""Calls as receipts tell them: from a record and the words of its tokens to what the engine can decode again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from canister.engine.request import Flags, GenerateRequest, Tokens, boundaries, last_boundary
from canister.flags.params import SamplingParams
from canister.ic.receipts import record as records
from canister.ic.receipts.record import Record

if TYPE_CHECKING:
    from canister.engine.engine import EngineInfo

_NUMBER = records.REDRAWN - 1


class NotToldFully(ValueError):
    """A call that cannot be decoded again from what its receipt has. The message says why."""


@dataclass(frozen=True, slots=True)
class ToldCall:
    """A call that drew tokens, or none. history: tokens before the first that it drew, with their marks. drawn: those
    that it drew, of which the last may have been decoded by nobody.
    """

    history: Tokens
    generated: Flags
    starts: Flags
    drawn: Tokens
    redrawn: Flags
    sampling: SamplingParams
    seed: int
    n_draws: int
    n_continued: int

    def request(self, info: EngineInfo, n_tokens: int | None = None) -> GenerateRequest:
        """The request that draws the same tokens one by one, as the call did; n_tokens: only the first ones."""
        repeats_cut = info.policy.repeats_cut
        starts = self.starts if repeats_cut else np.zeros_like(self.starts)
        n = len(self.history)
        return GenerateRequest(
            key="replay",
            caller="replay",
            prefix=self.history,
            prefix_generated=self.generated,
            prompt=np.empty(0, np.int32),
            sampling=self.sampling,
            seed=self.seed,
            n_draws=self.n_draws,
            n_continued=self.n_continued,
            n_predict=len(self.drawn) if n_tokens is None else n_tokens,
            prefix_starts=starts,
            n_whole=last_boundary(boundaries(self.generated, starts), n) if repeats_cut else None,
            want_rows=False,
        )


def words_of(tokens: Tokens, generated: Flags, starts: Flags, redrawn: Flags) -> bytes:
    """Tokens with their marks as a receipt has them, four bytes each."""
    words = tokens.astype("<u4")
    for flags, mark in ((generated, records.GENERATED), (starts, records.STARTS), (redrawn, records.REDRAWN)):
        np.bitwise_or(words, np.uint32(mark), out=words, where=flags)
    return words.tobytes()


def told_call(record: Record, words: bytes, terms: Mapping[str, object]) -> ToldCall:
    """The call of a record; NotToldFully. words: of all tokens behind it, whose hash was checked."""
    chat = record.chat
    if chat is None:
        raise NotToldFully("it decoded nothing")
    if chat.is_shifted:
        raise NotToldFully("its context was shifted, so its tokens do not tell what the model had seen")
    if len(words) != 4 * chat.n_after:
        raise NotToldFully("its tokens are not at hand: its chat went on otherwise, and the server keeps only hashes")
    all_words = np.frombuffer(words, "<u4")
    tokens = (all_words & _NUMBER).astype(np.int32)
    generated = (all_words & records.GENERATED).astype(np.bool_)
    starts = (all_words & records.STARTS).astype(np.bool_)
    redrawn = (all_words & records.REDRAWN).astype(np.bool_)
    n = chat.n_kept + chat.n_prompt
    if generated[chat.n_kept : n].any() or not generated[n:].all():
        raise NotToldFully("what it drew is not marked as drawn")
    last = np.array([chat.last] if chat.last >= 0 else [], np.int32)
    return ToldCall(
        tokens[:n],
        generated[:n],
        starts[:n],
        np.concatenate([tokens[n:], last]),
        np.concatenate([redrawn[n:], np.zeros(len(last), np.bool_)]),
        sampling_of(terms),
        chat.seed,
        chat.n_draws,
        chat.n_continued,
    )


def sampling_of(terms: Mapping[str, object]) -> SamplingParams:
    """The sampling settings in the terms of a record. NotToldFully for what is none."""
    told = terms.get("sampling")
    if not isinstance(told, dict):
        raise NotToldFully("its terms have no sampling settings")
    defaults = SamplingParams()
    known = {row.name: getattr(defaults, row.name) for row in fields(defaults)}
    values: dict[str, Any] = {}
    try:
        for name, value in told.items():
            values[str(name)] = _typed(known[str(name)], value, str(name))
        return SamplingParams(**values)
    except (KeyError, TypeError, ValueError) as error:
        raise NotToldFully(f"its terms have a sampling setting that this program does not know: {error}") from None


def _typed(default: object, value: object, name: str) -> object:
    """The value of a setting from its form in CBOR, where a float is a text."""
    if name == "logit_bias" and isinstance(value, list):
        return tuple((int(token), float(bias)) for token, bias in value)
    if name == "grammar_quiet" and isinstance(value, list):
        return tuple((str(begin), str(end)) for begin, end in value)
    if isinstance(default, tuple) and isinstance(value, list):
        return tuple(map(str, value))
    if isinstance(default, float) and isinstance(value, str | int):
        return float(value)
    if type(value) is type(default):
        return value
    raise ValueError(f"{name} = {value!r:.40}")
