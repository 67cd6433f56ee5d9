"""The herd's own process: killed and started again, and two that would lead."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from canister.api import codec
from canister.api.methods import BY_NAME
from canister.api.records import InputRecord
from canister.herd import herd as herds
from canister.herd.journal.journal import Journal
from canister.herd.launch.folder import GENERATION
from canister.herd.settings import WORKERS
from canister.ic import cbor, envelope, hash_tree, principal
from canister.ic.identity import Identity
from canister.system.data_dir import LOCK, FolderLock
from tests.herd.herds import PROMPT, client_of, herd_in, herd_process, wait_ready

pytestmark = pytest.mark.anyio

LONG = ["-p", PROMPT.format("Who are you?"), "--temp", "0.9", "--seed", "7", "-n", "600", "--ignore-eos"]
SHORT = ["-p", PROMPT.format("Who are you?"), "--temp", "0.9", "--seed", "7", "-n", "12"]


async def test_a_herd_that_is_killed_and_started_again(tmp_path: Path) -> None:
    """The same key gets the same answer, whether the herd had answered it, or was killed while it ran."""
    with herd_process(tmp_path) as server:
        async with client_of(server) as http:
            await wait_ready(http, workers=2)
            chat = ["--prompt-cache", "c.cache", "--prompt-cache-all"]
            first = await _run(http, [*chat, *SHORT], "one")
            assert await _run(http, [*chat, *SHORT], "one") == first
            running = asyncio.create_task(_run(http, [*chat, *LONG], "two"))
            await asyncio.sleep(0)
            await until_it_runs(http)
            server.kill()
            with pytest.raises(httpx.TransportError):
                await running
        workers = [tmp_path / WORKERS / name for name in ("w1", "w2")]
        for folder in workers:  # the kernel has ended them, or is just about to
            FolderLock(folder / LOCK).wait_for_orphan()
        server.start()
        async with client_of(server) as http:
            await wait_ready(http, workers=2)
            assert await _run(http, [*chat, *SHORT], "one") == first
            second = await _run(http, [*chat, *LONG], "two")
            assert await _run(http, [*chat, *LONG], "two") == second
            calls = (await http.post("/canisters/llama_cpp/get_call_log", json={})).json()["Ok"]
            assert [call["method"] for call in calls] == ["run_update", "run_update"]
        for folder in workers:
            assert int((folder / GENERATION).read_text()) == 2


async def until_it_runs(http: httpx.AsyncClient) -> None:
    while True:
        if (await http.get("/herd/status")).json()["jobs"]["running"]:
            return
        await asyncio.sleep(0.01)


async def _run(http: httpx.AsyncClient, args: list[str], key: str) -> Any:
    response = await http.post("/canisters/llama_cpp/run_update", json={"args": args}, headers={"Idempotency-Key": key})
    assert response.status_code == 200, response.text
    return response.json()


class IcCaller:
    """A caller of the IC's door of a running server, by raw messages."""

    def __init__(self, http: httpx.AsyncClient, canister_id: str) -> None:
        self.http = http
        self.id = principal.from_text(canister_id)
        self.identity = Identity.generate()
        self.principal = self.identity.principal

    async def send(self, method: str, arg: object) -> tuple[bytes, int, bytes]:
        """Returns the id of the request, the status, and what to send again."""
        content = {
            "request_type": "call",
            "ingress_expiry": time.time_ns() + 240 * 10**9,
            "canister_id": self.id,
            "method_name": method,
            "arg": codec.encode_args(BY_NAME[method], arg),
        }
        body, id = envelope.seal(content, self.identity)
        return id, await self.send_again(body), body

    async def send_again(self, body: bytes) -> int:
        response = await self.http.post(f"/api/v2/canister/{principal.to_text(self.id)}/call", content=body)
        return response.status_code

    async def status(self, id: bytes) -> tuple[str, bytes | None]:
        content = {
            "request_type": "read_state",
            "ingress_expiry": time.time_ns() + 240 * 10**9,
            "paths": [[b"request_status", id]],
        }
        body, _ = envelope.seal(content, self.identity)
        response = await self.http.post(f"/api/v2/canister/{principal.to_text(self.id)}/read_state", content=body)
        assert response.status_code == 200, response.text
        tree = hash_tree.from_value(cbor.decode(cbor.decode(response.content)["certificate"])["tree"])
        status = hash_tree.leaf(tree, b"request_status", id, b"status")
        return "" if status is None else status.decode(), hash_tree.leaf(tree, b"request_status", id, b"reply")

    async def ended(self, id: bytes) -> tuple[str, bytes | None]:
        while True:
            found = await self.status(id)
            if found[0] in ("replied", "rejected"):
                return found
            await asyncio.sleep(0.05)


