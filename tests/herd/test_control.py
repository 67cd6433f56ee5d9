"""The control log: what is set, uploaded and loaded through the door holds at every worker, also at one that comes
later, and after a start of the herd.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from canister.herd.tries import Tries
from canister.herd.workers import Worker
from tests.harness import CHAT_MODEL
from tests.herd.herds import InProcess, herd_in
from tests.herd.test_paid import open_with_money
from tests.traces import until

pytestmark = pytest.mark.anyio

GREEDY = ["-p", "hello", "-n", "4", "--temp", "0.0"]


@pytest.fixture(scope="module")
async def herd(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[InProcess]:
    async with herd_in(tmp_path_factory.mktemp("herd")) as herd:
        yield herd


async def everywhere(herd: InProcess) -> None:
    """Wait until every worker has run the whole log."""
    id = herd.host.default.id
    await until(lambda: all(worker.revs.get(id, 0) == herd.herd.control.rev(id) for worker in herd.workers))


async def at(worker: Worker, caller: str, method: str, body: bytes = b"null") -> Any:
    """What a worker itself answers to a caller."""
    headers = {"Content-Type": "application/json"}
    async with worker.client.passed_on("POST", f"/canisters/llama_cpp/{method}", body, headers, caller) as answer:
        return await answer.json()


async def test_access_roles_and_limits_hold_at_every_worker(herd: InProcess) -> None:
    (client,) = await open_with_money(herd, "user", units=1)
    known = herd.host.keys.get("user")
    assert known is not None
    await herd.call("set_max_tokens", {"max_tokens_update": 9, "max_tokens_query": 5})
    role = {"principal": known.principal, "role": {"AdminQuery": None}, "note": "reads"}
    assigned = await herd.post("assignAdminRole", role)
    assert assigned.status_code == 200, assigned.text
    await everywhere(herd)
    for worker in herd.workers:
        assert await at(worker, known.principal, "get_max_tokens") == {"max_tokens_update": 9, "max_tokens_query": 5}
        assert (await at(worker, known.principal, "get_access"))["Ok"]["level"] == 1
    assert (await client.get("/canisters/llama_cpp/check_access")).status_code == 200
    await herd.call("set_max_tokens", {"max_tokens_update": 0, "max_tokens_query": 0})


async def test_who_may_not_is_refused_before_anything_is_logged(herd: InProcess) -> None:
    before = herd.herd.control.rev(herd.host.default.id)
    anonymous = httpx.AsyncClient(transport=herd.http._transport, base_url="http://localhost")
    response = await anonymous.post("/canisters/llama_cpp/set_access", json={"level": 1})
    assert response.status_code == 401
    response = await herd.post("set_access", {"level": "all"})
    assert response.status_code == 400
    assert herd.herd.control.rev(herd.host.default.id) == before


async def test_an_uploaded_file_is_at_every_worker(herd: InProcess) -> None:
    """In blocks, some of them in the objects, since they are larger than the log takes."""
    data = os.urandom(2_500_000)
    put = await herd.http.put("/canisters/llama_cpp/files/models/data.bin", content=data)
    assert put.status_code == 200, put.text
    assert put.json()["Ok"]["filesize"] == len(data)
    assert (await herd.http.get("/canisters/llama_cpp/files/models/data.bin")).content == data
    await everywhere(herd)
    told = b'{"filename": "models/data.bin"}'
    for worker in herd.workers:
        details = await at(worker, herd.host.identity.principal, "uploaded_file_details", told)
        assert details["Ok"]["filesha256"] == hashlib.sha256(data).hexdigest()
    assert (await herd.http.delete("/canisters/llama_cpp/files/models/data.bin")).status_code == 200
    await everywhere(herd)
    for worker in herd.workers:
        assert "Err" in await at(worker, herd.host.identity.principal, "uploaded_file_details", told)


async def test_controllers_are_those_of_the_door_everywhere(herd: InProcess) -> None:
    """update_settings goes through the log too, or new controllers would be refused by the workers."""
    key = herd.host.keys.create("second", replace=True)
    known = herd.host.keys.get("second")
    assert known is not None
    canister = herd.host.default
    await herd.set_controllers([herd.host.identity.principal, known.principal])
    await everywhere(herd)
    headers = {"Authorization": f"Bearer {key}"}
    client = httpx.AsyncClient(transport=herd.http._transport, base_url="http://localhost", headers=headers)
    response = await client.post(
        "/canisters/llama_cpp/set_max_tokens", json={"max_tokens_update": 0, "max_tokens_query": 0}
    )
    assert response.status_code == 200, response.text
    assert known.principal in canister.controllers
    for worker in herd.workers:
        assert (await at(worker, known.principal, "getAdminRoles"))["Ok"] is not None


async def test_saved_chats_calls_and_cycles_are_those_of_the_journal(herd: InProcess) -> None:
    (client,) = await open_with_money(herd, "chatter", units=1)
    await herd.call("chats_resume")
    flags = ["--prompt-cache", "saved.cache", "--prompt-cache-all"]
    for method, args in (("new_chat", flags), ("run_update", [*flags, "-p", "hello", "-n", "3"])):
        response = await client.post(f"/canisters/llama_cpp/{method}", json={"args": args})
        assert response.status_code == 200, response.text
    chats = (await client.get("/canisters/llama_cpp/get_chats")).json()["Ok"]["chats"]
    assert len(chats) == 1
    assert "hello" in chats[0]["chat"]
    caches = (await client.get("/canisters/llama_cpp/caches")).json()
    assert [(cache["name"], cache["tokens"] > 3) for cache in caches["caches"]] == [("saved.cache", True)]
    assert (await herd.http.get("/canisters/llama_cpp/caches")).json()["n_caches"] == 0  # another caller
    calls = (await client.post("/canisters/llama_cpp/get_call_log", json={})).json()["Ok"]
    assert [call["method"] for call in calls] == ["run_update", "new_chat"]
    await herd.call("cycle_balance_start_timer")
    reading = (await herd.http.get("/canisters/llama_cpp/get_cycle_balance")).json()["Ok"]["cycle_balance"]
    assert reading == await herd.herd.journal.cycles(herd.host.default.id)
    await herd.call("chats_pause")
    assert (await client.get("/canisters/llama_cpp/get_chats")).status_code == 409


async def test_a_model_that_was_loaded_is_not_loaded_again(herd: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody got to know that it was. Who asks again with the same key gets the answer of a worker that has run it."""
    arg, canister, ends = {"args": ["--model", "models/none.gguf"]}, herd.host.default.id, asyncio.Event()

    async def never(*_: object) -> Any:
        ends.set()
        await asyncio.Event().wait()

    with monkeypatch.context() as patch:
        patch.setattr(Tries, "settle", never)
        call = asyncio.ensure_future(herd.post("load_model", arg, "model"))
        await ends.wait()
        call.cancel()
        await asyncio.wait([call])
    await everywhere(herd)
    rev = await herd.herd.journal.control_rev(canister)
    answer = await herd.post("load_model", arg, "model")
    assert "none.gguf" in answer.text
    assert (await herd.post("load_model", arg, "model")).json() == answer.json()
    assert await herd.herd.journal.control_rev(canister) == rev


