"""Objects in a bucket of S3, or of a server that speaks it, by obstore.

Small bodies are put with `If-None-Match: *`, which the server must heed. Large ones go up in parts, which cannot be
conditional: there the key is looked up first.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)
from obstore.store import S3Store

from canister.herd.objects.objects import ObjectsUnavailable, StoredObject, check_key, missing

if TYPE_CHECKING:
    from obstore import ObjectMeta
    from obstore.store import ClientConfig, RetryConfig, S3Config

T = TypeVar("T")

PART_BYTES = 8 << 20
_PARTS_AT_ONCE = 3
_CONNECT_SECONDS = 3
_PART_SECONDS = 60
_RETRY_SECONDS = 10
_RETRIES = 3


@dataclass(frozen=True, slots=True)
class Bucket:
    """Where a bucket is. endpoint: of a server other than Amazon's, `http://…` or `https://…`. prefix: of all keys."""

    name: str
    prefix: str = ""
    endpoint: str = ""
    region: str = "us-east-1"
    access_key_id: str = field(default="", repr=False)
    secret_access_key: str = field(default="", repr=False)
    session_token: str = field(default="", repr=False)


class S3Objects:
    """Objects in a bucket. Without keys obstore looks for them as Amazon's tools do, in the machine's role too."""

    def __init__(self, bucket: Bucket) -> None:
        self._place = f"{bucket.endpoint or 'S3'} (bucket {bucket.name})"
        self._store = _store_of(bucket)

    async def create(self, key: str, body: AsyncIterable[bytes]) -> bool:
        check_key(key)
        parts = _in_parts(body)
        first = await anext(parts, b"")
        if len(first) < PART_BYTES:
            put = self._store.put_async(key, first, mode="create", use_multipart=False)
            try:
                await self._asked(put)
            except (AlreadyExistsError, PreconditionError):
                return False
            except FileNotFoundError as error:
                raise ObjectsUnavailable(f"{self._place}: there is no such bucket; make it first") from error
            return True
        if await self.size(key) is not None:
            return False
        writer = obstore.open_writer_async(self._store, key, buffer_size=PART_BYTES, max_concurrency=_PARTS_AT_ONCE)
        try:
            await self._asked(writer.write(first))
            async for part in parts:
                await self._asked(writer.write(part))
        except BaseException as error:
            with suppress(ObjectsUnavailable):  # what has gone up is taken back
                await self._asked(writer.__aexit__(type(error), error, None))
            raise
        await self._asked(writer.close())
        return True

    async def read(self, key: str, start: int = 0) -> AsyncGenerator[bytes, None]:
        n_bytes = await self.size(key)
        if n_bytes is None:
            raise missing(key)
        # In parts, since a request has a time limit that must not depend on the object's size.
        starts = iter(range(start, n_bytes, PART_BYTES))
        under_way: deque[asyncio.Task[bytes]] = deque()
        try:
            while True:
                while len(under_way) < _PARTS_AT_ONCE and (at := next(starts, None)) is not None:
                    under_way.append(asyncio.create_task(self._part(key, at, min(PART_BYTES, n_bytes - at))))
                if not under_way:
                    return
                yield await under_way.popleft()
        finally:
            for task in under_way:
                task.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)

    async def size(self, key: str) -> int | None:
        check_key(key)
        try:
            return int((await self._asked(self._store.head_async(key)))["size"])
        except FileNotFoundError:
            return None

    async def remove(self, key: str) -> None:
        check_key(key)
        with suppress(FileNotFoundError):
            await self._asked(self._store.delete_async(key))

    async def list(self, prefix: str) -> AsyncGenerator[StoredObject, None]:
        pages = aiter(self._store.list(check_key(prefix.rstrip("/"))))
        while (page := await self._asked(_next_page(pages))) is not None:
            for found in page:
                yield StoredObject(found["path"], found["size"], found["last_modified"].timestamp())

    async def close(self) -> None:
        """The connections go with the store."""

    async def _part(self, key: str, start: int, n_bytes: int) -> bytes:
        try:
            part = bytes(await self._asked(self._store.get_range_async(key, start=start, length=n_bytes)))
        except FileNotFoundError:
            raise missing(key) from None
        if len(part) != n_bytes:
            raise ObjectsUnavailable(f"{self._place} sent {len(part)} bytes of {n_bytes}; the call may be sent again")
        return part

    async def _asked(self, answer: Awaitable[T]) -> T:
        """What the server answers. What depends on the key is for the caller; the rest is told."""
        try:
            return await answer
        except (AlreadyExistsError, PreconditionError, FileNotFoundError):
            raise
        except (PermissionDeniedError, UnauthenticatedError) as error:
            raise ObjectsUnavailable(
                f"{self._place} refuses the herd's keys; see to AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and the "
                f"bucket's policy ({_first_line(error)})"
            ) from error
        except (BaseError, OSError) as error:
            raise ObjectsUnavailable(
                f"{self._place} cannot be reached, or fails; the call may be sent again ({_first_line(error)})"
            ) from error


def _store_of(bucket: Bucket) -> S3Store:
    config: S3Config = {
        "region": bucket.region,
        "virtual_hosted_style_request": not bucket.endpoint,
        "conditional_put": "etag",
    }
    if bucket.access_key_id:
        config |= {"access_key_id": bucket.access_key_id, "secret_access_key": bucket.secret_access_key}
    if bucket.session_token:
        config["session_token"] = bucket.session_token
    if bucket.endpoint:
        config["endpoint"] = bucket.endpoint
    client: ClientConfig = {
        "allow_http": bucket.endpoint.startswith("http://"),
        "connect_timeout": timedelta(seconds=_CONNECT_SECONDS),
        "timeout": timedelta(seconds=_PART_SECONDS),
    }
    retry: RetryConfig = {"max_retries": _RETRIES, "retry_timeout": timedelta(seconds=_RETRY_SECONDS)}
    return S3Store(bucket.name, prefix=bucket.prefix or None, config=config, client_options=client, retry_config=retry)


async def _in_parts(body: AsyncIterable[bytes]) -> AsyncGenerator[bytes, None]:
    """The same bytes in parts of PART_BYTES; the last one is smaller, and may be empty."""
    held = bytearray()
    async for piece in body:
        held += piece
        while len(held) >= PART_BYTES:
            yield bytes(held[:PART_BYTES])
            del held[:PART_BYTES]
    yield bytes(held)


async def _next_page(pages: AsyncIterator[Sequence[ObjectMeta]]) -> Sequence[ObjectMeta] | None:
    return await anext(pages, None)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
