"""A canister as it is watched: lines of events, and of its log."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from canister.server.doors import events
from tests.server.served import Served, served

pytestmark = pytest.mark.anyio

BASE = "/canisters/llama_cpp"


@pytest.fixture(scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    async with served(tmp_path_factory.mktemp("events")) as started:
        yield started


@asynccontextmanager
async def watching(client: httpx.AsyncClient, query: str = "") -> AsyncIterator[AsyncIterator[dict[str, Any]]]:
    async with client.stream("GET", f"{BASE}/events{query}") as response:
        assert response.status_code == 200
        assert response.headers["content-type"] == "application/x-ndjson"

        async def lines() -> AsyncIterator[dict[str, Any]]:
            async for line in response.aiter_lines():
                yield json.loads(line)

        yield lines()


async def with_calls(lines: AsyncIterator[dict[str, Any]]) -> dict[str, Any]:
    async for line in lines:
        if line["calls"]:
            return line
    raise AssertionError("the stream ended")


async def test_calls_are_told_from_a_cursor_on(server: Served) -> None:
    async with server.client() as client:
        async with watching(client) as lines:
            first = await anext(lines)
            assert first["calls"] == []  # what was before is in the call log
            assert first["engine"]["model"] is None
            assert first["work"] == {"running": [], "waiting": []}
            for level in (1, 0):
                await client.post(f"{BASE}/set_access", json={"level": level})
            told = await with_calls(lines)
        newest = (await client.post(f"{BASE}/get_call_log", json={"max_entries": 2})).json()
        newest = newest.get("Ok", newest)
        async with watching(client, f"?since={first['at']}") as lines:
            again = await with_calls(lines)
        assert [call["method"] for call in again["calls"]] == ["set_access", "set_access"]
        assert again["calls"][::-1] == newest
        assert told["calls"][0] == again["calls"][0]
        assert again["at"] == newest[0]["id"]
        assert "missed" not in again


async def test_a_line_comes_with_the_commit(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "STEP_SECONDS", 600)  # nothing else makes one within the test
    async with server.client() as client, watching(client) as lines:
        await anext(lines)
        for level in (1, 0):
            await client.post(f"{BASE}/set_access", json={"level": level})
            assert [call["method"] for call in (await with_calls(lines))["calls"]] == ["set_access"]


async def test_one_line_alone_for_who_can_have_no_stream(server: Served) -> None:
    async with server.client() as client, server.client("poller") as poller:
        first = (await client.get(f"{BASE}/events?stream=false")).json()
        assert (first["calls"], first["engine"]["model"]) == ([], None)
        await client.post(f"{BASE}/set_access", json={"level": 1})
        then = (await client.get(f"{BASE}/events?stream=false&since={first['at']}")).json()
        assert [call["method"] for call in then["calls"]] == ["set_access"]
        assert (await poller.get(f"{BASE}/events?stream=false")).json()["calls"] == []
        await client.post(f"{BASE}/set_access", json={"level": 0})
        assert (await poller.get(f"{BASE}/events?stream=false&since=0")).json() == {"at": 0, "calls": []}
        wrong = await client.get(f"{BASE}/events?stream=maybe")
        assert (wrong.status_code, "maybe" in wrong.text) == (400, True)


async def test_others_see_their_own_calls_alone(server: Served) -> None:
    async with server.client("watcher") as watcher, server.client() as client:
        await client.post(f"{BASE}/set_access", json={"level": 1})
        async with watching(watcher, "?since=0") as lines:
            first = await anext(lines)
        assert first == {"at": 0, "calls": []}
    async with httpx.AsyncClient(base_url=server.url) as anonymous:
        assert (await anonymous.get(f"{BASE}/events")).status_code == 401


async def test_what_is_no_cursor_is_told(server: Served) -> None:
    async with server.client() as client:
        for wrong in ("x", "-1", "9" * 40, ""):
            response = await client.get(f"{BASE}/events?since={wrong}")
            assert (response.status_code, "since" in response.text) == (400, True)
        assert (await client.head(f"{BASE}/events")).status_code == 200
        assert (await client.post(f"{BASE}/events")).status_code == 405


async def test_a_caller_watches_so_many_times_at_once(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "MAX_PER_CALLER", 1)
    async with server.client("many") as client, watching(client) as lines:
        await anext(lines)
        refused = await client.get(f"{BASE}/events")
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "2")


async def test_the_log_is_for_controllers(server: Served) -> None:
    async with server.client() as client, server.client("stranger") as stranger:
        assert isinstance((await client.get(f"{BASE}/logs?since=3")).json()["lines"], list)
        assert (await stranger.get(f"{BASE}/logs")).status_code in (401, 403)
