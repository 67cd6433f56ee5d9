"""Files as streams: an upload in blocks of a size that suits the disk, and a file that is read while it is sent."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from canister.runtime.canister import Canister
    from canister.store.stable import OpenFile

STREAM_BLOCK_BYTES = 8 * 1024 * 1024  # what an octet-stream upload commits at a time
READ_BLOCK_BYTES = 1024 * 1024


async def regrouped(blocks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same bytes in blocks of about STREAM_BLOCK_BYTES: at least one block, and the last one may be short
    or empty.
    """
    gathered: list[bytes] = []
    n_gathered = 0
    gave = False
    async for block in blocks:
        gathered.append(block)
        n_gathered += len(block)
        if n_gathered >= STREAM_BLOCK_BYTES:
            yield b"".join(gathered)
            gathered, n_gathered, gave = [], 0, True
    if n_gathered or not gave:
        yield b"".join(gathered)


async def ahead(blocks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same blocks, where the next one is received while one is worked on. An error comes after the blocks before
    it.
    """

    async def following() -> bytes | None:
        return await anext(blocks, None)

    coming = asyncio.create_task(following())
    try:
        while (block := await coming) is not None:
            coming = asyncio.create_task(following())
            yield block
    finally:
        coming.cancel()
        await asyncio.gather(coming, return_exceptions=True)


class FileStream:
    """A file open for reading as a stream, as it is now. Later removal or replacement does not matter.

    size: in bytes. modified_ns: since 1970. sha256: hex, when it was uploaded and not changed since.
    """

    def __init__(self, canister: Canister, opened: OpenFile, sha256: str | None, closed: Callable[[], None]) -> None:
        self.size = opened.info.size
        self.modified_ns = opened.info.modified_ns
        self.sha256 = sha256
        self._canister = canister
        self._fd = opened.fd
        self._closed = closed
        self._reading: asyncio.Future[bytes] | None = None

    async def blocks(self, first: int, end: int) -> AsyncIterator[bytes]:
        """Bytes first…end (exclusive), at most 1 MiB at a time."""
        async for block in self._canister.pacing.paced(self._read(first, end)):
            yield block

    async def _read(self, first: int, end: int) -> AsyncIterator[bytes]:
        while first < end:
            self._reading = self._canister.in_file_thread(os.pread, self._fd, min(READ_BLOCK_BYTES, end - first), first)
            block = await asyncio.shield(self._reading)  # a thread goes on, so `close` must know
            if not block:
                return
            first += len(block)
            yield block

    def close(self) -> None:
        """Call it once at the end, also when nothing was read."""
        if self._reading is None or self._reading.done():
            os.close(self._fd)
        else:  # the number must not be another file's while a thread still reads from it
            self._reading.add_done_callback(lambda _: os.close(self._fd))
        self._closed()