async def test_an_accepted_message_is_answered_by_the_next_leader(tmp_path: Path) -> None:
    """202 means that it is kept: the herd is killed right behind it, and answers at its next start, once."""
    with herd_process(tmp_path) as server:
        async with client_of(server) as http:
            await wait_ready(http)
            id = (await http.get("/canisters/llama_cpp")).json()["id"]
            caller = IcCaller(http, id)
            await _open_to(http)
            request, status, body = await caller.send("run_update", InputRecord(args=LONG))
            assert status == 202
            server.kill()
        server.start()
        async with client_of(server) as http:
            caller.http = http
            how, reply = await caller.ended(request)
            assert how == "replied"
            assert reply is not None
            answer = codec.decode_reply(BY_NAME["run_update"], reply)
            assert answer.value.n_tokens_generated > 100
            assert await caller.send_again(body) == 202
            assert (await caller.ended(request))[1] == reply
            calls = (await http.post("/canisters/llama_cpp/get_call_log", json={})).json()["Ok"]
            assert [call["caller"] for call in calls].count(caller.principal) == 1


async def test_queries_that_are_sent_as_updates_can_be_polled(tmp_path: Path) -> None:
    """Also those that the journal answers, and those that are refused."""
    with herd_process(tmp_path, workers=1) as server:
        async with client_of(server) as http:
            await wait_ready(http)
            caller = IcCaller(http, (await http.get("/canisters/llama_cpp")).json()["id"])
            await _open_to(http)
            for method, arg in (("get_chats", None), ("get_max_tokens", None), ("run_query", InputRecord(args=SHORT))):
                request, status, _ = await caller.send(method, arg)
                assert status == 202
                assert (await caller.ended(request))[0] == "replied", method
            elsewhere = InputRecord(args=["--model", "models/other.gguf", *SHORT])
            request, _, _ = await caller.send("run_update", elsewhere)
            how, reply = await caller.ended(request)
            assert (how, reply is None) == ("replied", False)
            answer = codec.decode_reply(BY_NAME["run_update"], reply or b"")
            assert answer.is_err
            assert "load_model loads one at every worker" in answer.value.error


async def _open_to(http: httpx.AsyncClient) -> None:
    """Let every named caller in."""
    response = await http.post("/canisters/llama_cpp/set_access", json={"level": 1})
    assert response.status_code == 200, response.text


async def test_two_that_lead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A leader that was followed by another one, and does not know it, changes nothing any more."""
    monkeypatch.setattr(herds, "RENEW_SECONDS", 3600.0)
    shared = {"journal": f"sqlite:///{tmp_path / 'shared.db'}", "objects": str(tmp_path / "objects")}
    chat = ["--prompt-cache", "c.cache", "--prompt-cache-all"]
    async with herd_in(tmp_path / "one", 1, herd=shared) as one:
        await _open_to(one.http)
        await one.call("run_update", {"args": [*chat, *SHORT]}, "first")
        other = await Journal.open(shared["journal"])
        assert await other.lead("another process", "http://test") is None
        await other.close()
        await one.herd.journal.resign()  # as a database does whose session with the leader is lost
        async with herd_in(tmp_path / "two", 1, herd=shared) as two:
            assert two.herd.leader.epoch == one.herd.leader.epoch + 1
            _, status, _ = await IcCaller(one.http, one.host.default.id).send("run_update", InputRecord(args=SHORT))
            assert status != 202  # nobody would run it
            assert await two.herd.journal.waiting() == []
            late = await one.post("run_update", {"args": [*chat, *SHORT]}, "second")
            assert late.status_code == 503
            assert late.json()["error_code"] == "IC0509"
            assert (await one.post("run_update", {"args": SHORT})).status_code == 503
            (known,) = await two.herd.journal.oldest_chats(two.host.default.id, 99)
            assert known.worker == "w1"
            calls = await two.herd.journal.call_log(two.host.default.id, None, None, 100)
            assert [call.method for call in calls] == ["run_update", "set_access"]
