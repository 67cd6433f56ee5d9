"""The chain of calls that makes one answer.

It chooses no prompt cache and makes no prompt: that is for `answers.py`.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from canister.api.tokens import Likely, Token
from canister.dispatch import herd_answers
from canister.dispatch.answer_caches import Lease
from canister.dispatch.answer_records import Event, Finish, Ingested, Keeper, Scored, Taken, Wanted
from canister.dispatch.answer_text import AnswerText, Piece
from canister.dispatch.requests import execute
from canister.engine.request import Ahead
from canister.errors import CacheChanged, CanisterTrapped, Trap
from canister.flags.values import UINT32_MAX
from canister.handlers.generate import GENERATE, GenerateInput, GenerateOutput, OnTokens

if TYPE_CHECKING:
    from canister.dispatch.execute import Reply
    from canister.engine.engine import Engine
    from canister.engine.request import Sampled, Tokens
    from canister.runtime.canister import Canister
    from canister.store.transaction import Transaction

PIECES_AT_ONCE = 200  # kept pieces, before others get their turn on the event loop


def decoded_of(keeper: Keeper) -> Tokens:
    """The tokens of an answer that its cache has."""
    n_decoded = 0 if keeper.taken is None else keeper.taken.n_decoded
    return np.array([token.id for token in answer_of(keeper)[:n_decoded]], np.int32)


def answer_of(keeper: Keeper) -> Sequence[Token]:
    """The kept tokens that are the answer's."""
    n_scored = 0 if keeper.taken is None else keeper.taken.n_scored
    return keeper.tokens[n_scored:] if n_scored else keeper.tokens


def scored_of(keeper: Keeper) -> Iterator[Scored]:
    """The kept tokens that are the prompt's."""
    n_scored = 0 if keeper.taken is None else keeper.taken.n_scored
    if n_scored:
        yield Scored(0, tuple(keeper.tokens[:n_scored]))


def pieces_of(text: AnswerText, tokens: Iterable[Token]) -> Iterator[Piece]:
    """One by one: so they do not depend on which tokens came together."""
    for token in tokens:
        piece = text.feed_one(token)
        if piece is not None:
            yield piece


def last_of(text: AnswerText) -> Iterator[Piece]:
    rest = text.end()
    if rest is not None:
        yield rest


class _RunningCall:
    """A call, and its tokens on their way to the listener, on the event loop.

    There is a piece for each token, so this is lighter than a queue: whatever has come is taken together.
    """

    def __init__(self, begin: Callable[[OnTokens], asyncio.Task[Reply]]) -> None:
        self._tokens: list[Sampled] = []
        self._waiter: asyncio.Future[None] | None = None
        self._task = begin(self._put)
        self._task.add_done_callback(lambda _: self._wake())

    def _put(self, tokens: list[Sampled]) -> None:
        self._tokens += tokens
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def take(self) -> list[Sampled] | None:
        """Tokens; None after the last of them."""
        if not self._tokens and not self._task.done():
            self._waiter = self._task.get_loop().create_future()
            await self._waiter
        tokens, self._tokens = self._tokens, []
        return tokens or None

    async def end(self) -> None:
        """Wait for its end, and cancel it, unless it is over: the listener is gone."""
        if not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task])

    def reply(self) -> Reply:
        """Raises what the call raised."""
        return self._task.result()


