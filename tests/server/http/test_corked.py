"""What is written at once goes out together, in order and whole, whatever ends the connection."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from canister.server.http.corked import MAX_HELD_BYTES, Corked

pytestmark = pytest.mark.anyio


class Counted(asyncio.Transport):
    """A real transport, with a list of what was written to it."""

    def __init__(self, real: asyncio.Transport) -> None:
        super().__init__()
        self.real = real
        self.written: list[bytes] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written.append(bytes(data))
        self.real.write(data)

    def is_closing(self) -> bool:
        return self.real.is_closing()

    def close(self) -> None:
        self.real.close()

    def abort(self) -> None:
        self.real.abort()

    def get_write_buffer_size(self) -> int:
        return self.real.get_write_buffer_size()


@asynccontextmanager
async def connected() -> AsyncIterator[tuple[Corked, Counted, asyncio.StreamReader]]:
    ours, theirs = socket.socketpair()
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_connection(asyncio.Protocol, sock=ours)
    reader, writer = await asyncio.open_connection(sock=theirs)
    counted = Counted(transport)
    try:
        yield Corked(counted, loop), counted, reader
    finally:
        transport.abort()
        writer.close()


async def test_what_is_written_at_once_goes_out_together() -> None:
    async with connected() as (corked, counted, reader):
        for part in (b"head", b"body", b"end"):
            corked.write(part)
        assert (counted.written, corked.get_write_buffer_size()) == ([], 11)
        assert await reader.readexactly(11) == b"headbodyend"
        corked.writelines([b"more", b"and more"])
        assert await reader.readexactly(12) == b"moreand more"
        assert counted.written == [b"headbodyend", b"moreand more"]


async def test_little_is_held() -> None:
    async with connected() as (corked, counted, reader):
        for _ in range(20):
            corked.write(b"x" * (MAX_HELD_BYTES // 4))
        assert len(counted.written) == 4
        assert corked.get_write_buffer_size() <= MAX_HELD_BYTES + counted.get_write_buffer_size()
        assert await reader.readexactly(5 * MAX_HELD_BYTES) == b"x" * 5 * MAX_HELD_BYTES


async def test_a_close_sends_what_is_held_and_an_abort_drops_it() -> None:
    async with connected() as (corked, _, reader):
        corked.write(b"last words")
        corked.close()
        assert await reader.read() == b"last words"
    async with connected() as (corked, counted, reader):
        corked.write(b"nobody hears this")
        corked.abort()
        assert await reader.read() == b""
        await asyncio.sleep(0)
        assert counted.written == []
