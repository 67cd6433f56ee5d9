"""The management canister: what a controller may do with a canister, and what that does to its callers."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from canister import management, wire
from canister.config import Settings
from canister.host import Host
from canister.ic import cbor, envelope, hash_tree, principal
from canister.ic.identity import Identity
from canister.interface import Method
from canister.management import CanisterIdRecord, CanisterSettings, TopUpRecord, UpdateSettingsRecord
from canister.server.app import create_app, running
from tests.server.ic_door import SOMEBODY, Door, Sender

pytestmark = pytest.mark.anyio

ROWS = {method.name: method for method in management.METHODS}


class Rejected(Exception):
    pass


async def manage(door: Door, name: str, value: Any, sender: Sender, kind: str = "call") -> Any:
    """What a method of the management canister replied. Raises Rejected with code and text."""
    row: Method | None = ROWS.get(name)
    arg = b"DIDL\0\0" if row is None else wire.encode_args(row, value)
    content = door.content(kind, canister_id=b"", method_name=name, arg=arg, nonce=f"{id(value)}".encode())
    document = await door.send(kind, content, sender)
    if kind == "query":
        assert document["status"] == "replied"
        return wire.decode_reply(row, document["reply"]["arg"]).value  # type: ignore[arg-type]
    if document["status"] == "non_replicated_rejection":
        raise Rejected(f"{document['error_code']} {document['reject_message']}")
    _, request_id = envelope.seal(content, sender)
    tree = door.checked(document)

    def field(name: bytes) -> bytes:
        return hash_tree.leaf(tree, b"request_status", request_id, name) or b""

    if field(b"status") == b"rejected":
        raise Rejected(f"{field(b'error_code').decode()} {field(b'reject_message').decode()}")
    return None if field(b"reply") == b"DIDL\0\0" else wire.decode_reply(row, field(b"reply")).value  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["call", "query"])
async def test_status(door: Door, kind: str) -> None:
    status = await manage(
        door, "canister_status", CanisterIdRecord(canister_id=door.canister.id), door.host.identity, kind
    )
    assert status.status.value == "running"
    assert status.settings.controllers == [door.host.identity.principal]
    assert status.cycles == door.canister.ledger.cycles or kind == "call"


@pytest.mark.parametrize("name", ["canister_status", "start_canister", "stop_canister"])
async def test_only_controllers(door: Door, name: str) -> None:
    for sender in (SOMEBODY, None):
        text = f"IC0512 Only controllers of canister {door.canister.id} can call ic00 method {name}"
        with pytest.raises(Rejected, match=text):
            await manage(door, name, CanisterIdRecord(canister_id=door.canister.id), sender)


async def test_cycles(door: Door) -> None:
    before = door.canister.ledger.cycles
    await manage(
        door, "provisional_top_up_canister", TopUpRecord(canister_id=door.canister.id, amount=10**15), SOMEBODY
    )
    assert door.canister.ledger.cycles > before + 10**14 * 9


async def test_another_canister_than_the_url_says(door: Door) -> None:
    other = door.host.canisters[1].id
    with pytest.raises(Rejected, match="but the effective canister id is"):
        await manage(door, "canister_status", CanisterIdRecord(canister_id=other), door.host.identity)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "install_code",
            "IC0515 Management canister has no update method 'install_code': every canister of this server",
        ),
        ("raw_rand", "IC0515 Management canister has no update method 'raw_rand'$"),
    ],
)
async def test_what_is_not_there(door: Door, name: str, text: str) -> None:
    with pytest.raises(Rejected, match=text):
        await manage(door, name, None, door.host.identity)


async def test_stop_and_start(door: Door) -> None:
    target = CanisterIdRecord(canister_id=door.canister.id)
    await manage(door, "stop_canister", target, door.host.identity)
    document = await door.send("query", door.message("query", "health"))
    assert (document["error_code"], document["reject_message"]) == ("IC0508", f"Canister {door.canister.id} is stopped")
    document = await door.send("call", door.message("call", "health"))
    assert (document["status"], document["error_code"]) == ("non_replicated_rejection", "IC0508")
    status = await manage(door, "canister_status", target.model_copy(), door.host.identity)
    assert status.status.value == "stopped"
    await manage(door, "start_canister", target, door.host.identity)
    assert (await door.send("query", door.message("query", "health")))["status"] == "replied"


async def test_stop_waits_for_running_calls(door: Door) -> None:
    running_call = asyncio.create_task(asyncio.sleep(0.2))
    door.canister._calls[object()] = running_call  # type: ignore[index]
    stopping = asyncio.create_task(
        manage(door, "stop_canister", CanisterIdRecord(canister_id=door.canister.id), door.host.identity)
    )
    await asyncio.sleep(0.1)
    document = await door.send("query", door.message("query", "health"))
    assert document["error_code"] == "IC0509"
    await stopping
    assert running_call.done()
    door.canister._calls.clear()
    await manage(door, "start_canister", CanisterIdRecord(canister_id=door.canister.id), door.host.identity)


async def test_controllers_are_durable(tmp_path: Path) -> None:
    new = Identity.generate()

    async def with_door(host: Host, work: Any) -> None:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=create_app(host)), base_url="http://s") as http:
            await work(Door(host, http, host.default))

    async def hand_over(door: Door) -> None:
        settings = CanisterSettings(controllers=[new.principal], wasm_memory_limit=4_000_000_000)
        arg = UpdateSettingsRecord(canister_id=door.canister.id, settings=settings)
        await manage(door, "update_settings", arg, door.host.identity)
        await check(door)

    async def check(door: Door) -> None:
        target = CanisterIdRecord(canister_id=door.canister.id)
        with pytest.raises(Rejected, match="IC0512"):
            await manage(door, "canister_status", target, door.host.identity)
        status = await manage(door, "canister_status", target, new)
        assert status.settings.controllers == [new.principal]
        assert status.settings.wasm_memory_limit == 4_000_000_000
        tree = await door.tree([[b"canister", door.id, b"controllers"]])
        known = cbor.decode(hash_tree.leaf(tree, b"canister", door.id, b"controllers") or b"")
        assert known == [principal.from_text(new.principal)]

    for work in (hand_over, check):
        async with running(Host(Settings(data_dir=tmp_path))) as host:
            await with_door(host, work)


async def test_controllers_that_are_refused(door: Door) -> None:
    many = [Identity.generate().principal for _ in range(11)]
    for controllers, text in ((many, "at most 10"), ([principal.ANONYMOUS], "anonymous")):
        arg = UpdateSettingsRecord(canister_id=door.canister.id, settings=CanisterSettings(controllers=controllers))
        with pytest.raises(Rejected, match=text):
            await manage(door, "update_settings", arg, door.host.identity)
