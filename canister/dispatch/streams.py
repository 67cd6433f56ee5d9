"""Files of any size, as streams: an upload is committed block by block, a download reads committed bytes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import TYPE_CHECKING

from canister.api.methods import BY_NAME, Method
from canister.api.records import ApiError, FileUploadRecord
from canister.dispatch.execute import Reply, Terms, admit, run
from canister.dispatch.turns import stream_place
from canister.handlers import files
from canister.runtime import access
from canister.runtime.call import Call
from canister.runtime.file_streams import FileStream, ahead, regrouped

if TYPE_CHECKING:
    from canister.runtime.canister import Canister


async def store_stream(canister: Canister, caller: str, path: str, offset: int, blocks: AsyncIterator[bytes]) -> Reply:
    """Upload a file of any size, like `file_upload_chunk`. Each block is committed on its own.

    An interrupted upload can continue at the last confirmed size.
    """
    method = BY_NAME["file_upload_chunk"]
    async with stream_place(canister, method.access, caller):
        return await _store_stream(canister, method, caller, path, offset, blocks)


async def _store_stream(
    canister: Canister, method: Method, caller: str, path: str, offset: int, blocks: AsyncIterator[bytes]
) -> Reply:
    hashing: asyncio.Task[None] | None = None  # of what is there, where the upload goes on behind it

    async def check(call: Call) -> None:
        nonlocal hashing
        access.check(canister, caller, method.access)
        if offset:
            hashing = asyncio.create_task(files.know_hash(call, path))

    # Refuse a caller who may not upload before reading anything of the body.
    reply = await run(canister, "file_upload_chunk", caller, check, Terms(is_update=False, err=ApiError))
    if reply.error is not None:
        return reply
    try:
        async with aclosing(ahead(regrouped(canister.pacing.paced(blocks)))) as received:  # type: ignore[type-var]  # a generator
            return await _store_blocks(canister, method, caller, path, offset, received, hashing)
    finally:
        if hashing is not None:
            hashing.cancel()
            await asyncio.wait([hashing])


async def _store_blocks(
    canister: Canister,
    method: Method,
    caller: str,
    path: str,
    position: int,
    blocks: AsyncIterator[bytes],
    hashing: asyncio.Task[None] | None,
) -> Reply:
    reply = Reply(None)
    async for block in blocks:
        # Meanwhile more is received. If the hash fails, so will the block, with the reason.
        if hashing is not None:
            await asyncio.wait([hashing])

        async def handle(call: Call, block: bytes = block, position: int = position) -> FileUploadRecord:
            admit(call, method)
            call.request_bytes = len(block)
            return await files.store_block(call, path, block, position)

        async with canister.storing:
            # The limit of a message does not apply to a block, whose size suits the disk.
            terms = Terms(is_update=True, err=ApiError, is_limited=False)
            reply = await run(canister, "file_upload_chunk", caller, handle, terms)
        if reply.error is not None:
            return reply
        position += len(block)
    return reply


async def read_stream(canister: Canister, caller: str, path: str) -> FileStream | Reply:
    """Open a file of stable memory for reading, like `file_download_chunk` without its limit on size.

    The caller closes the stream, whether it was read or not.
    """
    method = BY_NAME["file_download_chunk"]
    stream: FileStream | None = None

    async def handle(call: Call) -> None:
        nonlocal stream
        access.check(canister, caller, method.access)
        stream = files.open_stream(call, path, place.leave)

    def give_up() -> None:
        place.leave() if stream is None else stream.close()

    place = stream_place(canister, method.access, caller)
    try:
        reply = await run(canister, "file_download_chunk", caller, handle, Terms(is_update=False, err=ApiError))
    except BaseException:
        give_up()
        raise
    if reply.error is not None:
        give_up()
        return reply
    assert stream is not None
    return stream
