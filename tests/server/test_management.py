"""The management canister: what a controller may do with a canister, and what that does to its callers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from canister.api import codec, management
from canister.api.management import (
    CanisterIdRecord,
    CanisterSettings,
    ProvisionalCreateRecord,
    TopUpRecord,
    UpdateSettingsRecord,
)
from canister.api.methods import Method
from canister.config import Settings
from canister.ic import cbor, envelope, hash_tree, principal
from canister.ic.identity import Identity
from canister.runtime.call import Call
from canister.runtime.host import Host
from canister.server.app import create_app, running
from canister.state.canisters import Birth
from tests.server.ic_door import SOMEBODY, Door, Sender

pytestmark = pytest.mark.anyio

ROWS = {method.name: method for method in management.METHODS}


class Rejected(Exception):
    pass


async def manage(door: Door, name: str, value: Any, sender: Sender, kind: str = "call") -> Any:
    """What a method of the management canister replied. Raises Rejected with code and text."""
    row: Method | None = ROWS.get(name)
    arg = b"DIDL\0\0" if row is None else codec.encode_args(row, value)
    content = door.content(kind, canister_id=b"", method_name=name, arg=arg, nonce=f"{id(value)}".encode())
    document = await door.send(kind, content, sender)
    if kind == "query":
        assert document["status"] == "replied"
        return codec.decode_reply(row, document["reply"]["arg"]).value  # type: ignore[arg-type]
    if document["status"] == "non_replicated_rejection":
        raise Rejected(f"{document['error_code']} {document['reject_message']}")
    _, request_id = envelope.seal(content, sender)
    tree = door.checked(document)

    def field(name: bytes) -> bytes:
        return hash_tree.leaf(tree, b"request_status", request_id, name) or b""

    if field(b"status") == b"rejected":
        raise Rejected(f"{field(b'error_code').decode()} {field(b'reject_message').decode()}")
    return None if field(b"reply") == b"DIDL\0\0" else codec.decode_reply(row, field(b"reply")).value  # type: ignore[arg-type]


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
    begun, release = asyncio.Event(), asyncio.Event()

    async def call() -> None:
        with door.canister.running(Call(door.canister, "health", "2vxsx-fae", is_update=False)):
            begun.set()
            await release.wait()

    running_call = asyncio.create_task(call())
    await begun.wait()
    stopping = asyncio.create_task(
        manage(door, "stop_canister", CanisterIdRecord(canister_id=door.canister.id), door.host.identity)
    )
    document: Any = {}
    async with asyncio.timeout(60):
        while "error_code" not in document:
            await asyncio.sleep(0.01)
            document = await door.send("query", door.message("query", "health"))
    assert document["error_code"] == "IC0509"
    assert not stopping.done()
    release.set()
    await stopping
    assert running_call.done()
    await manage(door, "start_canister", CanisterIdRecord(canister_id=door.canister.id), door.host.identity)


async def test_controllers_are_durable(tmp_path: Path) -> None:
    new = Identity.generate()

    async def with_door(host: Host, work: Any) -> None:
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app=create_app(host)), base_url="http://localhost"
        ) as http:
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


# -- making and deleting

CREATE = "provisional_create_canister_with_cycles"


@asynccontextmanager
async def served(data_dir: Path) -> AsyncIterator[Door]:
    async with running(Host(Settings(data_dir=data_dir))) as host:
        transport = httpx.ASGITransport(app=create_app(host))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
            yield Door(host, http, host.default)


async def create(door: Door, sender: Sender = SOMEBODY, **fields: Any) -> str:
    return str((await manage(door, CREATE, ProvisionalCreateRecord(**fields), sender)).canister_id)


async def listed(door: Door) -> set[str]:
    return {entry["id"] for entry in (await door.http.get("/canisters")).json()["canisters"]}


async def test_a_canister_is_made_and_stays(tmp_path: Path) -> None:
    controllers = [SOMEBODY.principal, Identity.generate().principal]
    async with served(tmp_path) as door:
        settings = CanisterSettings(controllers=controllers, freezing_threshold=77)
        made = await create(door, amount=5 * 10**12, settings=settings)
        plain = await create(door)
        assert (made, plain) == (principal.canister_id(1), principal.canister_id(2))
    for _ in range(2):
        async with served(tmp_path) as door:
            assert await listed(door) == {door.canister.id, made, plain}
            assert (await door.http.get(f"/canisters/{made}/health")).json() == {"Ok": {"status_code": 200}}
            other = Door(door.host, door.http, door.host.find(made))
            target = CanisterIdRecord(canister_id=made)
            status = await manage(other, "canister_status", target, SOMEBODY, "query")
            assert (status.settings.controllers, status.cycles) == (sorted(controllers), 5 * 10**12)
            assert status.settings.freezing_threshold == 77
            assert list(door.host.find(plain).controllers) == [SOMEBODY.principal]
            with pytest.raises(Rejected, match="IC0512"):
                await manage(other, "stop_canister", target, door.host.identity)


async def test_a_canister_is_deleted(tmp_path: Path) -> None:
    async with served(tmp_path) as door:
        gone, kept = await create(door), await create(door)
        other = Door(door.host, door.http, door.host.find(gone))
        folder = other.canister.folder

        async def delete(sender: Sender) -> None:
            await manage(other, "delete_canister", CanisterIdRecord(canister_id=gone), sender)

        with pytest.raises(Rejected, match=f"IC0510 Canister {gone} must be stopped before it is deleted"):
            await delete(SOMEBODY)
        await manage(other, "stop_canister", CanisterIdRecord(canister_id=gone), SOMEBODY)
        for sender in (None, door.host.identity):
            with pytest.raises(Rejected, match="IC0512"):
                await delete(sender)
        assert folder.is_dir()
        await delete(SOMEBODY)
        assert not folder.exists()
        document = await other.send("query", other.message("query", "health"))
        assert document["error_code"] == "IC0301"
        with pytest.raises(Rejected, match="IC0301"):
            await delete(SOMEBODY)
        assert await listed(door) == {door.canister.id, kept}
        folder.mkdir()  # as after a crash
    async with served(tmp_path) as door:
        assert not folder.exists()
        assert await listed(door) == {door.canister.id, kept}
        assert await create(door) == principal.canister_id(3)


async def test_what_is_named_in_the_settings_is_not_deleted(tmp_path: Path) -> None:
    async with served(tmp_path) as door:
        target = CanisterIdRecord(canister_id=door.canister.id)
        await manage(door, "stop_canister", target, door.host.identity)
        with pytest.raises(Rejected, match="named in the server's settings"):
            await manage(door, "delete_canister", target, door.host.identity)


async def test_who_may_not_make_a_canister(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with served(tmp_path) as door:
        with pytest.raises(Rejected, match="anonymous"):
            await create(door, None)
        monkeypatch.setattr("canister.runtime.host.MAX_CANISTERS", 1)
        with pytest.raises(Rejected, match="IC0102"):
            await create(door)
        assert len(door.host.canisters) == 1


async def test_a_message_makes_one_canister(tmp_path: Path) -> None:
    async with served(tmp_path) as door:
        arg = codec.encode_args(ROWS[CREATE], ProvisionalCreateRecord())
        body, request_id = envelope.seal(door.content("call", canister_id=b"", method_name=CREATE, arg=arg), SOMEBODY)
        for where in (door.id, door.id, b""):  # a call and its repetitions, by any effective canister id
            assert (await door.post("call", body, id=where)).status_code == 200
        # Also when a crash kept the canister and lost the answer.
        made = door.host.canisters[1]
        assert await door.host.create(request_id, Birth([SOMEBODY.principal], 0, {})) is made
        assert len(door.host.canisters) == 2
