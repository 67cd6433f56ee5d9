"""All that a gateway and a bundler do: what comes is verified, stored, indexed, and found again by id or by GraphQL.

What has come whole stays. Items of a bundle are found as if they had come alone, once the bundle is whole.
"""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_right
from collections.abc import AsyncGenerator, AsyncIterable, Callable
from contextlib import aclosing
from dataclasses import dataclass

from canister.ao.arweave.transactions import read_chunk
from canister.ao.encoding import Malformed, WrongSignature
from canister.ao.signing.bundles import read_bundle
from canister.ao.signing.items import Head
from canister.ao.signing.tags import Tag
from canister.ao.storage import queries
from canister.ao.storage.index import Index
from canister.ao.storage.items import ItemStore, Objects, StoredTransaction
from canister.ao.storage.queries import Filter, Record
from canister.ao.storage.room import BoundedObjects
from canister.errors import NotFound, TooLarge
from canister.telemetry import logs

MAX_BUNDLE_BYTES = 64 << 20  # larger ones stay as they are
MAX_NESTED = 4  # bundles in bundles
_BUNDLE = {(b"bundle-format", b"binary"), (b"bundle-version", b"2.0.0")}

log = logs.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Found:
    """is_item: it came as an item, not as a transaction. has_all: whether each byte of its data is there."""

    record: Record
    is_item: bool
    has_all: bool


class Archive:
    """Of one event loop. `open` makes it."""

    def __init__(self, objects: Objects, store: ItemStore, index: Index) -> None:
        self.objects = objects
        self.index = index
        self._store = store
        self._items: set[str] = set()
        self._whole: set[str] = set()  # transactions of which each byte is there
        self._roots: dict[bytes, set[str]] = {}  # transactions by their data
        self._ends: list[int] = []  # where data of transactions ends in the weave
        self._in_weave: dict[str, int] = {}
        self._by_place: list[str] = []  # the same transactions, in order

    @classmethod
    async def open(cls, objects: Objects, max_bytes: int | None = None) -> Archive:
        """All that is there, indexed in the order in which it came. max_bytes: of what clients may store."""
        bounded = await BoundedObjects.open(objects, max_bytes)
        store = ItemStore(bounded)
        archive = cls(bounded, store, await Index.of(store))
        async with aclosing(store.all_item_ids()) as ids:
            archive._items.update([id async for id in ids])
        for id in list(archive._items):  # a crash may have come between a bundle and its items
            await archive._unpack(id, archive.find(id).record.tags, 0)
        found = sorted([found async for found in store.all_transactions()], key=lambda each: each[1])
        for transaction, _ in found:
            await archive._note(await store.transaction(transaction.id))
        return archive

    async def add_item(self, blocks: AsyncIterable[bytes], max_bytes: int) -> tuple[Head, bool]:
        """An item as its bytes come; True when it is new. Raises Malformed, WrongSignature, TooLarge, StorageFull."""
        return await self._add_item(blocks, max_bytes, 0)

    async def add_transaction(self, document: object) -> tuple[StoredTransaction, bool]:
        """A transaction as clients post it. Raises Malformed, WrongSignature, StorageFull."""
        stored, is_new = await self._store.put_transaction(document)
        if is_new:
            self.index.add_transaction(stored.transaction, time.time())
        await self._note(stored)
        return stored, is_new

    async def add_chunk(self, document: object) -> None:
        """A chunk of a transaction, before or after it. Raises Malformed unless its proof shows its place."""
        chunk = read_chunk(document)
        await self._store.put_chunk(chunk)
        for id in list(self._roots.get(chunk.data_root, ())):
            await self._note(await self._store.transaction(id))

    def find(self, id: str) -> Found:
        """Raises NotFound."""
        record = self.index.record(id)
        if record is None:
            raise NotFound(f"there is nothing under {id[:80]!r}")
        is_item = id in self._items
        return Found(record, is_item, is_item or not record.data_bytes or id in self._whole)

    def data(self, found: Found, start: int = 0) -> AsyncGenerator[bytes, None]:
        """From a byte on."""
        read = self._store.item_data if found.is_item else self._store.transaction_data
        return read(found.record.id, start)

    async def transaction(self, id: str) -> StoredTransaction:
        """Raises NotFound."""
        return await self._store.transaction(id)

    def offset(self, id: str) -> int | None:
        """Of the last byte of a transaction's data, in all data of transactions; None: it is not among them."""
        at = self._in_weave.get(id)
        return None if at is None else self._ends[at] - 1

    async def chunk_at(self, offset: int) -> tuple[bytes, bytes]:
        """The chunk that has this byte of all data of transactions, and its proof. Raises NotFound."""
        at = bisect_right(self._ends, offset)
        if offset < 0 or at == len(self._ends):
            raise NotFound(f"the offset {offset} is beyond all data that is stored here")
        start = self._ends[at - 1] if at else 0
        return await self._store.chunk_with(self._by_place[at], offset - start)

    async def answer(
        self, body: object, also: Callable[[Filter], list[Record]] = lambda wanted: []
    ) -> dict[str, object]:
        """To a GraphQL request's JSON. also: records that come before those of the index.

        It is found on a thread, which the index allows since it only grows.
        """
        return await asyncio.to_thread(queries.answer, body, lambda wanted: [*also(wanted), *self.index.find(wanted)])

    async def _add_item(self, blocks: AsyncIterable[bytes], max_bytes: int, depth: int) -> tuple[Head, bool]:
        n_bytes = 0

        async def bounded() -> AsyncGenerator[bytes, None]:
            nonlocal n_bytes
            async for block in blocks:
                n_bytes += len(block)
                if n_bytes > max_bytes:
                    raise TooLarge(f"the item has more than {max_bytes} bytes; send a larger one in chunks")
                yield block

        head, is_new = await self._store.put_item(bounded())
        if is_new:
            self.index.add_item(await self._store.item(head.id), time.time())
            self._items.add(head.id)
            await self._unpack(head.id, head.tags, depth)
        return head, is_new

    async def _note(self, stored: StoredTransaction) -> None:
        """What follows from a transaction, or from one more chunk of it."""
        transaction = stored.transaction
        if not transaction.data_root:
            return
        ids = self._roots.setdefault(transaction.data_root, set())
        if transaction.id not in ids:
            ids.add(transaction.id)
            self._ends.append((self._ends[-1] if self._ends else 0) + transaction.data_bytes)
            self._in_weave[transaction.id] = len(self._in_weave)
            self._by_place.append(transaction.id)
        if stored.has_all and transaction.id not in self._whole:
            self._whole.add(transaction.id)
            await self._unpack(transaction.id, transaction.tags, 0)

    async def _unpack(self, id: str, tags: tuple[Tag, ...], depth: int) -> None:
        """Store the items of a bundle, each by itself. What is no bundle after all stays what it is."""
        if not {(name.lower(), value.lower()) for name, value in tags} >= _BUNDLE or depth >= MAX_NESTED:
            return
        found = self.find(id)
        if found.record.data_bytes > MAX_BUNDLE_BYTES:
            log.warning("a bundle is too large to be unpacked", id=id, n_bytes=found.record.data_bytes)
            return
        async with aclosing(self.data(found)) as blocks:
            data = b"".join([block async for block in blocks])
        try:
            for item in await asyncio.to_thread(read_bundle, data):
                await self._add_item(_once(item.to_bytes()), len(data), depth + 1)
        except (Malformed, WrongSignature) as error:
            log.warning("a bundle has items that are none", id=id, error=str(error))


async def _once(data: bytes) -> AsyncGenerator[bytes, None]:
    yield data
