"""A whole answer inside the server: prompt → a chain of bounded calls → its text, as it is decoded.

Each call is `handlers.generate`: admitted, metered, committed and logged like any other; between two of them it is
others' turn. `client.ask` makes such chains of run_update from outside.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

from canister.api.records import InputRecord
from canister.api.tokens import Likely, Token
from canister.dispatch.answer_text import AnswerText, Piece
from canister.dispatch.requests import execute, find_method
from canister.errors import BadRequest, CanisterTrapped, ContextExceeded, NotFound
from canister.flags.params import SamplingParams
from canister.flags.values import UINT32_MAX
from canister.handlers.generate import GENERATE, GenerateInput, GenerateOutput
from canister.runtime import access

if TYPE_CHECKING:
    from canister.dispatch.execute import Reply
    from canister.engine.engine import Engine
    from canister.engine.request import Sampled, Tokens
    from canister.runtime.canister import Canister

LONG_PROMPT_CHARACTERS = 4096  # to be tokenized beside the event loop

Finish = Literal["stop", "length"]
"""stop: end of generation, or a stop string. length: as long as it may be, or the context is full."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """An answer to ask for.

    prompt: its text, special tokens in it parsed, or its tokens. seed: None: drawn. max_tokens: of the answer; None:
    until the context is full. stops: strings that end the answer, and are no part of it. shown_special: the texts of
    special tokens that are part of the text.
    cache: name of the caller's prompt cache; None: nothing stays.
    """

    prompt: str | Sequence[int]
    sampling: SamplingParams = field(default_factory=SamplingParams)
    seed: int | None = None
    max_tokens: int | None = None
    stops: tuple[str, ...] = ()
    shown_special: tuple[str, ...] = ()
    cache: str | None = None


@dataclass(frozen=True, slots=True)
class Ingested:
    """How much of the prompt is in: n_done of n_prompt tokens; a cache had n_cached. seconds: since the start."""

    n_prompt: int
    n_cached: int
    n_done: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Answered:
    """How an answer ended, and what its calls took together.

    stop: the stop string that ended it. n_generated: tokens that were sampled. cycles: those that were charged.
    *_seconds: of the decodes that its calls took part in.
    """

    finish: Finish
    stop: str | None
    n_prompt: int
    n_cached: int
    n_generated: int
    n_calls: int
    instructions: int
    cycles: int
    prompt_seconds: float
    decode_seconds: float
    seed: int


Event = Ingested | Piece | Answered


async def answer(canister: Canister, caller: str, wanted: Wanted) -> AsyncGenerator[Event]:
    """How far the prompt is in, the pieces of the answer as they are decoded, and Answered at the end.

    Closed early, the running call is cancelled and no other is made. Raises ContextExceeded, and what a call is refused
    for: CanisterError or Trap; before the first event if it can be known by then.
    """
    access.check(canister, caller, GENERATE.access)
    engine = canister.model.engine
    if engine is None:
        raise NotFound("No model is loaded. Call load_model first.")
    prompt = await _tokens(engine, wanted.prompt)
    cache = f"answer-{secrets.token_hex(8)}" if wanted.cache is None else wanted.cache
    try:
        async with aclosing(_Chain(canister, caller, engine, wanted, prompt, cache).events()) as events:
            async for event in events:
                yield event
    finally:
        if wanted.cache is None:
            held = InputRecord(args=["--prompt-cache", cache])
            await execute(canister, find_method(canister, "remove_prompt_cache"), caller, lambda: held)


class _Chain:
    """The calls of one answer, and what they came to so far."""

    def __init__(
        self, canister: Canister, caller: str, engine: Engine, wanted: Wanted, prompt: Tokens, cache: str
    ) -> None:
        self._canister, self._caller, self._engine = canister, caller, engine
        self._wanted, self._cache = wanted, cache
        self._tokens, self._n_prompt = prompt, len(prompt)
        self._seed = secrets.randbelow(UINT32_MAX) if wanted.seed is None else wanted.seed
        self._shown = _special_tokens(engine, wanted.shown_special)
        self._text = AnswerText(wanted.stops)
        self._started = asyncio.get_running_loop().time()
        self._n_cached = 0
        self._n_remaining = len(prompt)  # of the prompt
        self._is_in = False  # all of it
        self._n_generated = self._n_calls = 0
        self._instructions = self._cycles = 0
        self._prompt_seconds = self._decode_seconds = 0.0

    async def events(self) -> AsyncGenerator[Event]:
        finish: Finish | None = None
        while finish is None:
            async with aclosing(self._call()) as parts:
                async for part in parts:
                    if isinstance(part, list):
                        if not self._is_in:
                            self._is_in = True
                            yield self._ingested(self._n_prompt)
                        piece = self._text.feed(map(self._token, part))
                        if piece is not None:
                            yield piece
                        continue
                    was_in = self._is_in
                    finish = self._took(part)
                    if not was_in:
                        yield self._ingested(self._n_prompt - self._n_remaining)
        rest = self._text.end()
        if rest is not None:
            yield rest
        yield self._answered(finish)

    async def _call(self) -> AsyncGenerator[list[Sampled] | Reply]:
        """The next call: its tokens as they are sampled, and its reply."""
        found: asyncio.Queue[list[Sampled] | None] = asyncio.Queue()
        named = {"on_tokens": found.put_nowait, "on_begun": None if self._n_calls else self._begun}
        arg = self._next()
        call = asyncio.create_task(execute(self._canister, GENERATE, self._caller, lambda: arg, named=named))
        call.add_done_callback(lambda _: found.put_nowait(None))
        try:
            while (tokens := await found.get()) is not None:
                yield tokens
        finally:
            call.cancel()  # who listens has gone; else it is done
            await asyncio.wait([call])
        reply = call.result()
        if reply.error is not None:
            raise reply.error
        yield reply

    def _next(self) -> GenerateInput:
        most, wanted = self._wanted.max_tokens, self._wanted
        return GenerateInput(
            self._engine.info.model_id,
            self._cache,
            self._tokens,
            self._n_prompt,
            wanted.sampling,
            self._seed,
            n_done=len(self._tokens) - self._n_remaining if self._n_calls else None,
            n_predict=-1 if most is None else most - self._n_generated,
            stops=wanted.stops,
            shown=self._shown,
        )

    def _begun(self, n_cached: int) -> None:
        self._n_cached = n_cached

    def _took(self, reply: Reply) -> Finish | None:
        """A call is committed. How the answer has ended, if it has."""
        done = reply.value
        assert isinstance(done, GenerateOutput)
        self._n_calls += 1
        if reply.charge is not None:
            self._instructions += reply.charge.instructions
            self._cycles += reply.charge.cycles
        self._prompt_seconds += done.prompt_seconds
        self._decode_seconds += done.decode_seconds
        self._n_generated += len(done.sampled)
        self._n_remaining = done.n_prompt_remaining
        self._is_in = not self._n_remaining
        if done.n_generated:
            decoded = np.array(done.sampled[: done.n_generated], np.int32)
            self._tokens = np.concatenate([self._tokens, decoded])
        if done.finish == "stop":
            return "stop"
        is_full = len(self._tokens) >= self._engine.info.n_ctx
        if self._is_in and (is_full or self._n_generated == self._wanted.max_tokens):
            return "length"
        if not done.n_prompt_decoded and not done.sampled:
            raise CanisterTrapped(f"Error from Canister {self._canister.id}: a call of an answer did nothing")
        return None

    def _ingested(self, n_done: int) -> Ingested:
        seconds = asyncio.get_running_loop().time() - self._started
        return Ingested(self._n_prompt, self._n_cached, n_done, seconds)

    def _answered(self, finish: Finish) -> Answered:
        return Answered(
            finish,
            self._text.stop,
            self._n_prompt,
            self._n_cached,
            self._n_generated,
            self._n_calls,
            self._instructions,
            self._cycles,
            self._prompt_seconds,
            self._decode_seconds,
            self._seed,
        )

    def _token(self, sampled: Sampled) -> Token:
        token = sampled.token
        top = tuple(Likely(at, self._engine.piece(at, True), logprob) for at, logprob in sampled.top)
        return Token(token, self._engine.piece(token, token in self._shown), sampled.logprob, top)


async def _tokens(engine: Engine, prompt: str | Sequence[int]) -> Tokens:
    """The tokens of a prompt that leaves room for an answer."""
    n_ctx, n_vocab = engine.info.n_ctx, engine.info.n_vocab
    if not isinstance(prompt, str):
        wrong = next((token for token in prompt if not 0 <= token < n_vocab), None)
        if wrong is not None:
            raise BadRequest(f"{wrong} is no token: the vocabulary has those from 0 to {n_vocab - 1}")
        found = list(prompt)
    elif len(prompt) < LONG_PROMPT_CHARACTERS:
        found = engine.tokenize(prompt, add_bos=True)
    else:
        found = await asyncio.to_thread(engine.tokenize, prompt, add_bos=True)
    if not found:
        raise BadRequest("The prompt is empty")
    if len(found) >= n_ctx:
        raise ContextExceeded(len(found), n_ctx)
    return np.array(found, np.int32)


def _special_tokens(engine: Engine, texts: Sequence[str]) -> frozenset[int]:
    """The tokens with these texts; what is no single token is not special."""
    found = (engine.tokenize(text, add_bos=False) for text in texts)
    return frozenset(tokens[0] for tokens in found if len(tokens) == 1)
