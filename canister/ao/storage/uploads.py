"""Items that come in parts: each part an object of its own, put together and verified at the end, and then removed.

An upload that is never finished is removed when it is a day old, at a start.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterable
from contextlib import aclosing
from dataclasses import dataclass

from canister.ao.encoding import Malformed, is_id, to_base64url
from canister.ao.storage.archive import Archive
from canister.ao.storage.items import Objects
from canister.errors import BadRequest, NotFound, StorageFull, TooLarge

MIN_PART_BYTES = 5 << 20
MAX_PART_BYTES = 500 << 20
MAX_UPLOAD_BYTES = 64 << 30
MAX_UPLOADS = 100  # that are not finished
_PARTS, _BEGUN, _ENDED = "ao/upload-part", "ao/upload", "ao/upload-end"
_KEPT_SECONDS = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Ended:
    """How an upload ended: the item's id and its owner's address, or what was wrong with it."""

    id: str | None
    owner: str | None
    seconds: float
    error: str | None


class Uploads:
    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self._objects: Objects = archive.objects
        self._finishing: dict[str, asyncio.Task[None]] = {}

    async def clean(self) -> None:
        """Remove what is old: parts of uploads that nobody finished, and how others ended."""
        old = time.time() - _KEPT_SECONDS
        for kind in (_PARTS, _BEGUN, _ENDED):
            async with aclosing(self._objects.list(kind)) as listed:
                gone = [stored.key async for stored in listed if stored.changed_seconds < old]
            for key in gone:
                await self._objects.remove(key)

    async def begin(self, part_bytes: int) -> str:
        """The id of a new upload, in parts of this size. Raises BadRequest."""
        if not MIN_PART_BYTES <= part_bytes <= MAX_PART_BYTES:
            raise BadRequest(f"chunkSize is {part_bytes}; it must be from {MIN_PART_BYTES} to {MAX_PART_BYTES}")
        async with aclosing(self._objects.list(_BEGUN)) as listed:
            if len([stored async for stored in listed]) >= MAX_UPLOADS:
                raise BadRequest(f"{MAX_UPLOADS} uploads are not finished; finish one of them, or try again in a day")
        upload = to_base64url(secrets.token_bytes(32))
        about = json.dumps({"part_bytes": part_bytes}).encode()
        await self._objects.create(f"{_BEGUN}/{upload}", _once(about))
        return upload

    async def part_bytes(self, upload: str) -> int:
        """Raises NotFound for an upload that was never begun, or is finished."""
        key = _key(_BEGUN, upload)
        if await self._objects.size(key) is None:
            raise NotFound(f"there is no upload {upload}")
        async with aclosing(self._objects.read(key)) as blocks:
            return int(json.loads(b"".join([block async for block in blocks]))["part_bytes"])

    async def put(self, upload: str, offset: int, blocks: AsyncIterable[bytes]) -> None:
        """A part, at any time before the end. Raises NotFound, BadRequest, TooLarge."""
        most = await self.part_bytes(upload)
        if not 0 <= offset < MAX_UPLOAD_BYTES or offset % most:
            raise BadRequest(f"the offset {offset} is no multiple of the chunk size, {most}, below {MAX_UPLOAD_BYTES}")
        if upload in self._finishing:
            raise BadRequest(f"the upload {upload} is being finished")

        async def bounded() -> AsyncGenerator[bytes, None]:
            n_bytes = 0
            async for block in blocks:
                n_bytes += len(block)
                if n_bytes > most:
                    raise TooLarge(f"the chunk at {offset} has more than {most} bytes, the chunk size of its upload")
                yield block

        await self._objects.create(f"{_PARTS}/{upload}/{offset}", bounded())

    async def finish(self, upload: str) -> None:
        """Begin to put the parts together; `status` tells how it ends. Once more does nothing. Raises NotFound."""
        if upload in self._finishing or await self.status(upload) is not None:
            return
        self._finishing[upload] = asyncio.create_task(self._finish(upload), name=f"upload {upload}")

    async def status(self, upload: str) -> Ended | None:
        """None: it is not finished. Raises NotFound."""
        key = _key(_ENDED, upload)
        if await self._objects.size(key) is None:
            await self.part_bytes(upload)
            return None
        async with aclosing(self._objects.read(key)) as blocks:
            return Ended(**json.loads(b"".join([block async for block in blocks])))

    def is_finishing(self, upload: str) -> bool:
        return upload in self._finishing

    async def close(self) -> None:
        """What is being finished is finished by whoever asks for it again."""
        for task in list(self._finishing.values()):
            task.cancel()
        await asyncio.gather(*self._finishing.values(), return_exceptions=True)

    async def _finish(self, upload: str) -> None:
        try:
            try:
                head, _ = await self._archive.add_item(self._whole(upload), MAX_UPLOAD_BYTES)
                ended = Ended(head.id, head.address, time.time(), None)
            except (BadRequest, StorageFull) as error:
                ended = Ended(None, None, time.time(), str(error))
            told = json.dumps(
                {"id": ended.id, "owner": ended.owner, "seconds": ended.seconds, "error": ended.error}
            ).encode()
            await self._objects.create(f"{_ENDED}/{upload}", _once(told))
            for key, _ in await self._parts(upload):
                await self._objects.remove(key)
            await self._objects.remove(f"{_BEGUN}/{upload}")
        finally:
            self._finishing.pop(upload, None)

    async def _whole(self, upload: str) -> AsyncGenerator[bytes, None]:
        at = 0
        for key, (start, n_bytes) in await self._parts(upload):
            if start != at:
                raise Malformed(f"the bytes from {at} to {start} of the upload have not come")
            async with aclosing(self._objects.read(key)) as blocks:
                async for block in blocks:
                    yield block
            at += n_bytes

    async def _parts(self, upload: str) -> list[tuple[str, tuple[int, int]]]:
        """Keys of the parts with start and length, by their start."""
        async with aclosing(self._objects.list(f"{_PARTS}/{upload}")) as listed:
            found = [(stored.key, (int(stored.key.rpartition("/")[2]), stored.n_bytes)) async for stored in listed]
        return sorted(found, key=lambda part: part[1][0])


def _key(kind: str, upload: str) -> str:
    if not is_id(upload):
        raise NotFound(f"there is no upload {upload[:80]!r}")
    return f"{kind}/{upload}"


async def _once(data: bytes) -> AsyncGenerator[bytes, None]:
    yield data
