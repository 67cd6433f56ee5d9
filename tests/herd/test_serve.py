"""`canister herd serve` answers as `canister serve` does, from several workers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from canister.client.local_server import LocalServer
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
