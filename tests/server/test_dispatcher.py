"""Every door works in front of anything that is a `Dispatcher`: it asks for nothing that the protocol does not have."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from canister import dispatch
from canister.api import codec, management
from canister.api.records import InputRecord, MaxTokensRecord
from canister.client.errors import Refused
from canister.client.ic import IcCanister
from canister.dispatch.dispatcher import Answers, Dispatcher, OpenFile, Target
from canister.runtime.host import Host
from canister.server.app import app_for
from canister.system import server_proof
from tests.server.ic_door import SOMEBODY, Door

pytestmark = pytest.mark.anyio


class Narrow:
    """Has of an object what a protocol has, and nothing else; so have the targets and files that it gives."""

    def __init__(self, whole: object, protocol: type) -> None:
        self._whole = whole
        self._names = {name for name in vars(protocol) if not name.startswith("_")}

    def __getattr__(self, name: str) -> Any:
        if name not in self._names:
            raise AssertionError(f"a door asked for {name}, which no protocol has")
        return _narrowed(getattr(self._whole, name))


def _narrowed(value: Any) -> Any:
    if isinstance(value, dispatch.local.LocalTarget):
        return Narrow(value, Target)
    if isinstance(value, dispatch.local.LocalAnswers):
        return Narrow(value, Answers)
    if isinstance(value, dispatch.streams.FileStream):
        return Narrow(value, OpenFile)
    if isinstance(value, list):
        return [_narrowed(one) for one in value]
    if asyncio.iscoroutine(value):
        return _awaited(value)
    if callable(value) and getattr(value, "__self__", None) is not None:
        return lambda *args, **named: _narrowed(value(*args, **named))
    return value


async def _awaited(value: Any) -> Any:
    return _narrowed(await value)


@pytest.fixture
def behind(host: Host) -> Narrow:
    return Narrow(dispatch.of_host(host), Dispatcher)


@pytest.fixture
async def http(host: Host, behind: Narrow) -> AsyncIterator[httpx.AsyncClient]:
    """The controller, with a key."""
    transport = httpx.ASGITransport(app=app_for(behind), raise_app_exceptions=True)  # type: ignore[arg-type]
    headers = {"Authorization": f"Bearer {host.key_path.read_text().strip()}"}
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost", headers=headers) as client:
        yield client


async def test_pages(http: httpx.AsyncClient) -> None:
    for path in ("/", "/readyz", "/metrics", "/canisters", "/openapi.json"):
        assert (await http.get(path)).status_code == 200, path
    for path in ("", "/calls", "/engine", "/props", "/chats", "/models", "/files/"):
        assert (await http.get(f"/canisters/second{path}")).status_code in (200, 404), path
    assert (await http.get("/canisters/nobody")).status_code == 404
    assert (await http.get(server_proof.PATH, params={"nonce": "0" * 64})).status_code == 200


async def test_methods_over_rest(http: httpx.AsyncClient) -> None:
    assert (await http.post("/whoami")).status_code == 200
    limits = {"max_tokens_update": 5, "max_tokens_query": 6}
    assert (await http.post("/canisters/second/set_max_tokens", json=limits)).json() == {"Ok": {"status_code": 200}}
    lines = await http.post(
        "/canisters/second/run_update", json={"args": ["-p", "a"]}, headers={"Accept": "application/x-ndjson"}
    )
    assert "Err" in lines.json()  # no model is loaded
    assert (await http.post("/no_such_method")).status_code == 404


async def test_the_openai_door(http: httpx.AsyncClient) -> None:
    models = await http.get("/v1/models")
    assert models.status_code in (200, 404), models.text
    question = {"messages": [{"role": "user", "content": "Hi"}], "model": "second"}
    answer = await http.post("/v1/chat/completions", json=question, headers={"Idempotency-Key": "narrow"})
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "model_not_found", answer.text
    assert (await http.get("/v1/responses/resp_0")).status_code == 404


async def test_files_as_streams(http: httpx.AsyncClient) -> None:
    where = "/canisters/llama_cpp/files/narrow.bin"
    assert (await http.put(where, content=b"0123456789")).status_code == 200
    part = await http.get(where, headers={"Range": "bytes=2-4"})
    assert (part.status_code, part.content) == (206, b"234")
    assert (await http.get(f"{where}.not")).status_code == 404
    assert (await http.delete(where)).status_code == 200


async def test_the_ic_door(host: Host, http: httpx.AsyncClient) -> None:
    owner = host.identity
    transport = http._transport
    async with IcCanister("http://localhost", "llama_cpp", owner, transport=transport) as client:
        await client.set_max_tokens(MaxTokensRecord(max_tokens_update=7, max_tokens_query=8))
        assert (await client.get_max_tokens()).value.max_tokens_update == 7
        with pytest.raises(Refused, match="load_model"):
            await client.run_update(InputRecord(args=["-p", "a"]))


async def test_methods_that_know_the_server(host: Host, http: httpx.AsyncClient) -> None:
    door = Door(host, http, host.default)
    row = management.find_method("provisional_create_canister_with_cycles")
    assert row.is_of_server
    arg = codec.encode_args(row, management.ProvisionalCreateRecord())
    document = await door.send("call", door.content("call", canister_id=b"", method_name=row.name, arg=arg), SOMEBODY)
    assert document["status"] == "replied", document
    assert len(host.canisters) == 3


def test_a_host_has_all_that_the_protocol_wants(host: Host) -> None:
    found: Dispatcher = dispatch.of_host(host)  # mypy holds it
    assert {target.name for target in found.targets} >= {"llama_cpp", "second"}
    assert found.default.name == "llama_cpp"
