"""A whole answer inside the server: prompt → a chain of bounded calls → its text, as it is decoded.

Each call is `handlers.generate`, admitted, metered, committed and logged like any other, and other callers get their
turns in between. `client.ask` makes such chains of run_update from outside.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from canister.dispatch.answer_caches import leased, passing
from canister.dispatch.answer_chain import Chain, answer_of, decoded_of, last_of, pieces_of, scored_of
from canister.dispatch.answer_records import Event, Ingested, Keeper, Prompt, Scored, Wanted
from canister.dispatch.answer_text import AnswerText
from canister.errors import BadRequest, ContextExceeded, NotFound
from canister.handlers.conversation import LONG_PROMPT_CHARACTERS
from canister.handlers.generate import GENERATE
from canister.runtime import access

if TYPE_CHECKING:
    from canister.engine.engine import Engine
    from canister.engine.request import Tokens
    from canister.runtime.canister import Canister


async def answer(
    canister: Canister, caller: str, wanted: Wanted, keeper: Keeper | None = None
) -> AsyncGenerator[Event]:
    """Yields the progress of the prompt, the pieces of the answer as they are decoded, and Answered at the end.

    Closed early, it cancels the running call and makes no other. Raises ContextExceeded, and the refusals of a call:
    CanisterError or Trap; before the first event if that is possible.
    keeper: of an answer that is continued. The pieces that it has come first, as they came before.
    """
    async with _events(canister, caller, wanted, keeper) as events:
        async for event in events:
            yield event


@asynccontextmanager
async def _events(
    canister: Canister, caller: str, wanted: Wanted, keeper: Keeper | None = None
) -> AsyncIterator[AsyncGenerator[Event]]:
    """The events of one answer, closed in the end."""
    engine = _engine(canister, caller)
    prompt = await prompt_tokens(engine, wanted.prompt)
    begun = prompt if keeper is None else np.concatenate([prompt, decoded_of(keeper)])
    lease = leased(canister, caller, engine, begun, wanted.cache) if _reuses(wanted) else passing(canister, caller)
    async with (
        lease as cache,
        aclosing(Chain(canister, caller, engine, wanted, prompt, cache, keeper).events()) as events,
    ):
        yield events


async def answer_choices(
    canister: Canister, caller: str, wanted: Sequence[Wanted]
) -> AsyncGenerator[tuple[int, Event]]:
    """Several answers to the prompt of the first, side by side: each event with the number of its answer.

    The prompt goes in once, and its cache is copied; the first answer is charged for that.
    """
    if len(wanted) == 1:
        async with _events(canister, caller, wanted[0]) as events:
            async for event in events:
                yield 0, event
        return
    first, engine = wanted[0], _engine(canister, caller)
    prompt = await prompt_tokens(engine, first.prompt)
    lease = leased(canister, caller, engine, prompt, first.cache) if _reuses(first) else passing(canister, caller)
    async with AsyncExitStack() as held:
        cache = await held.enter_async_context(lease)
        chain = Chain(canister, caller, engine, replace(first, max_tokens=0), prompt, cache)
        async with aclosing(chain.events()) as events:
            async for event in events:
                if isinstance(event, Scored | Ingested):
                    yield 0, event
        copies = [
            await held.enter_async_context(passing(canister, caller, source=cache.name)) for _ in range(len(wanted) - 1)
        ]
        chains = [chain.followed_by(each, copy) for each, copy in zip(wanted, [cache, *copies], strict=True)]
        async with aclosing(_side_by_side(chains)) as merged:
            async for numbered in merged:
                yield numbered


async def _side_by_side(chains: Sequence[Chain]) -> AsyncGenerator[tuple[int, Event]]:
    found: asyncio.Queue[tuple[int, Event] | None] = asyncio.Queue()

    async def pump(number: int, chain: Chain) -> None:
        try:
            async with aclosing(chain.events()) as events:
                async for event in events:
                    found.put_nowait((number, event))
        finally:
            found.put_nowait(None)

    tasks = [asyncio.create_task(pump(number, chain)) for number, chain in enumerate(chains)]
    try:
        for _ in tasks:
            while (numbered := await found.get()) is not None:
                yield numbered
            for task in tasks:
                if task.done():
                    task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


def _reuses(wanted: Wanted) -> bool:
    """What a cache has is not decoded, and so has no logits."""
    return wanted.reuses and wanted.n_prompt_logprobs is None


def _engine(canister: Canister, caller: str) -> Engine:
    access.check(canister, caller, GENERATE.access)
    return loaded_engine(canister)


def loaded_engine(canister: Canister) -> Engine:
    """NotFound: no model is loaded. NotSupported: it makes no answers."""
    if canister.model.engine is None:
        raise NotFound("No model is loaded. Call load_model first.")
    canister.model.engine.check_use("chat")
    return canister.model.engine


def replay(wanted: Wanted, keeper: Keeper) -> Iterator[Event]:
    """The events of a kept answer, as they came while it was made. The seed of `wanted` is known."""
    taken, text = keeper.taken, AnswerText(wanted.stops)
    if taken is None:
        return
    yield from scored_of(keeper)
    yield Ingested(taken.n_prompt, taken.n_cached, taken.n_prompt - taken.n_remaining, taken.prompt_seconds)
    yield from pieces_of(text, answer_of(keeper))
    if taken.finish is not None:
        yield from last_of(text)
        yield taken.answered(taken.finish, text.stop, wanted.seed or 0)


async def prompt_tokens_of(canister: Canister, caller: str, prompt: Prompt) -> list[int]:
    """The tokens of a prompt, for Wanted. Raises what `answer` would refuse it for."""
    found: list[int] = (await prompt_tokens(_engine(canister, caller), prompt)).tolist()
    return found


async def prompt_tokens(engine: Engine, prompt: Prompt) -> Tokens:
    """The tokens of a prompt that leaves room for an answer."""
    n_ctx, n_vocab = engine.info.n_ctx, engine.info.n_vocab
    parts: Sequence[int | str] = (prompt,) if isinstance(prompt, str) else prompt
    found: list[int] = []
    for index, part in enumerate(parts):
        if isinstance(part, str):
            n, tokens = await _tokenized(engine, part, is_first=index == 0)
            if len(found) + n >= n_ctx:
                raise ContextExceeded(len(found) + n, n_ctx)
            found += tokens
        elif 0 <= part < n_vocab:
            found.append(part)
        else:
            raise BadRequest(f"{part} is no token: the vocabulary has those from 0 to {n_vocab - 1}")
    if not found:
        raise BadRequest("The prompt is empty")
    if len(found) >= n_ctx:
        raise ContextExceeded(len(found), n_ctx)
    return np.array(found, np.int32)


async def _tokenized(engine: Engine, text: str, *, is_first: bool) -> tuple[int, list[int]]:
    """How many tokens a text has, and which, if they fit the context."""

    def tokenized() -> tuple[int, list[int]]:
        # Too many are let go of by the thread: even that takes its time.
        tokens = engine.tokenize(text, add_bos=is_first)
        return len(tokens), tokens if len(tokens) < engine.info.n_ctx else []

    return await asyncio.to_thread(tokenized) if len(text) >= LONG_PROMPT_CHARACTERS else tokenized()
