"""The agent against a real server: bytes in, bytes out, and answers that must not be believed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from canister.api import codec
from canister.api.management import CanisterIdRecord, find_method
from canister.api.methods import BY_NAME
from canister.api.records import MaxTokensRecord
from canister.client.agent import MANAGEMENT_ID, Agent, CertificateError
from canister.client.errors import ProtocolError, Rejected, Unreachable
from canister.client.local_server import LocalServer
from canister.ic import cbor, hash_tree, principal
from canister.ic.certificate import RootKey
from canister.ic.identity import Identity
from tests.client.test_ic import Meddler

pytestmark = pytest.mark.anyio

ID_TEXT = principal.canister_id(0)
ID = principal.from_text(ID_TEXT)
LIMITS = codec.encode_args(BY_NAME["set_max_tokens"], MaxTokensRecord(max_tokens_update=0, max_tokens_query=0))
NOTHING = b"DIDL\0\0"


def controller(server: LocalServer) -> Identity:
    return Identity.from_pem((server.data_dir / "controller.pem").read_bytes())


@pytest.fixture
async def agent(running_server: LocalServer) -> AsyncIterator[Agent]:
    async with Agent(running_server.url, controller(running_server)) as agent:
        yield agent


async def test_messages(agent: Agent, running_server: LocalServer) -> None:
    assert agent.principal == controller(running_server).principal
    reply = await agent.query(ID, "whoami", NOTHING)
    assert codec.decode_reply(BY_NAME["whoami"], reply).value == agent.principal
    reply = await agent.update(ID, "set_max_tokens", LIMITS)
    assert codec.decode_reply(BY_NAME["set_max_tokens"], reply).value.status_code == 200


async def test_the_anonymous_caller(running_server: LocalServer) -> None:
    async with Agent(running_server.url) as agent:
        reply = await agent.query(ID, "whoami", NOTHING)
        assert codec.decode_reply(BY_NAME["whoami"], reply).value == agent.principal == principal.ANONYMOUS
        assert codec.decode_reply(BY_NAME["set_max_tokens"], await agent.update(ID, "set_max_tokens", LIMITS)).is_err


async def test_the_management_canister(agent: Agent) -> None:
    arg = codec.encode_args(find_method("canister_status"), CanisterIdRecord(canister_id=ID_TEXT))
    reply = await agent.update(MANAGEMENT_ID, "canister_status", arg, effective_id=ID)
    assert agent.principal in codec.decode_reply(find_method("canister_status"), reply).value.settings.controllers
    with pytest.raises(ValueError, match="needs the id"):
        await agent.update(MANAGEMENT_ID, "canister_status", arg)


async def test_an_update_that_is_polled(tmp_path: Path) -> None:
    with LocalServer(tmp_path / "data", "--sync-call-seconds", "0") as server:
        async with Agent(server.url, controller(server)) as agent:
            reply = await agent.update(ID, "set_max_tokens", LIMITS)
            assert not codec.decode_reply(BY_NAME["set_max_tokens"], reply).is_err


async def test_rejects(agent: Agent) -> None:
    for ask in (agent.update, agent.query):
        with pytest.raises(Rejected, match="no_such_method") as caught:
            await ask(ID, "no_such_method", NOTHING)
        assert caught.value.error_code == "IC0536"
    with pytest.raises(Rejected) as caught:
        await agent.update(ID, "set_max_tokens", b"no candid")
    assert (caught.value.reject_code, caught.value.error_code) == (5, "IC0503")
    with pytest.raises(Rejected, match=r"Canister .* not found"):
        await agent.update(principal.from_text(principal.canister_id(9)), "health", NOTHING)


async def test_names_and_ids(agent: Agent) -> None:
    assert await agent.id_of("llama_cpp") == await agent.id_of(ID_TEXT) == ID
    with pytest.raises(Rejected, match=r"'llama' not found\. This server has: llama_cpp"):
        await agent.id_of("llama")


async def test_read_state(agent: Agent) -> None:
    path = (b"canister", ID, b"controllers")
    tree = await agent.read_state(ID, [path])
    assert principal.from_text(agent.principal) in cbor.decode(hash_tree.leaf(tree, *path) or b"")  # type: ignore[operator]


async def test_whom_to_believe(running_server: LocalServer, agent: Agent) -> None:
    true_key = await agent.root_key()
    async with Agent(running_server.url, root_key=true_key) as pinned:
        await pinned.query(ID, "health", NOTHING)
    async with Agent(running_server.url, root_key=RootKey.generate().public_key_der) as deceived:
        for ask in (deceived.update, deceived.query):
            with pytest.raises(CertificateError, match="certificate that does not hold"):
                await ask(ID, "health", NOTHING)


async def test_a_server_elsewhere_needs_its_key(running_server: LocalServer, agent: Agent) -> None:
    async def relay(request: httpx.Request) -> httpx.Response:
        url = f"{running_server.url}{request.url.path}"
        headers = {name: value for name, value in request.headers.items() if name != "host"}
        async with httpx.AsyncClient() as http:
            answer = await http.request(request.method, url, content=request.content, headers=headers)
        return httpx.Response(answer.status_code, content=answer.content)

    elsewhere, transport = "https://canisters.example.org", httpx.MockTransport(relay)
    async with Agent(elsewhere, transport=transport) as unsure:
        with pytest.raises(CertificateError, match="--root-key"):
            await unsure.query(ID, "health", NOTHING)
    async with Agent(elsewhere, root_key=await agent.root_key(), transport=transport) as sure:
        await sure.query(ID, "health", NOTHING)


def change_reply(document: Any) -> None:
    document["reply"] = {"arg": b"DIDL\0\1\x71\0"}


def change_time(document: Any) -> None:
    document["signatures"][0]["timestamp"] += 1


def drop_signatures(document: Any) -> None:
    del document["signatures"]


def change_node(document: Any) -> None:
    document["signatures"][0]["identity"] = b"\1"


@pytest.mark.parametrize("change", [change_reply, change_time, drop_signatures, change_node])
async def test_answers_that_were_changed(running_server: LocalServer, change: Any) -> None:
    async with Agent(running_server.url, transport=Meddler("/query", change)) as agent:
        with pytest.raises(CertificateError):
            await agent.query(ID, "health", NOTHING)


async def test_a_certificate_that_was_changed(running_server: LocalServer) -> None:
    def change(document: Any) -> None:
        document["certificate"] = document["certificate"].replace(b"DIDL", b"DIDM")

    async with Agent(running_server.url, transport=Meddler("/call", change)) as agent:
        with pytest.raises(CertificateError):
            await agent.update(ID, "set_max_tokens", LIMITS)


async def test_a_call_that_takes_too_long() -> None:
    # 202 for ever: the call is never done.
    transport = httpx.MockTransport(lambda request: httpx.Response(202))
    async with Agent("http://127.0.0.1:1", timeout_seconds=0.2, transport=transport) as agent:
        with pytest.raises(Unreachable, match=r"to health within 0\.2 s"):
            await agent.update(ID, "health", NOTHING)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (httpx.Response(200, content=b"hello"), ProtocolError),
        (httpx.Response(200, content=cbor.encode([1])), ProtocolError),
        (httpx.Response(200, content=cbor.encode({"status": "replied"})), ProtocolError),
        (httpx.Response(503, text="draining"), Rejected),
    ],
)
async def test_answers_of_something_else(answer: httpx.Response, error: type[Exception]) -> None:
    async with Agent("http://127.0.0.1:1", transport=httpx.MockTransport(lambda request: answer)) as agent:
        with pytest.raises(error):
            await agent.query(ID, "health", NOTHING)
