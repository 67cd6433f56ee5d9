"""A whole answer inside the server: messages → prompt → a chain of bounded calls, its text as it is decoded.

Each call is admitted, metered, committed and logged like any other. Which comes next, and what of its output is the
answer, `api/chain.py` knows; `client.ask` makes the same calls from outside.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from canister.api.chain import Chain, Finish
from canister.api.records import InputRecord, RunOutputRecord
from canister.api.rest_only import APPLY_TEMPLATE
from canister.api.rest_records import ApplyTemplateInput, ApplyTemplateOutput
from canister.dispatch.requests import execute, find_method

if TYPE_CHECKING:
    from canister.dispatch.execute import Reply
    from canister.runtime.canister import Canister


@dataclass(frozen=True, slots=True)
class Wanted:
    """An answer to ask for. asked: messages, or the prompt that was made of them.

    cache: the prompt cache, of a conversation that goes on; None: nothing stays. answer_tokens: the longest answer.
    flags: llama.cpp's, of every call. stops: strings that end the answer, once they are in it.
    """

    asked: ApplyTemplateInput | str
    cache: str | None = None
    answer_tokens: int = 512
    flags: Sequence[str] = ()
    stops: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Answered:
    """How an answer ended, and what its calls took together. cycles: those that were charged."""

    text: str
    finish: Finish
    n_calls: int
    n_prompt_tokens: int
    n_generated_tokens: int
    instructions: int
    cycles: int


async def answer(canister: Canister, caller: str, wanted: Wanted) -> AsyncGenerator[str | Answered]:
    """The pieces of an answer as they are decoded, and Answered at the end.

    Closed early, the running call is cancelled. A piece is provisional until its call is committed. Raises Trap, and
    the CanisterError of a call that is refused.
    """
    prompt = wanted.asked if isinstance(wanted.asked, str) else await _prompt(canister, caller, wanted.asked)
    cache = f"answer-{secrets.token_hex(8)}" if wanted.cache is None else wanted.cache
    chain = Chain(prompt, cache, wanted.answer_tokens, wanted.flags, wanted.stops)
    n_calls = n_prompt = n_generated = instructions = cycles = 0
    try:
        while (arg := chain.next()) is not None:
            async with aclosing(_run(canister, caller, arg)) as parts:
                async for part in parts:
                    if isinstance(part, tuple):
                        text = chain.shown(part[0], is_echo=part[1])
                        if text:
                            yield text
                        continue
                    record = part.value
                    assert isinstance(record, RunOutputRecord)
                    chain.took(record, is_shown=True)
                    n_calls += 1
                    n_prompt = n_prompt or record.n_prompt_tokens or 0
                    n_generated += record.n_tokens_generated or 0
                    if part.charge is not None:
                        instructions += part.charge.instructions
                        cycles += part.charge.cycles
    finally:
        if wanted.cache is None:
            held = InputRecord(args=["--prompt-cache", cache])
            await execute(canister, find_method(canister, "remove_prompt_cache"), caller, lambda: held)
    assert chain.finish is not None
    yield Answered(chain.answer, chain.finish, n_calls, n_prompt, n_generated, instructions, cycles)


async def _prompt(canister: Canister, caller: str, messages: ApplyTemplateInput) -> str:
    reply = await execute(canister, APPLY_TEMPLATE, caller, lambda: messages)
    if reply.error is not None:
        raise reply.error
    assert isinstance(reply.value, ApplyTemplateOutput)
    return reply.value.prompt


async def _run(canister: Canister, caller: str, arg: InputRecord) -> AsyncGenerator[tuple[str, bool] | Reply]:
    """One run_update: pieces of its output, each with whether it is echoed, and its reply."""
    pieces: asyncio.Queue[tuple[str, bool] | None] = asyncio.Queue()

    def on_text(text: str, is_echo: bool) -> None:
        pieces.put_nowait((text, is_echo))

    method = find_method(canister, "run_update")
    call = asyncio.create_task(execute(canister, method, caller, lambda: arg, on_text=on_text))
    call.add_done_callback(lambda _: pieces.put_nowait(None))
    try:
        while (piece := await pieces.get()) is not None:
            yield piece
    finally:
        call.cancel()  # who listens has gone; else it is done
        await asyncio.wait([call])
    reply = call.result()
    if reply.error is not None:
        raise reply.error
    yield reply
