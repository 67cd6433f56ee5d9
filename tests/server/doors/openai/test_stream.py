"""Streams: their silences, their failures, and clients that go away in the midst of them."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from canister.server.doors.openai import stream
from canister.server.http import listener
from tests.server.doors.openai.conftest import connected
from tests.server.served import Served, served
from tests.traces import until

pytestmark = pytest.mark.anyio

ASK: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Who are you?"}]
ENDLESS: dict[str, Any] = {"ignore_eos": True, "temperature": 0}


@pytest.fixture
async def own(tmp_path: Path) -> AsyncIterator[Served]:
    """A server of a test's own, whose settings it may change."""
    async with served(tmp_path, with_model=True) as started:
        yield started


def n_running(server: Served) -> int:
    engine = server.host.default.model.engine
    assert engine is not None
    return engine.stats().n_running + engine.stats().n_waiting + server.host.default.n_calls


async def endless(client: openai.AsyncOpenAI) -> openai.AsyncStream[Any]:
    """A stream whose text has begun."""
    found = await client.chat.completions.create(model="x", messages=ASK, stream=True, extra_body=ENDLESS)
    async for chunk in found:
        if chunk.choices[0].delta.content:
            return found
    raise AssertionError("no text came")


async def test_silences_are_broken_by_comments_that_clients_skip(
    client: openai.AsyncOpenAI, server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "QUIET_SECONDS", 0.000_1)  # any wait is a silence
    body = {"messages": ASK, "stream": True, "max_tokens": 30, "temperature": 0}
    async with server.client("bob") as bob:
        events = (await bob.post("/v1/chat/completions", json=body)).text.split("\n\n")
    assert events.count(":") > 1
    assert all(event.startswith("data: ") for event in events if event not in (":", ""))
    chunks = await client.chat.completions.create(model="x", messages=ASK, stream=True, max_tokens=30, temperature=0)
    text = "".join([chunk.choices[0].delta.content or "" async for chunk in chunks])
    told = [json.loads(event[6:]) for event in events if event.startswith("data: {")]
    assert text == "".join(part["choices"][0]["delta"].get("content") or "" for part in told)


async def test_a_request_may_do_without_comments(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "QUIET_SECONDS", 0.000_1)
    body = {"messages": ASK, "stream": True, "max_tokens": 30, "sse_ping_interval": -1}
    async with server.client("bob") as bob:
        assert ":" not in (await bob.post("/v1/chat/completions", json=body)).text.split("\n\n")


async def test_a_failure_in_the_midst_is_the_last_event(own: Served) -> None:
    canister = own.host.default
    canister.settings = canister.settings.model_copy(update={"balance_policy": "enforce"})
    async with connected(own, "alice") as client:
        answer = await endless(client)
        canister.ledger.committed(-canister.ledger.cycles + 1000)
        with pytest.raises(openai.APIError, match="out of cycles") as told:
            async for _ in answer:
                pass
    assert (told.value.code, told.value.type) == ("IC0207", "insufficient_quota")


async def test_no_done_comes_after_a_failure(own: Served) -> None:
    canister = own.host.default
    canister.settings = canister.settings.model_copy(update={"balance_policy": "enforce"})
    body = {"messages": ASK, "stream": True, **ENDLESS}
    async with own.client("bob") as bob, bob.stream("POST", "/v1/chat/completions", json=body) as answer:
        lines = answer.aiter_lines()
        while '"content":"' not in await anext(lines):
            pass
        canister.ledger.committed(-canister.ledger.cycles + 1000)
        rest = [line async for line in lines if line]
    assert json.loads(rest[-1].removeprefix("data: "))["error"]["code"] == "IC0207"


async def test_the_end_of_the_server_is_told(own: Served) -> None:
    async with connected(own, "alice") as client:
        answer = await endless(client)
        own.host.default.running_calls.cancel()
        with pytest.raises(openai.APIError, match="server is stopping"):
            async for _ in answer:
                pass


async def test_streams_that_outlast_the_servers_time_to_drain_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "CLOSING_SECONDS", 0)
    held = AsyncExitStack()
    own = await held.enter_async_context(served(tmp_path, with_model=True))
    async with connected(own, "alice") as client, own.client("carol") as http:
        answer = await endless(client)

        async def rest() -> None:
            async for _ in answer:
                pass

        async def events_of_a_stored_answer() -> list[str]:
            body = {"input": "Who are you?", "stream": True, **ENDLESS}
            async with http.stream("POST", "/v1/responses", json=body) as told:
                return [line async for line in told.aiter_lines() if line.startswith("data: ")]

        stored = asyncio.create_task(events_of_a_stored_answer())
        reading = asyncio.create_task(rest())
        await until(lambda: own.host.default.n_calls > 1)
        await held.aclose()
        with pytest.raises(openai.APIError, match="server is stopping"):
            await reading
        last = json.loads((await stored)[-1].removeprefix("data: "))
    assert (last["type"], last["code"]) == ("error", "server_error")  # not response.failed: it can be gone on with


async def test_a_client_that_goes_away_ends_its_answer(server: Served, client: openai.AsyncOpenAI) -> None:
    answer = await endless(client)
    assert n_running(server)
    await answer.close()
    await until(lambda: not n_running(server))


async def test_a_client_that_goes_away_before_a_whole_answer_is_there(server: Served) -> None:
    async with server.client("bob") as bob:
        asked = asyncio.create_task(bob.post("/v1/chat/completions", json={"messages": ASK, **ENDLESS}))
        await until(lambda: n_running(server) > 0)
        asked.cancel()
        await asyncio.wait([asked])
    await until(lambda: not n_running(server))


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_a_client_that_only_stops_sending_is_one_that_goes_away(server: Served, is_streamed: bool) -> None:
    """As with every other call: uvicorn takes the half of a connection for all of it."""
    key = server.host.keys.create("dave", replace=True)
    body = json.dumps({"messages": ASK, "stream": is_streamed, **ENDLESS}).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode()
    reader, writer = await asyncio.open_connection(*server.address)
    writer.write(head + body)
    await until(lambda: n_running(server) > 0)
    sock: socket.socket = writer.get_extra_info("socket")
    sock.shutdown(socket.SHUT_WR)
    await until(lambda: not n_running(server))
    writer.close()
    await writer.wait_closed()
    del reader
