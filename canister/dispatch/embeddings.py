"""The vectors of texts: tokenized once, then a chain of bounded calls, with the turns of other callers in between."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from canister.dispatch.requests import execute
from canister.engine.embedder import normalized
from canister.errors import BadRequest, CanisterBusy, ContextExceeded, NotFound
from canister.handlers.embed import EMBED, EmbedInput, EmbedOutput, cost, limit_of
from canister.runtime import access

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from canister.engine.engine import Engine
    from canister.engine.request import Tokens
    from canister.runtime.canister import Canister

CALL_TEXTS = 64  # at most, of one call
CALL_TOKENS = 4096  # of one call, unless it is for a single text

Text = str | Sequence[int]


class TextRefused(BadRequest):
    """A text that no vector can be made of. index: which one."""

    def __init__(self, message: str, index: int) -> None:
        super().__init__(message)
        self.index = index


class TextTooLong(ContextExceeded):
    """A text that is longer than the model reads. index: which one."""

    def __init__(self, n_tokens: int, n_ctx: int, index: int) -> None:
        super().__init__(n_tokens, n_ctx)
        self.index = index


@dataclass(frozen=True, slots=True)
class Embedded:
    """vectors: one a text, in their order, as the model gives them or of length 1. n_tokens: of each text."""

    vectors: tuple[NDArray[np.float32], ...]
    n_tokens: tuple[int, ...]
    n_calls: int
    instructions: int
    cycles: int

    def normalized(self) -> list[NDArray[np.float32]]:
        return normalized(self.vectors)


async def embed(canister: Canister, caller: str, texts: Sequence[Text], *, truncates: bool = False) -> Embedded:
    """The vectors of texts, or of tokens, which are read as they are. truncates: what is too long is cut off.

    Raises NotSupported: the loaded model makes none; TextRefused, TextTooLong; the refusals of a call.
    """
    engine = _engine(canister, caller)
    tokens = await asyncio.to_thread(_tokenized, engine, texts, truncates=truncates)
    groups = [*_groups(canister, engine, tokens)]
    found: list[NDArray[np.float32]] = []
    instructions = cycles = 0
    for group in groups:
        reply = await execute(canister, EMBED, caller, partial(EmbedInput, engine.info.model_id, group))
        if reply.error is not None:
            raise reply.error
        assert isinstance(reply.value, EmbedOutput)
        found.extend(reply.value.vectors)
        if reply.charge is not None:
            instructions += reply.charge.instructions
            cycles += reply.charge.cycles
    return Embedded(tuple(found), tuple(map(len, tokens)), len(groups), instructions, cycles)


def _engine(canister: Canister, caller: str) -> Engine:
    canister.check_available()
    access.check(canister, caller, EMBED.access)
    engine = canister.model.engine
    if engine is None:
        if not canister.model.is_ready:
            raise CanisterBusy(f"the model of canister {canister.name} is being loaded; try again later")
        raise NotFound("No model is loaded. Call load_model first.")
    engine.check_use("embeddings")
    return engine


def _tokenized(engine: Engine, texts: Sequence[Text], *, truncates: bool) -> list[Tokens]:
    n_ctx, n_vocab = engine.info.n_ctx, engine.info.n_vocab
    found: list[Tokens] = []
    for index, text in enumerate(texts):
        tokens = np.array(engine.tokenize_framed(text) if isinstance(text, str) else [*text], np.int64)
        if not len(tokens):
            raise TextRefused("a text is empty", index)
        if tokens.min() < 0 or tokens.max() >= n_vocab:
            beyond = int(tokens.max()) if tokens.max() >= n_vocab else int(tokens.min())
            raise TextRefused(f"there is no token {beyond}: the vocabulary has {n_vocab}", index)
        if len(tokens) > n_ctx:
            if not truncates:
                raise TextTooLong(len(tokens), n_ctx, index)
            tokens = _truncated(engine, tokens, is_framed=isinstance(text, str))
        found.append(tokens.astype(np.int32))
    return found


def _truncated(engine: Engine, tokens: NDArray[np.int64], *, is_framed: bool) -> NDArray[np.int64]:
    """The first n_ctx tokens; what the vocabulary puts behind a text stays behind it."""
    n_ctx = engine.info.n_ctx
    frame = engine.tokenize_framed("") if is_framed else []
    n_behind = 1 if len(frame) > 1 or (frame and frame[0] != tokens[0]) else 0
    if not n_behind:
        return tokens[:n_ctx]
    return np.concatenate([tokens[: n_ctx - n_behind], np.array(frame[-n_behind:], np.int64)])


def _groups(canister: Canister, engine: Engine, texts: Sequence[Tokens]) -> Iterator[list[Tokens]]:
    """The texts of each call."""
    limit = limit_of(canister)
    group: list[Tokens] = []
    for tokens in texts:
        lengths = [len(other) for other in (*group, tokens)]
        is_full = len(lengths) > CALL_TEXTS or sum(lengths) > CALL_TOKENS
        if group and (is_full or (limit is not None and cost(canister, engine, lengths) > limit)):
            yield group
            group = []
        group = [*group, tokens]
    if group:
        yield group
