"""Items and transactions that stay: each under its id, whole and durable, in a place for objects.

An item is one object, checked while it passes by, so that one that is damaged is never there. A transaction is its JSON
beside its chunks, which may come before it and in any order. What is there is found again by listing the objects.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncGenerator, AsyncIterable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Protocol

from canister.ao.arweave.chunks import Span, check_chunk, tree_of
from canister.ao.arweave.transactions import PostedChunk, Transaction, read_transaction
from canister.ao.arweave.transactions import verify as verify_transaction
from canister.ao.encoding import Malformed, is_id, to_base64url
from canister.ao.signing import items
from canister.ao.signing.deep_hash import Hashed
from canister.ao.signing.items import MAX_HEAD_BYTES, Head
from canister.errors import NotFound

_ITEMS, _TRANSACTIONS, _CHUNKS, _PROOFS = "ao/item", "ao/tx", "ao/chunk", "ao/proof"
_MAX_JSON_BYTES = 64 * 1024


class Stored(Protocol):
    @property
    def key(self) -> str: ...

    @property
    def n_bytes(self) -> int: ...

    @property
    def changed_seconds(self) -> float: ...


class Objects(Protocol):
    """What of a place for objects is used here, as herd/objects has it: whole, durable, never replaced."""

    async def create(self, key: str, body: AsyncIterable[bytes]) -> bool: ...

    def read(self, key: str, start: int = 0) -> AsyncGenerator[bytes, None]: ...

    async def size(self, key: str) -> int | None: ...

    async def remove(self, key: str) -> None: ...

    def list(self, prefix: str) -> AsyncGenerator[Stored, None]: ...


@dataclass(frozen=True, slots=True)
class StoredItem:
    """data_at: where the data begins in the object. data_bytes: how long it is. seconds: Unix time of its storing."""

    head: Head
    data_at: int
    data_bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class StoredTransaction:
    """has_all: whether each chunk of its data is there."""

    transaction: Transaction
    has_all: bool


class ItemStore:
    """Every id here is one that clients know items by, and whatever is read was verified when it came."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects

    async def put_item(self, blocks: AsyncIterable[bytes]) -> tuple[Head, bool]:
        """An item as its bytes come; True when it was not there before. Raises Malformed, WrongSignature: nothing is
        put then."""
        passing = aiter(blocks)
        begin = bytearray()
        async for block in passing:
            begin += block
            if len(begin) >= MAX_HEAD_BYTES:
                break
        head, data_at = items.read_head(bytes(begin))

        async def checked() -> AsyncGenerator[bytes, None]:
            yield bytes(begin)
            digest, n_bytes = hashlib.sha384(begin[data_at:]), len(begin) - data_at
            async for block in passing:
                await asyncio.to_thread(digest.update, block)
                n_bytes += len(block)
                yield block
            await asyncio.to_thread(items.verify, head, Hashed(n_bytes, digest.digest()))

        return head, await self._objects.create(_key(_ITEMS, head.id), checked())

    async def item(self, id: str) -> StoredItem:
        """Raises NotFound."""
        key = _key(_ITEMS, id)
        n_bytes = await self._objects.size(key)
        if n_bytes is None:
            raise NotFound(f"there is no item {id}")
        head, data_at = items.read_head(await self._beginning(key, MAX_HEAD_BYTES))
        return StoredItem(head, data_at, n_bytes - data_at, 0.0)

    async def item_data(self, id: str, start: int = 0) -> AsyncGenerator[bytes, None]:
        """The data from a byte on."""
        found = await self.item(id)
        async with aclosing(self._objects.read(_key(_ITEMS, id), found.data_at + start)) as blocks:
            async for block in blocks:
                yield block

    async def all_items(self) -> AsyncGenerator[StoredItem, None]:
        """In no order: for an index when a gateway starts."""
        async with aclosing(self._objects.list(_ITEMS)) as listed:
            async for stored in listed:
                head, data_at = items.read_head(await self._beginning(stored.key, MAX_HEAD_BYTES))
                yield StoredItem(head, data_at, stored.n_bytes - data_at, stored.changed_seconds)

    async def all_item_ids(self) -> AsyncGenerator[str, None]:
        """In no order."""
        async with aclosing(self._objects.list(_ITEMS)) as listed:
            async for stored in listed:
                yield stored.key.rpartition("/")[2]

    async def put_transaction(self, document: object) -> tuple[StoredTransaction, bool]:
        """A transaction as clients post it, with its data or without; True when it was not there before.

        Raises Malformed and WrongSignature, and nothing is put then.
        """
        transaction, data = await asyncio.to_thread(read_transaction, document)
        await asyncio.to_thread(verify_transaction, transaction)
        if data:
            tree = await asyncio.to_thread(tree_of, data)
            for proven in tree.chunks:
                part = data[proven.span.start : proven.span.end]
                await self._put(transaction.data_root, proven.span, proven.proof, part)
        text = json.dumps(transaction.to_json()).encode()
        is_new = await self._objects.create(_key(_TRANSACTIONS, transaction.id), _once(text))
        return await self.transaction(transaction.id), is_new

    async def put_chunk(self, chunk: PostedChunk) -> Span:
        """A chunk, before or after its transaction. Raises Malformed unless its proof shows its place."""
        span = await asyncio.to_thread(
            check_chunk, chunk.data_root, chunk.data_bytes, chunk.offset, chunk.proof, chunk.chunk
        )
        await self._put(chunk.data_root, span, chunk.proof, chunk.chunk)
        return span

    async def _put(self, data_root: bytes, span: Span, proof: bytes, data: bytes) -> None:
        """The proof comes first, so that each chunk that is there has one."""
        await self._objects.create(_chunk_key(data_root, span, _PROOFS), _once(proof))
        await self._objects.create(_chunk_key(data_root, span), _once(data))

    async def chunk_with(self, id: str, at: int) -> tuple[bytes, bytes]:
        """The chunk of a transaction's data that has this byte, and its proof; that is empty where the chunk came
        before proofs were kept. Raises NotFound.
        """
        transaction = (await self.transaction(id)).transaction
        for span in await self._spans(transaction):
            if span.start <= at < span.end:
                key = _chunk_key(transaction.data_root, span, _PROOFS)
                proof = b"" if await self._objects.size(key) is None else await self._all(key)
                return await self._all(_chunk_key(transaction.data_root, span)), proof
        raise NotFound(f"byte {at} of the data of {id} has not come yet")

    async def transaction(self, id: str) -> StoredTransaction:
        """Raises NotFound."""
        key = _key(_TRANSACTIONS, id)
        if await self._objects.size(key) is None:
            raise NotFound(f"there is no transaction {id}")
        transaction, _ = read_transaction(json.loads(await self._beginning(key, _MAX_JSON_BYTES)))
        return StoredTransaction(transaction, await self._missing(transaction) is None)

    async def transaction_data(self, id: str, start: int = 0) -> AsyncGenerator[bytes, None]:
        """The data from a byte on. Raises NotFound when a chunk of it has not come yet."""
        transaction = (await self.transaction(id)).transaction
        at = start
        for span in await self._spans(transaction):
            if span.end <= start:
                continue
            if span.start > at:
                break
            async with aclosing(self._objects.read(_chunk_key(transaction.data_root, span), at - span.start)) as blocks:
                async for block in blocks:
                    yield block
            at = span.end
        if at < transaction.data_bytes:
            raise NotFound(f"byte {at} of the data of {id} has not come yet")

    async def all_transactions(self) -> AsyncGenerator[tuple[Transaction, float], None]:
        """With the Unix time of their storing. In no order."""
        async with aclosing(self._objects.list(_TRANSACTIONS)) as listed:
            async for stored in listed:
                document = json.loads(await self._beginning(stored.key, _MAX_JSON_BYTES))
                yield read_transaction(document)[0], stored.changed_seconds

    async def _missing(self, transaction: Transaction) -> int | None:
        """The first byte that is not there; None when all are."""
        at = 0
        for span in await self._spans(transaction):
            if span.start > at:
                return at
            at = span.end
        return at if at < transaction.data_bytes else None

    async def _spans(self, transaction: Transaction) -> list[Span]:
        """Chunks that are there, by their place. Whoever made the tree may have cut it otherwise than clients do."""
        found: list[Span] = []
        if transaction.data_root:
            async with aclosing(self._objects.list(f"{_CHUNKS}/{to_base64url(transaction.data_root)}")) as listed:
                async for stored in listed:
                    start = int(stored.key.rpartition("/")[2])
                    found.append(Span(start, start + stored.n_bytes))
        return sorted(found, key=lambda span: span.start)

    async def _all(self, key: str) -> bytes:
        async with aclosing(self._objects.read(key)) as blocks:
            return b"".join([block async for block in blocks])

    async def _beginning(self, key: str, n_bytes: int) -> bytes:
        begin = bytearray()
        async with aclosing(self._objects.read(key)) as blocks:
            async for block in blocks:
                begin += block
                if len(begin) >= n_bytes:
                    break
        return bytes(begin)


def _key(kind: str, id: str) -> str:
    if not is_id(id):
        raise Malformed(f"{id[:80]!r} is no id; one has 43 characters of base64url")
    return f"{kind}/{id}"


def _chunk_key(data_root: bytes, span: Span, kind: str = _CHUNKS) -> str:
    return f"{kind}/{to_base64url(data_root)}/{span.start}"


async def _once(data: bytes) -> AsyncGenerator[bytes, None]:
    yield data