async def test_a_worker_that_comes_back_runs_what_it_missed(herd: InProcess) -> None:
    worker = herd.workers[0]
    os.kill(worker.ref.pid, signal.SIGKILL)
    await until(lambda: worker.is_lost)
    await herd.call("set_max_tokens", {"max_tokens_update": 4, "max_tokens_query": 4})
    await herd.ready(2)
    await everywhere(herd)
    for one in herd.workers:
        limits = await at(one, herd.host.identity.principal, "get_max_tokens")
        assert limits == {"max_tokens_update": 4, "max_tokens_query": 4}


async def test_a_model_that_is_uploaded_and_loaded_through_the_door(tmp_path: Path) -> None:
    """The herd begins without one; then the log brings it to every worker, also at its next start."""
    async with herd_in(tmp_path, model=None) as herd:
        refused = await herd.post("run_update", {"args": ["-p", "hello", "-n", "2"]})
        assert "No model is loaded" in refused.text
        put = await herd.http.put("/canisters/llama_cpp/files/models/tiny.gguf", content=CHAT_MODEL.read_bytes())
        assert put.status_code == 200, put.text
        loaded = await herd.call("load_model", {"args": ["--model", "models/tiny.gguf"]})
        assert loaded["status_code"] == 200
        await until(lambda: all(w.state and w.state.canisters[0].model for w in herd.workers))
        texts = await asyncio.gather(*(herd.call("run_query", {"args": GREEDY}) for _ in range(4)))
        assert len({text["output"] for text in texts}) == 1
    async with herd_in(tmp_path, model=None) as herd:
        await until(lambda: all(w.state and w.state.canisters[0].model for w in herd.workers))
        assert (await herd.call("run_query", {"args": GREEDY}))["output"] == texts[0]["output"]
