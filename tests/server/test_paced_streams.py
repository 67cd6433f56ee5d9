"""Uploads and downloads beside a chat through the real door: what waits, what does not, and that all get there."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import httpx
import pytest

from canister.runtime import host
from canister.runtime.stream_pacing import PIECE_BYTES
from tests.server.served import Served, served
from tests.traces import until

pytestmark = pytest.mark.anyio

URL = "/canisters/llama_cpp/files/"
N_PIECES = 6
DATA = bytes(range(256)) * (N_PIECES * PIECE_BYTES // 256)
ALL_CORES = 1024  # threads: at most one a core is taken
CHAT = {"args": ["--prompt-cache", "chat", "--prompt-cache-all", "--ignore-eos", "--seed", "7", "-p", "Hello"]}


class Chat:
    """Calls one after the other. n_answered: so far."""

    def __init__(self) -> None:
        self.n_answered = 0

    async def go_on(self, client: httpx.AsyncClient) -> None:
        while True:
            await client.post("/new_chat", json={"args": ["--prompt-cache", "chat"]})
            response = await client.post("/run_update", json=CHAT)
            assert response.status_code == 200, response.text
            self.n_answered += 1


@asynccontextmanager
async def chatting(server: Served) -> AsyncIterator[Chat]:
    """A chat that goes on and on."""
    chat = Chat()
    async with server.client() as client:
        task = asyncio.create_task(chat.go_on(client))
        try:
            await until(lambda: chat.n_answered > 0 or task.done())
            yield chat
            assert not task.done()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def decodes(server: Served) -> bool:
    return server.host.spare_cores() < float("inf")


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Served]:
    async with served(tmp_path, with_model=True, threads=ALL_CORES) as found:
        yield found


async def test_without_a_chat_nothing_waits(server: Served) -> None:
    await until(lambda: not decodes(server))
    async with server.client() as client:
        assert (await client.put(URL + "f", content=DATA)).status_code == 200
        assert (await client.get(URL + "f")).content == DATA
    assert server.host.pacing.n_waits == 0


async def test_beside_a_chat_streams_wait_after_each_piece_and_get_there(
    server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with server.client() as client, chatting(server) as chat:
        monkeypatch.setattr(host, "IDLE_SECONDS", 3600)  # on a busy machine it takes long from call to call
        uploads = await asyncio.gather(*(client.put(f"{URL}f{i}", content=DATA) for i in range(3)))
        for response in uploads:
            assert response.json()["Ok"]["filesha256"] == hashlib.sha256(DATA).hexdigest()
        n_waits = server.host.pacing.n_waits
        assert 3 * N_PIECES // 2 <= n_waits <= 3 * N_PIECES  # the door gives a little more than a piece at a time
        n_answered = chat.n_answered
        assert (await client.get(URL + "f0")).content == DATA
        assert n_waits + N_PIECES // 2 <= server.host.pacing.n_waits <= n_waits + N_PIECES
        await until(lambda: chat.n_answered > n_answered)
    monkeypatch.undo()
    await until(lambda: not decodes(server))
    n_waits = server.host.pacing.n_waits
    async with server.client() as client:
        assert (await client.put(URL + "f0", content=DATA)).status_code == 200
    assert server.host.pacing.n_waits == n_waits


async def test_the_end_of_the_server_does_not_wait_for_a_stream_that_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def without_end() -> AsyncIterator[bytes]:
        while True:
            yield bytes(PIECE_BYTES)

    monkeypatch.setattr(host, "IDLE_SECONDS", 3600)
    async with (
        AsyncExitStack() as clients,  # closed after the server
        served(tmp_path, with_model=True, threads=ALL_CORES, stream_share=0.001) as server,
    ):
        client = await clients.enter_async_context(server.client())
        upload = asyncio.create_task(client.put(URL + "f", content=without_end()))
        await until(lambda: server.host.pacing.n_waits > 0)
    outcome = (await asyncio.gather(upload, return_exceptions=True))[0]
    assert isinstance(outcome, httpx.TransportError) or (isinstance(outcome, httpx.Response) and outcome.is_error)
