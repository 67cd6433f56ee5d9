"""Messages about a canister, to the management canister and to the state tree, for several commands."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

import typer

if TYPE_CHECKING:
    from canister.api.management import CanisterStatus
    from canister.api.record_types import Record
    from canister.cli.shared.connection import Connection
    from canister.client.agent import Agent

T = TypeVar("T")

NOT_CONTROLLER = "IC0512"


def run(agent: Agent, work: Callable[[Agent], Awaitable[T]]) -> T:
    async def run() -> T:
        async with agent:
            return await work(agent)

    return asyncio.run(run())


async def manage(agent: Agent, id: bytes, name: str, arg: Record) -> Any:
    """Call a method of the management canister that is about this canister."""
    from canister.api import codec, management
    from canister.client.agent import MANAGEMENT_ID

    method = management.find_method(name)
    reply = await agent.update(MANAGEMENT_ID, name, codec.encode_args(method, arg), effective_id=id)
    return None if method.ok is type(None) else codec.decode_reply(method, reply).value


async def status_of(agent: Agent, id: bytes) -> CanisterStatus:
    from canister.api.management import CanisterIdRecord

    found: CanisterStatus = await manage(agent, id, "canister_status", CanisterIdRecord(canister_id=text_of(id)))
    return found


def text_of(id: bytes) -> str:
    from canister.ic import principal

    return principal.to_text(id)


async def the_only(agent: Agent) -> str:
    """The name of the server's canister, where it has one. Raises typer.BadParameter where it has several."""
    names = list(await agent.canister_ids())
    if len(names) != 1:
        raise typer.BadParameter(f"which canister? This server has: {', '.join(names)}.")
    return names[0]


# -- the report


async def report_of(agent: Agent, canister: str | None, server: Connection) -> dict[str, Any]:
    """What is known of a canister, None: the only one. For a caller who does not control it, what is public."""
    from canister.client.errors import Rejected

    canister = canister or await the_only(agent)
    id = await agent.id_of(canister)
    report: dict[str, Any] = {"id": text_of(id), "name": canister}
    try:
        found = await status_of(agent, id)
    except Rejected as error:
        if error.error_code != NOT_CONTROLLER:
            raise
        return {**report, "settings": {"controllers": await public_controllers(agent, id)}}
    document = found.model_dump(mode="json", exclude={"module_hash"})
    document["status"] = found.status.value.capitalize()
    report |= {**document, "module_hash": None if found.module_hash is None else "0x" + found.module_hash.hex()}
    engine = await _engine(server, report["id"])
    return report if engine is None else {**report, "engine": engine}


async def _engine(server: Connection, canister_id: str) -> dict[str, Any] | None:
    """How the model runs. None when the key at hand does not permit that, or another server answers."""
    from canister.client.errors import ClientError
    from canister.client.rest import Canister

    async with Canister(server.url, canister_id, server.api_key) as client:
        try:
            return await client.engine()
        except ClientError:
            return None


async def public_controllers(agent: Agent, id: bytes) -> list[str]:
    from canister.client.errors import ProtocolError
    from canister.ic import cbor, hash_tree, principal

    path = (b"canister", id, b"controllers")
    value = hash_tree.leaf(await agent.read_state(id, [path]), *path) or b""
    try:
        controllers = cbor.decode(value)
        if isinstance(controllers, list):
            return sorted(principal.to_text(item) for item in controllers if isinstance(item, bytes))
    except (cbor.CborError, principal.PrincipalError):
        pass
    raise ProtocolError(f"{agent.url} names no controllers of {text_of(id)}")
