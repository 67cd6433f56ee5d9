"""What a worker's answer means that is cut off, or that nobody understands."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from canister.api import herd_frames as frames
from canister.api import herd_wire as wire
from canister.herd.launch.launcher import WorkerRef
from canister.herd.worker_client import WorkerClient, WorkerLost, WorkerRefused

pytestmark = pytest.mark.anyio

RUN = wire.Run(b"j" * 32, 3, 3 << 32 | 7, 12, "llama_cpp", "2vxsx-fae", "run_update", b"DIDL\0\0", 5, 10**18)
FRAME = frames.encode_frame(frames.Text("so far"))


@asynccontextmanager
async def answering(body: bytes) -> AsyncIterator[WorkerClient]:
    """A worker that answers every request with these bytes."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        writer.write(head.encode() + body)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, WorkerClient(WorkerRef("w1", 1, f"http://127.0.0.1:{port}", 1), bytes(32)) as client:
        yield client


@pytest.mark.parametrize("body", [FRAME, FRAME[:-1], b""])
async def test_an_answer_that_is_cut_off_means_a_lost_worker(body: bytes) -> None:
    async with answering(body) as client:
        with pytest.raises(WorkerLost, match="broke off"):
            await client.run(RUN)


@pytest.mark.parametrize("body", [b"\0\0\0\5hello", b"\xff" * 20, b"\0\0\0\1\x80"])
async def test_a_worker_that_nobody_understands_is_not_asked_again(body: bytes) -> None:
    """It would say the same for ever: it is there, and has its chats."""
    async with answering(body) as client:
        with pytest.raises(WorkerRefused, match="worker w1 answered what is no message of this herd"):
            await client.run(RUN)
        with pytest.raises(WorkerRefused, match="no message of this herd"):
            await client.state()
