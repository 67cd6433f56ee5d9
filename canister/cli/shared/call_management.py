"""`canister call aaaaa-aa …`: messages to the management canister, about a canister of this server."""

from __future__ import annotations

from types import NoneType
from typing import TYPE_CHECKING

import typer

from canister.cli.shared.message import Argument, CallReply, OutputFormat, print_reject, print_reply

if TYPE_CHECKING:
    from canister.api.methods import Method
    from canister.client.agent import Agent

ID = "aaaaa-aa"


def find(name: str, *, as_query: bool) -> Method:
    """The row of a method. Raises typer.BadParameter, which says why a method of the IC is missing here."""
    from canister.api import management
    from canister.errors import MethodNotFound

    try:
        return management.find_method(name, "query" if as_query else "update")
    except MethodNotFound as error:
        known = ", ".join(row.name for row in management.METHODS)
        raise typer.BadParameter(f"{error}; it has {known}") from None


async def send(
    agent: Agent, method: Method, given: Argument, output: OutputFormat | None, *, as_document: bool, as_query: bool
) -> int:
    """Call it, print the reply and return the exit code."""
    from canister.api import codec
    from canister.client.agent import MANAGEMENT_ID
    from canister.client.errors import Rejected

    arg = codec.args_from_json(method, given.value) if given.is_json else given.value
    is_json = given.is_json and output is None and not as_document
    call = agent.query if as_query else agent.update
    async with agent:
        try:
            id = await _subject(agent, arg)
            reply = await call(MANAGEMENT_ID, method.name, codec.encode_args(method, arg), effective_id=id)
        except Rejected as error:
            return print_reject(error, is_json=is_json)
    if method.ok is NoneType:
        print("null" if is_json else "()")
        return 0
    value = codec.decode_reply(method, reply).value
    return print_reply(CallReply(method, value, is_err=False), output, as_document=as_document, is_json=is_json)


async def _subject(agent: Agent, arg: object) -> bytes:
    """The canister that a message is about. For one that makes a canister, any canister of the server."""
    from canister.ic import principal

    named = getattr(arg, "canister_id", None)
    if named is not None:
        return principal.from_text(named)
    return next(iter((await agent.canister_ids()).values()))
