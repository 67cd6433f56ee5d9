"""A method of the interface, found by its name and run at once. Its argument is decoded after the guard."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from pydantic import BaseModel

from canister.api.methods import BY_NAME, Method, Mode
from canister.dispatch.execute import Prepare, Recorder, Reply, Terms, admit, run
from canister.dispatch.turns import due_of, place_for, turn
from canister.errors import MethodNotFound
from canister.errors.nearest import nearest
from canister.handlers.bindings import HANDLERS
from canister.runtime.call import Call

if TYPE_CHECKING:
    from canister.runtime.call import OnText
    from canister.runtime.canister import Canister

NOTHING: Mapping[str, object] = MappingProxyType({})


def find_method(canister: Canister, name: str, mode: Mode = "update") -> Method:
    """The row of the interface table. MethodNotFound names the nearest. Queries can be called as updates as well."""
    method = BY_NAME.get(name)
    if method is None or (mode == "query" and method.mode != "query"):
        near = None if name in BY_NAME else nearest(name, BY_NAME)
        hint = f" Did you mean '{near}'?" if near else ""
        raise MethodNotFound(f"Error from Canister {canister.id}: Canister has no {mode} method '{name[:100]}'.{hint}")
    return method


async def execute(
    canister: Canister,
    method: Method,
    caller: str,
    decode: Callable[[], object],
    record: Recorder | None = None,
    on_text: OnText | None = None,
    named: Mapping[str, object] = NOTHING,
    prepare: Prepare | None = None,
) -> Reply:
    """Run one method, when it is its caller's turn. Raises Trap for a reject.

    decode: makes the argument from what the door received, after the guard, and only if the method takes one. It may be
    asynchronous.
    record: for updates; not called when nothing is committed.
    on_text: gets the text of a run while it runs, provisional until the reply.
    named: what the handler takes beside the argument, such as the name of a chat in a path, or the host.
    prepare: sees the call before it begins.
    """
    place = place_for(canister, method.access, caller)
    if place.is_granted:  # there is nothing to wait for
        try:
            due = due_of(canister)
            return await execute_in_turn(canister, method, caller, decode, record, due, on_text, named, prepare)
        finally:
            place.leave()
    async with turn(canister, method, place) as due:
        return await execute_in_turn(canister, method, caller, decode, record, due, on_text, named, prepare)


async def execute_in_turn(
    canister: Canister,
    method: Method,
    caller: str,
    decode: Callable[[], object],
    record: Recorder | None,
    due: float | None,
    on_text: OnText | None = None,
    named: Mapping[str, object] = NOTHING,
    prepare: Prepare | None = None,
) -> Reply:
    """As `execute`, for a call that has waited for its turn already. due: its deadline."""
    handler = HANDLERS[method.name]

    async def handle(call: Call) -> object:
        admit(call, method)
        call.on_text = on_text
        if method.arg is None:
            value = await handler(call, **named)
        else:
            arg = decode()
            if inspect.isawaitable(arg):  # for it is large
                arg = await arg
                call.request_bytes = await asyncio.to_thread(argument_bytes, arg)
            else:
                call.request_bytes = argument_bytes(arg)
            call.argument = arg
            value = await handler(call, arg, **named)
        if record is not None and call.is_update:
            record(call.tx, Reply(value, charge=call.charge()))
        return value

    terms = Terms(is_update=method.mode == "update", err=method.err, record=record, due=due, prepare=prepare)
    return await run(canister, method.name, caller, handle, terms)


def receipted(call: Call) -> None:
    """A `Prepare`: the call has a receipt, also if it is a query."""
    call.wants_receipt = True


def argument_bytes(value: object) -> int:
    """Size of an argument by its contents: the same through every door, whatever form it came in."""
    if isinstance(value, str):
        return len(value) if value.isascii() else len(value.encode(errors="surrogatepass"))
    if isinstance(value, bytes):
        return len(value)
    if isinstance(value, BaseModel):
        return sum(map(argument_bytes, vars(value).values()))
    if isinstance(value, dict):
        return sum(map(argument_bytes, [*value, *value.values()]))
    if isinstance(value, list):
        n_bytes = 0
        for item in value:  # a list of flags is what most calls have
            is_plain = type(item) is str and item.isascii()
            n_bytes += len(item) if is_plain else argument_bytes(item)
        return n_bytes
    return 0 if value is None else 8
