"""`canister herd serve` answers as `canister serve` does, from several workers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from canister.api.management import TopUpRecord
from canister.cli.shared.managing import manage, status_of, text_of
from canister.client.agent import Agent
from canister.client.local_server import LocalServer
from canister.ic.identity import Identity
from canister.system.data_dir import CONTROLLER_IDENTITY
from tests.harness import CHAT_MODEL
from tests.herd.herds import QUESTIONS, chat, client_of, herd_process, wait_ready

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    flags = ("-m", str(CHAT_MODEL), "--threads", "1", "--slots", "2")
    with LocalServer(tmp_path_factory.mktemp("alone"), *flags) as server:
        yield server


@pytest.fixture(scope="module")
def herd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    with herd_process(tmp_path_factory.mktemp("herd")) as server:
        yield server


def calling(http: httpx.AsyncClient) -> Any:
    async def call(method: str, arg: object) -> Any:
        response = await http.post(f"/canisters/llama_cpp/{method}", json=arg)
        assert response.status_code == 200, response.text
        return {"cost": response.headers.get("x-ic-instructions"), **response.json()["Ok"]}

    return call


async def test_chats_are_those_of_a_single_server(alone: LocalServer, herd: LocalServer) -> None:
    """Records and costs of four chats at once, word for word."""
    async with client_of(alone) as one, client_of(herd) as many:
        await wait_ready(one)
        await wait_ready(many)
        names = [f"same{i}" for i in range(len(QUESTIONS))]
        pairs = list(zip(names, QUESTIONS, strict=True))
        wanted = [await chat(calling(one), name, question) for name, question in pairs]
        found = await asyncio.gather(*(chat(calling(many), name, question) for name, question in pairs))
        for of_one, of_herd in zip(wanted, found, strict=True):
            caller = one.headers["authorization"]
            assert caller
            assert _without_principal(of_herd) == _without_principal(of_one)


def _without_principal(records: list[Any]) -> list[Any]:
    """new_chat names the folder of its caller, who differs."""
    return [{**record, "output": record["output"].rpartition("/")[2]} for record in records]


async def test_openai_clients_are_answered_by_a_worker(alone: LocalServer, herd: LocalServer) -> None:
    """Whole, in pieces as they come, and refused: as a single server does."""
    body = {"model": "any", "messages": [{"role": "user", "content": QUESTIONS[0]}], "seed": 7, "max_tokens": 20}
    said, streamed, refused, prompts = [], [], [], []
    for server in (alone, herd):
        async with client_of(server) as http:
            await wait_ready(http)
            answer = await http.post("/v1/chat/completions", json=body)
            assert answer.status_code == 200, answer.text
            said.append(answer.json()["choices"][0]["message"]["content"])
            async with http.stream("POST", "/v1/chat/completions", json={**body, "stream": True}) as response:
                assert response.headers["content-type"].startswith("text/event-stream")
                lines = [line async for line in response.aiter_lines() if line.startswith("data: {")]
            assert len(lines) > 3
            chunks = [json.loads(line.removeprefix("data: ")) for line in lines]
            pieces = [choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"]]
            streamed.append("".join(pieces))
            wrong = await http.post("/v1/chat/completions", json={**body, "temperature": "hot"})
            refused.append((wrong.status_code, wrong.json()["error"]["param"]))
            anonymous = await http.post("/v1/chat/completions", json=body, headers={"Authorization": ""})
            assert anonymous.status_code == 401  # nobody becomes the herd by coming through it
            template = await http.post("/canisters/llama_cpp/apply-template", json={"messages": body["messages"]})
            prompts.append(template.json()["prompt"])
    assert said[0] == said[1] == streamed[0] == streamed[1] != ""
    assert refused == [(400, "temperature")] * 2
    assert prompts[0] == prompts[1]
    assert QUESTIONS[0] in prompts[0]


async def test_the_engine_is_that_of_a_worker(herd: LocalServer) -> None:
    async with client_of(herd) as http:
        await wait_ready(http)
        told = (await http.get("/canisters/llama_cpp/engine")).json()
        assert told["file"]["name"].rpartition("/")[2] == CHAT_MODEL.name
        assert told["model"]  # architecture, size and quantization
        refused = await http.get("/canisters/llama_cpp/engine", headers={"Authorization": ""})
        assert refused.status_code == 401  # as in front of a single server


async def test_a_named_chat_and_its_cache_are_removed_together(herd: LocalServer) -> None:
    async with client_of(herd) as http:
        await wait_ready(http)
        said = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]}
        put = await http.put("/canisters/llama_cpp/chats/mine", json=said)
        assert put.status_code == 200, put.text
        flags = ["--prompt-cache", "chat-mine", "--prompt-cache-all", "-p", "Hi", "-n", "2"]
        assert (await http.post("/canisters/llama_cpp/run_update", json={"args": flags})).status_code == 200
        removed = await http.delete("/canisters/llama_cpp/chats/mine")
        assert removed.status_code == 200, removed.text
        assert (await http.get("/canisters/llama_cpp/chats")).json()["chats"] == []
        gone = await http.post(
            "/canisters/llama_cpp/remove_prompt_cache", json={"args": ["--prompt-cache", "chat-mine"]}
        )
        assert "not found" in gone.json()["Ok"]["output"]


async def test_old_chats_leave_the_journal_as_they_leave_a_single_server(alone: LocalServer, herd: LocalServer) -> None:
    """And a call of one that is gone begins anew, also where a worker still has its copy."""
    flags = ["--prompt-cache", "old.cache", "--prompt-cache-all", "-p", QUESTIONS[0], "-n", "3", "--seed", "7"]
    told = []
    for server in (alone, herd):
        async with client_of(server) as http:
            await wait_ready(http)
            call = calling(http)
            said = [await call("run_update", {"args": flags}) for _ in range(2)]
            kept = (await call("cache_cleanup_now", None))["files_deleted"]
            assert (await call("run_update", {"args": flags}))["n_prompt_tokens_cached"] > 0
            await call("set_cache_cleanup_config", {"ttl_seconds": 0})
            assert (await call("cache_cleanup_now", None))["files_deleted"] >= 1
            await call("set_cache_cleanup_config", {"ttl_seconds": 86_400})
            again = await call("run_update", {"args": flags})
            assert again["conversation"] == said[0]["conversation"]
            told.append((said, kept, again))
    assert told[0] == told[1]


async def test_cycles_are_those_of_the_journal(herd: LocalServer) -> None:
    """What the management canister tells, and what is given there."""
    async with client_of(herd) as http:
        await wait_ready(http)
        call = calling(http)
        await call("cycle_balance_start_timer", None)
        identity = Identity.from_pem((herd.data_dir / CONTROLLER_IDENTITY).read_bytes())
        async with Agent(herd.url, identity) as agent:
            id = (await agent.canister_ids())["llama_cpp"]
            before = (await status_of(agent, id)).cycles
            arg = TopUpRecord(canister_id=text_of(id), amount=10**15)
            await manage(agent, id, "provisional_top_up_canister", arg)
            after = (await status_of(agent, id)).cycles
        assert before + 10**15 - 10**12 < after <= before + 10**15  # asking costs a little
        told = (await call("get_cycle_balance", None))["cycle_balance"]
        assert after - 10**12 < told <= after


async def test_the_door_tells_of_queue_workers_and_money(herd: LocalServer) -> None:
    async with client_of(herd) as http:
        await wait_ready(http)
        await calling(http)("run_update", {"args": ["-p", "Hi", "-n", "2"]})
        told: dict[str, str] = {}
        while told.get('canister_herd_workers{state="ready"}') != "2.0":  # each comes when it has loaded its model
            lines = (await http.get("/metrics")).text.splitlines()
            told = dict(line.rsplit(" ", 1) for line in lines if line.startswith("canister_herd"))
            await asyncio.sleep(0.05)
        assert float(told["canister_herd_epoch"]) == 1
        assert float(told['canister_herd_workers{state="silent"}']) == 0
        assert float(told['canister_herd_jobs_total{outcome="settled"}']) >= 1
        assert float(told['canister_herd_queue_jobs{multiplier="1"}']) == 0
        assert float(told['canister_herd_money{kind="held"}']) == 0
        assert 'canister_herd_moves_total{way="decode"}' in told
        assert 'canister_herd_objects_total{operation="created"}' in told