class Chain:
    """The calls of one answer, and their totals so far."""

    def __init__(
        self,
        canister: Canister,
        caller: str,
        engine: Engine,
        wanted: Wanted,
        prompt: Tokens,
        cache: Lease,
        keeper: Keeper | None = None,
    ) -> None:
        self._canister, self._caller, self._engine = canister, caller, engine
        self._wanted, self._cache, self._keeper = wanted, cache, keeper
        self._prompt, self._tokens = prompt, prompt
        self._seed = secrets.randbelow(UINT32_MAX) if wanted.seed is None else wanted.seed
        self._shown = _special_tokens(engine, wanted.shown_special)
        self._known: dict[int, Token] = {}  # without probabilities
        self._text = AnswerText(wanted.stops)
        self._started = asyncio.get_running_loop().time()
        self._n_cached = 0
        self._is_begun = False  # then n_cached is known
        instructions = sum(charge.instructions for charge in cache.charges)
        cycles = sum(charge.cycles for charge in cache.charges)
        self._taken = Taken(
            len(prompt), len(prompt), n_calls=len(cache.charges), instructions=instructions, cycles=cycles
        )
        self._receipts = [charge.receipt for charge in cache.charges if charge.receipt]
        self._ahead = Ahead()
        self._is_told = False  # the listener knows that the prompt is in
        self._has_cache = False  # a call has left one

    def followed_by(self, wanted: Wanted, cache: Lease) -> Chain:
        """Another answer to this chain's prompt, which is in, in its own cache, or in a copy of it."""
        chain = Chain(self._canister, self._caller, self._engine, wanted, self._prompt, cache)
        n_prompt = self._taken.n_prompt
        if cache is self._cache:
            chain._taken = replace(self._taken, finish=None)
            chain._n_cached = self._n_cached
        else:
            chain._taken = replace(chain._taken, n_remaining=0)
            chain._n_cached = n_prompt - 1
        chain._is_begun = chain._is_told = chain._has_cache = True
        return chain

    async def events(self) -> AsyncGenerator[Event]:
        """All events, once. Closed early, the running call is cancelled.

        There is one for each token, so that they take no way through other generators.
        """
        try:
            async with aclosing(self._resumed()) as known:
                async for event in known:
                    yield event
            while self._taken.finish is None:
                call = _RunningCall(self._begun_call)
                # What comes behind a prompt that is scored waits for the scores, which come with the call's end.
                held: list[Piece] | None = [] if self._is_scoring else None
                try:
                    while (tokens := await call.take()) is not None:
                        if not self._is_told and held is None:
                            self._is_told = True
                            yield self._ingested(self._taken.n_prompt)
                        for sampled in tokens:
                            piece = self._text.feed_one(self._token(sampled))
                            if piece is not None and held is not None:
                                held.append(piece)
                            elif piece is not None:
                                yield piece
                finally:
                    await call.end()
                reply, n_scored = call.reply(), self._taken.n_scored
                if not self._took(reply):
                    continue
                if self._taken.n_scored > n_scored:
                    yield Scored(n_scored, self._scored(reply, n_scored))
                if not self._is_told:
                    self._is_told = not self._taken.n_remaining
                    yield self._ingested(self._taken.n_prompt - self._taken.n_remaining)
                for piece in held or ():
                    yield piece
            for rest in last_of(self._text):
                yield rest
            # Those of a herd's worker are in its own chain, which nobody can ask for; the herd has others for them.
            is_known = self._canister.herd.worker is None or herd_answers.current() is not None
            receipts = self._receipts if is_known else ()
            yield self._taken.answered(self._taken.finish, self._text.stop, self._seed, receipts)
        finally:
            self._ahead.is_over = True

    async def _resumed(self) -> AsyncGenerator[Event]:
        """The events of earlier calls, as they came then."""
        if self._keeper is None or self._keeper.taken is None:
            return
        self._taken = self._keeper.taken
        self._tokens = np.concatenate([self._prompt, decoded_of(self._keeper)])
        self._n_cached, self._is_begun = self._taken.n_cached, True
        self._is_told = not self._taken.n_remaining
        self._has_cache = True
        for scored in scored_of(self._keeper):
            yield scored
        yield self._ingested(self._taken.n_prompt - self._taken.n_remaining)
        for n, piece in enumerate(pieces_of(self._text, answer_of(self._keeper))):
            yield piece
            if n % PIECES_AT_ONCE == 0:
                await asyncio.sleep(0)

    def _begun_call(self, on_tokens: OnTokens) -> asyncio.Task[Reply]:
        """The next call."""
        named = {
            "on_tokens": on_tokens,
            "on_begun": None if self._is_begun else self._begun,
            "ahead": self._ahead,
        }
        arg = self._next()
        record = None if self._keeper is None else self._record
        return asyncio.create_task(execute(self._canister, GENERATE, self._caller, lambda: arg, record, named=named))

    def _next(self) -> GenerateInput:
        most, wanted = self._wanted.max_tokens, self._wanted
        return GenerateInput(
            self._engine.info.model_id,
            self._cache.name,
            self._tokens,
            self._taken.n_prompt,
            wanted.sampling,
            self._seed,
            n_done=len(self._tokens) - self._taken.n_remaining if self._has_cache else None,
            n_draws=self._taken.n_draws,
            n_predict=-1 if most is None else most - self._taken.n_sampled,
            n_logprobs=wanted.n_logprobs,
            probs_after=wanted.probs_after,
            n_prompt_logprobs=wanted.n_prompt_logprobs if self._is_scoring else None,
            stops=wanted.stops,
            shown=self._shown,
        )

    def _begun(self, n_cached: int) -> None:
        self._n_cached, self._is_begun = n_cached, True

    def _record(self, transaction: Transaction, outcome: Reply | Trap) -> None:
        """Keep the results of a call, in its own transaction."""
        if self._keeper is not None and not isinstance(outcome, Trap) and outcome.error is None:
            done = outcome.value
            assert isinstance(done, GenerateOutput)
            tokens = [*self._scored(outcome, self._taken.n_scored), *map(self._token, done.sampled)]
            self._keeper.keep(transaction, tokens, self._after(outcome))

    def _took(self, reply: Reply) -> bool:
        """A call is committed. False: its cache is gone, and it is to be made again without one."""
        if reply.error is not None:
            if not (isinstance(reply.error, CacheChanged) and self._has_cache):
                raise reply.error
            # An answer does not depend on its cache, which may have been cleaned up.
            self._has_cache = False
            return False
        done = reply.value
        assert isinstance(done, GenerateOutput)
        self._taken = self._after(reply)
        if reply.charge is not None and reply.charge.receipt:
            self._receipts.append(reply.charge.receipt)
        self._has_cache = True
        if done.n_generated:
            decoded = np.array([sampled.token for sampled in done.sampled[: done.n_generated]], np.int32)
            self._tokens = np.concatenate([self._tokens, decoded])
        self._cache.grown(self._tokens[: len(self._tokens) - self._taken.n_remaining])
        if self._taken.finish is None and not done.n_prompt_decoded and not done.sampled:
            raise CanisterTrapped(f"Error from Canister {self._canister.id}: a call of an answer did nothing")
        return True

    def _after(self, reply: Reply) -> Taken:
        """What stands after a call."""
        done, before = reply.value, self._taken
        assert isinstance(done, GenerateOutput)
        n_sampled = before.n_sampled + len(done.sampled)
        finish: Finish | None = "stop" if done.finish == "stop" else None
        is_full = len(self._tokens) + done.n_generated >= self._engine.info.n_ctx
        if finish is None and not done.n_prompt_remaining and (is_full or n_sampled == self._wanted.max_tokens):
            finish = "length"
        return Taken(
            before.n_prompt,
            done.n_prompt_remaining,
            self._n_cached,
            n_sampled,
            before.n_decoded + done.n_generated,
            done.n_draws,
            before.n_calls + 1,
            before.instructions + (0 if reply.charge is None else reply.charge.instructions),
            before.cycles + (0 if reply.charge is None else reply.charge.cycles),
            before.prompt_seconds + done.prompt_seconds,
            before.decode_seconds + done.decode_seconds,
            finish,
            before.n_scored + len(self._scored(reply, before.n_scored)),
        )

    @property
    def _is_scoring(self) -> bool:
        """Does the next call find log-probabilities of the prompt's tokens?"""
        return self._wanted.n_prompt_logprobs is not None and self._taken.n_remaining > 0

    def _scored(self, reply: Reply, n_known: int) -> tuple[Token, ...]:
        """The tokens of the prompt that a call has scored, but for the first n_known. The very first has no score."""
        done = reply.value
        assert isinstance(done, GenerateOutput)
        if self._wanted.n_prompt_logprobs is None or not done.n_prompt_decoded:
            return ()
        found = tuple(map(self._prompt_token, done.scored))
        first = Token(int(self._prompt[0]), self._engine.piece(int(self._prompt[0]), True))
        known = (first, *found) if not done.n_cached else found
        return known[max(0, n_known - (done.n_cached + 1 if done.n_cached else 0)) :]

    def _prompt_token(self, scored: Sampled) -> Token:
        return self._token(scored)._replace(data=self._engine.piece(scored.token, True))

    def _ingested(self, n_done: int) -> Ingested:
        seconds = asyncio.get_running_loop().time() - self._started
        return Ingested(self._taken.n_prompt, self._n_cached, n_done, seconds)

    def _token(self, sampled: Sampled) -> Token:
        token = sampled.token
        if sampled.logprob is None:
            known = self._known.get(token)
            if known is None:
                known = self._known[token] = Token(token, self._engine.piece(token, token in self._shown))
            return known
        top = tuple(Likely(at, self._engine.piece(at, True), logprob) for at, logprob in sampled.top)
        return Token(token, self._engine.piece(token, token in self._shown), sampled.logprob, top)


def _special_tokens(engine: Engine, texts: Sequence[str]) -> frozenset[int]:
    """The tokens with these texts; what is no single token is not special."""
    found = (engine.tokenize(text, add_bos=False) for text in texts)
    return frozenset(tokens[0] for tokens in found if len(tokens) == 1)
