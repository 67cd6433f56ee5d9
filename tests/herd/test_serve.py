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
    """Whole, in pieces, and refused: as a single server does."""
    body = {"model": "any", "messages": [{"role": "user", "content": QUESTIONS[0]}], "seed": 7, "max_tokens": 20}
    said, streamed, refused = [], [], []
    for server in (alone, herd):
        async with client_of(server) as http:
            await wait_ready(http)
            answer = await http.post("/v1/chat/completions", json=body)
            assert answer.status_code == 200, answer.text
            said.append(answer.json()["choices"][0]["message"]["content"])
            lines = (await http.post("/v1/chat/completions", json={**body, "stream": True})).text.split("\n\n")
            chunks = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]
            pieces = [choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"]]
            streamed.append("".join(pieces))
            wrong = await http.post("/v1/chat/completions", json={**body, "temperature": "hot"})
            refused.append((wrong.status_code, wrong.json()["error"]["param"]))
    assert said[0] == said[1] == streamed[0] == streamed[1] != ""
    assert refused == [(400, "temperature")] * 2
