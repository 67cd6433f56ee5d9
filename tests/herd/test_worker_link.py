"""Connections to a worker: kept and used again, given up when something went wrong on them, and what a loss means."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from canister.herd.worker_link import PIECE_BYTES, LinkAnswer, LinkLost, WorkerLink

pytestmark = pytest.mark.anyio

Answer = Callable[[bytes, bytes, asyncio.StreamWriter], Awaitable[None]]
"""Gets head and body of a request, and answers."""


class Worker:
    """Counts the connections that were made to it."""

    def __init__(self, link: WorkerLink) -> None:
        self.link = link
        self.n_connections = 0


@asynccontextmanager
async def worker(folder: Path, answer: Answer) -> AsyncIterator[Worker]:
    path = folder / "door.sock"

    serving: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        serving.add(task)
        made.n_connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0])
                await answer(head, await reader.readexactly(length), writer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    made = Worker(WorkerLink(f"unix:{path}"))
    server = await asyncio.start_unix_server(serve, path)
    async with server:
        yield made
        made.link.close()
        await asyncio.gather(*serving)


async def echo(head: bytes, body: bytes, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))


async def test_a_connection_is_used_again(tmp_path: Path) -> None:
    async with worker(tmp_path, echo) as found:
        for n in range(5):
            assert await found.link.ask("POST", "/x", b"%d" % n, {"A": "b"}) == LinkAnswer(200, b"%d" % n)
        assert found.n_connections == 1
        answers = await asyncio.gather(*(found.link.ask("POST", "/x", b"%d" % n, {}) for n in range(3)))
        assert [answer.body for answer in answers] == [b"0", b"1", b"2"]
        assert found.n_connections == 3


async def test_a_large_body_arrives_whole(tmp_path: Path) -> None:
    body = bytes(range(256)) * (5 * PIECE_BYTES // 256)
    async with worker(tmp_path, echo) as found:
        assert (await found.link.ask("POST", "/x", body, {})).body == body


async def test_the_body_is_handed_on_as_it_comes(tmp_path: Path) -> None:
    came = asyncio.Event()

    async def slowly(head: bytes, body: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n")
        await came.wait()  # the second piece is sent when the first one is there
        writer.write(b"3\r\ntwo\r\n0\r\n\r\n")

    pieces: list[bytes] = []

    def take(piece: bytes) -> None:
        pieces.append(piece)
        came.set()

    async with worker(tmp_path, slowly) as found:
        assert await found.link.ask("POST", "/x", b"", {}, take) == LinkAnswer(200, b"")
        assert pieces == [b"one", b"two"]


async def test_what_is_refused_is_told_as_a_whole(tmp_path: Path) -> None:
    async def refuse(head: bytes, body: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 409 Conflict\r\nContent-Length: 3\r\n\r\nwhy")

    async with worker(tmp_path, refuse) as found:
        assert await found.link.ask("POST", "/x", b"", {}, lambda piece: None) == LinkAnswer(409, b"why")
        assert await found.link.ask("POST", "/x", b"", {}) == LinkAnswer(409, b"why")
        assert found.n_connections == 1


async def test_who_cannot_read_the_answer_ends_the_connection(tmp_path: Path) -> None:
    def take(piece: bytes) -> None:
        raise ValueError("another text")

    async with worker(tmp_path, echo) as found:
        with pytest.raises(ValueError, match="another text"):
            await found.link.ask("POST", "/x", b"text", {}, take)
        assert (await found.link.ask("POST", "/x", b"text", {})).body == b"text"
        assert found.n_connections == 2


async def test_who_waits_no_more_ends_the_connection(tmp_path: Path) -> None:
    asked = asyncio.Event()

    async def never(head: bytes, body: bytes, writer: asyncio.StreamWriter) -> None:
        asked.set()

    async with worker(tmp_path, never) as found:
        call = asyncio.create_task(found.link.ask("POST", "/x", b"", {}))
        await asked.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert found.n_connections == 1  # the end of the test waits for the worker to see that it has ended


@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", b"HTTP/1.1 200 OK\r\nCont"])
async def test_of_an_answer_that_breaks_off_nobody_knows_what_was_done(tmp_path: Path, sent: bytes) -> None:
    async def breaks_off(head: bytes, body: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(sent)
        await writer.drain()
        writer.close()

    async with worker(tmp_path, breaks_off) as found:
        with pytest.raises(LinkLost) as lost:
            await found.link.ask("POST", "/x", b"", {})
        assert lost.value.was_sent


async def test_what_is_no_http_is_lost(tmp_path: Path) -> None:
    async def mumble(head: bytes, body: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-x\r\n\r\n")

    async with worker(tmp_path, mumble) as found:
        with pytest.raises(LinkLost, match="no HTTP"):
            await found.link.ask("POST", "/x", b"", {})


async def test_a_worker_that_is_not_there_was_not_asked(tmp_path: Path) -> None:
    for url in (f"unix:{tmp_path / 'none.sock'}", "http://127.0.0.1:1"):
        with pytest.raises(LinkLost) as lost:
            await WorkerLink(url).ask("POST", "/x", b"", {})
        assert not lost.value.was_sent


async def test_a_link_that_is_closed_lets_nobody_wait(tmp_path: Path) -> None:
    asked = asyncio.Event()

    async def never(head: bytes, body: bytes, writer: asyncio.StreamWriter) -> None:
        asked.set()

    async with worker(tmp_path, never) as found:
        call = asyncio.create_task(found.link.ask("POST", "/x", b"", {}))
        await asked.wait()
        found.link.close()
        with pytest.raises(LinkLost):
            await call
        with pytest.raises(LinkLost, match="ended"):
            await found.link.ask("POST", "/x", b"", {})
