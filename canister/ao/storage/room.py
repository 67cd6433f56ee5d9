"""How much strangers may store: bytes of all objects together, counted as they come and go, whatever they are for."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable
from contextlib import aclosing

from canister.ao.storage.items import Objects, Stored
from canister.errors import StorageFull


class BoundedObjects:
    """Objects of at most `most` bytes; None: of any number. `open` makes it."""

    def __init__(self, objects: Objects, most: int | None, used: int) -> None:
        self._objects = objects
        self._most = most
        self.used = used

    @classmethod
    async def open(cls, objects: Objects, most: int | None) -> BoundedObjects:
        """What is there counts, as it did when it came."""
        async with aclosing(objects.list("ao")) as listed:
            used = sum([stored.n_bytes async for stored in listed])
        return cls(objects, most, used)

    async def create(self, key: str, body: AsyncIterable[bytes]) -> bool:
        """Raises StorageFull. What does not stay in the end does not count."""
        taken, is_new = 0, False

        async def counted() -> AsyncGenerator[bytes, None]:
            nonlocal taken
            async for block in body:
                self._take(len(block))
                taken += len(block)
                yield block

        try:
            is_new = await self._objects.create(key, counted())
        finally:
            if not is_new:
                self.used -= taken
        return is_new

    def read(self, key: str, start: int = 0) -> AsyncGenerator[bytes, None]:
        return self._objects.read(key, start)

    async def size(self, key: str) -> int | None:
        return await self._objects.size(key)

    async def remove(self, key: str) -> None:
        n_bytes = await self._objects.size(key)
        await self._objects.remove(key)
        self.used -= n_bytes or 0

    def list(self, prefix: str) -> AsyncGenerator[Stored, None]:
        return self._objects.list(prefix)

    def _take(self, n_bytes: int) -> None:
        if self._most is not None and self.used + n_bytes > self._most:
            raise StorageFull(f"the storage holds {self.used} bytes of the {self._most} that it may hold")
        self.used += n_bytes
