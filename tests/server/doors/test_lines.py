"""Runs as streams of lines: a real server, its model, and clients that read as it decodes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.server.served import CHAT, Served, served
from tests.traces import until

pytestmark = pytest.mark.anyio

LINES = {"Accept": "application/x-ndjson"}
PROMPT = CHAT.format("Who are you?")
ENDLESS = ["-p", "hello", "-n", "-1", "--temp", "0.0", "--ignore-eos", "--context-shift"]
OFTEN_CUT = "😀é€😀𝔘"  # in the shipped model's tokens, characters are cut


@pytest.fixture(scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    limits = {"instruction_limit": None, "query_instruction_limit": None}
    async with served(tmp_path_factory.mktemp("lines"), with_model=True, **limits) as found:
        async with found.client() as client:
            await client.post("/set_max_tokens", json={"max_tokens_update": 0, "max_tokens_query": 0})
        yield found


@pytest.fixture
async def client(server: Served) -> AsyncIterator[httpx.AsyncClient]:
    async with server.client() as made:
        yield made


async def streamed(client: httpx.AsyncClient, method: str, *args: str) -> tuple[httpx.Response, list[dict[str, Any]]]:
    response = await client.post(f"/{method}", json={"args": list(args)}, headers=LINES)
    return response, [json.loads(line) for line in response.text.splitlines()]


def n_running(server: Served) -> int:
    assert server.host.default.model.engine is not None
    stats = server.host.default.model.engine.stats()
    return stats.n_running + stats.n_waiting


@pytest.mark.parametrize("method", ["run_query", "run_update"])
async def test_texts_come_first_and_the_plain_answer_last(client: httpx.AsyncClient, method: str) -> None:
    args = ["-p", PROMPT, "-n", "12", "--temp", "0.0", "--seed", "1"]
    answer = await client.post(f"/{method}", json={"args": args})
    plain = answer.json()
    response, lines = await streamed(client, method, *args)
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/x-ndjson"
    cost = lines[-1].pop("cost")
    assert lines[-1] == plain
    assert ("none" if cost["limit"] is None else str(cost["limit"])) == answer.headers["x-ic-limit"]
    assert cost["instructions"] > 0
    assert "cycles" in cost
    assert [set(line) for line in lines[:-1]] == [{"text"}] * (len(lines) - 1)
    assert len(lines) > 1
    assert "".join(line["text"] for line in lines[:-1]) == plain["Ok"]["output"] != ""


async def test_characters_that_tokens_cut_come_whole(client: httpx.AsyncClient) -> None:
    args = ["-p", PROMPT, "-n", "40", "--temp", "0.0", "--grammar", f'root ::= "{OFTEN_CUT}"']
    _, lines = await streamed(client, "run_query", *args)
    texts = [line["text"] for line in lines[:-1]]
    assert lines[-1]["Ok"]["n_tokens_generated"] > len(texts)
    assert all(texts)
    assert "".join(texts) == lines[-1]["Ok"]["output"] == OFTEN_CUT


async def test_a_character_that_a_call_cuts_leads_the_next_one(client: httpx.AsyncClient) -> None:
    flags = ["--prompt-cache", "cut", "--prompt-cache-all", "--grammar", f'root ::= "{OFTEN_CUT}"', "--temp", "0.0"]
    await streamed(client, "run_update", "-p", PROMPT, "-n", "0", *flags)
    await client.post("/set_max_tokens", json={"max_tokens_update": 1, "max_tokens_query": 0})
    texts: list[str] = []
    is_over, n_calls = False, 0
    while not is_over:
        _, lines = await streamed(client, "run_update", "-p", "", *flags)
        assert "".join(line["text"] for line in lines[:-1]) == lines[-1]["Ok"]["output"]
        texts.append(lines[-1]["Ok"]["output"])
        is_over, n_calls = lines[-1]["Ok"]["generated_eog"], n_calls + 1
        assert n_calls < 100
    await client.post("/set_max_tokens", json={"max_tokens_update": 0, "max_tokens_query": 0})
    assert "" in texts[:-1]
    assert "".join(texts) == OFTEN_CUT


async def test_an_echoed_token_says_so(client: httpx.AsyncClient) -> None:
    _, lines = await streamed(client, "run_query", "-p", "a", "-n", "3", "--temp", "0.0")
    assert lines[-1]["Ok"]["n_prompt_tokens"] == 1
    assert lines[0] == {"text": "a", "echo": True}
    assert all("echo" not in line for line in lines[1:])
    assert "".join(line["text"] for line in lines[:-1]) == lines[-1]["Ok"]["output"]


async def test_what_says_nothing_is_one_line(client: httpx.AsyncClient) -> None:
    response, lines = await streamed(client, "run_query", "-p", PROMPT, "-n", "0")
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/x-ndjson"
    assert int(response.headers["x-ic-instructions"]) > 0
    assert len(lines) == 1
    assert lines[0]["Ok"]["output"] == ""


async def test_errors_before_the_first_text_keep_their_status(server: Served, client: httpx.AsyncClient) -> None:
    response, lines = await streamed(client, "run_query", "--nonsense")
    assert response.status_code == 400
    assert response.headers["content-type"] == "application/json"
    assert lines[0]["Err"]["error"].startswith("Cannot parse args.")
    async with httpx.AsyncClient(base_url=server.url) as anonymous:
        response, lines = await streamed(anonymous, "run_update", "-p", "x")
    assert response.status_code == 401
    assert lines == [response.json()]
    response = await client.post("/run_query", content=b"{", headers=LINES)
    assert response.status_code == 400
    assert "reject_code" in response.json()


async def test_other_methods_answer_as_ever(client: httpx.AsyncClient) -> None:
    response = await client.post("/health", headers=LINES)
    assert response.headers["content-type"] == "application/json"
    assert response.json() == {"Ok": {"status_code": 200}}


async def test_text_comes_while_the_call_runs_and_a_client_that_leaves_ends_it(
    server: Served, client: httpx.AsyncClient
) -> None:
    flags = ["--prompt-cache", "left", "--prompt-cache-all"]
    async with client.stream("POST", "/run_update", json={"args": [*ENDLESS, *flags]}, headers=LINES) as response:
        lines = response.aiter_lines()
        assert set(json.loads(await anext(lines))) == {"text"}
        assert n_running(server) == 1
    await until(lambda: n_running(server) == 0)
    _, lines_again = await streamed(client, "run_query", "-n", "0", "-p", "hello", *flags)
    assert lines_again[-1]["Ok"]["n_prompt_tokens_cached"] == 0


async def test_a_call_that_fails_after_its_first_text_ends_in_a_reject(tmp_path: Path) -> None:
    async with served(tmp_path, with_model=True, budget_policy="trap") as server, server.client() as client:
        await client.post("/set_max_tokens", json={"max_tokens_update": 0, "max_tokens_query": 0})
        response, lines = await streamed(client, "run_query", *ENDLESS)
        assert response.status_code == 200
        assert "text" in lines[0]
        assert lines[-1]["error_code"] == "IC0522"


async def test_a_server_that_stops_says_so_in_the_last_line(tmp_path: Path) -> None:
    limits = {"instruction_limit": None, "query_instruction_limit": None}
    lines: list[dict[str, Any]] = []
    async with served(tmp_path, with_model=True, drain_seconds=0.5, **limits) as server:
        client = server.client()
        await client.post("/set_max_tokens", json={"max_tokens_update": 0, "max_tokens_query": 0})

        async def listen() -> None:
            async with client.stream("POST", "/run_query", json={"args": ENDLESS}, headers=LINES) as response:
                async for line in response.aiter_lines():
                    lines.append(json.loads(line))

        task = asyncio.create_task(listen())
        await until(lambda: bool(lines))
    await task
    await client.aclose()
    assert "text" in lines[0]
    assert "the server is stopping" in lines[-1]["reject_message"]
