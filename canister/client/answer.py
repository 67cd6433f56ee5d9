"""A whole answer from a canister: the calls of a chain, one after the other, and its text as it is decoded."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from canister.api.chain import Chain
from canister.api.records import InputRecord, RunOutputRecord
from canister.client.errors import Stuck
from canister.client.result import Piece, Result

if TYPE_CHECKING:
    from canister.client.methods import MethodCalls

Message = Mapping[str, object]


class Templates(Protocol):
    """A canister that applies its model's chat template."""

    async def document(self, verb: str, path: str, body: object = None) -> dict[str, Any]: ...


class Askable(Templates, Protocol):
    """The part of a canister that `ask` needs."""

    async def call(self, name: str, arg: object = None, *, timeout_seconds: float | None = None) -> Result[Any]: ...

    def stream(self, name: str, arg: object = None) -> AsyncGenerator[Piece | Result[Any]]: ...


@dataclass(frozen=True, slots=True)
class CallStep:
    """One run_update call. text: the piece of the answer that it gave; empty while the prompt goes in."""

    record: RunOutputRecord
    text: str
    milliseconds: float
    instructions: int | None
    cycles: int | None


async def run(canister: MethodCalls | Askable, chain: Chain, *, streams: bool = True) -> AsyncGenerator[str | CallStep]:
    """Make the calls of a chain. Yields pieces of its text as they come, and a CallStep behind each call.

    streams: ask for the text while a call runs. Without it, a call's text and costs come with its end. Raises
    ClientError.
    """
    while (arg := chain.next()) is not None:
        n_before, is_shown = len(chain.answer), False
        start = time.perf_counter()
        async with aclosing(_call(canister, arg, streams=streams)) as parts:
            async for part in parts:
                if isinstance(part, Piece):
                    is_shown = True
                    text = chain.shown(part.text, is_echo=part.is_echo)
                else:
                    text = chain.took(part.value, is_shown=is_shown)
                if text:
                    yield text
                if isinstance(part, Result):
                    milliseconds = 1000 * (time.perf_counter() - start)
                    yield CallStep(part.value, chain.answer[n_before:], milliseconds, part.instructions, part.cycles)
    if chain.finish == "stuck":
        raise Stuck("The canister takes no more of the prompt.")


async def _call(
    canister: MethodCalls | Askable, arg: InputRecord, *, streams: bool
) -> AsyncGenerator[Piece | Result[RunOutputRecord]]:
    if not streams:
        yield await canister.call("run_update", arg)
        return
    async with aclosing(canister.stream("run_update", arg)) as parts:
        async for part in parts:
            yield part


async def ask(
    canister: Askable,
    messages: str | Sequence[Message],
    *,
    cache: str | None = None,
    flags: Sequence[str] = (),
    answer_tokens: int = 512,
    stops: Sequence[str] = (),
) -> AsyncGenerator[str]:
    """See `Canister.ask`."""
    said = [{"role": "user", "content": messages}] if isinstance(messages, str) else [*map(dict, messages)]
    prompt = str((await canister.document("POST", "apply-template", {"messages": said}))["prompt"])
    name = f"ask-{secrets.token_hex(8)}" if cache is None else cache
    held = InputRecord(args=["--prompt-cache", name])
    await canister.call("new_chat", held)
    try:
        async with aclosing(run(canister, Chain(prompt, name, answer_tokens, flags, stops))) as parts:
            async for part in parts:
                if isinstance(part, str):
                    yield part
    finally:
        if cache is None:
            await canister.call("remove_prompt_cache", held)
