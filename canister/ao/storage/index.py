"""What a gateway has, in memory: records by id, owner, recipient and tag, the newest first. Made again at each start.

A look-up walks the shortest list that the filter names, so that finding a process' id among a million items is quick.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from canister.ao.arweave.transactions import Transaction
from canister.ao.encoding import sha256, to_base64url
from canister.ao.signing.items import Head
from canister.ao.signing.tags import Tag
from canister.ao.storage.items import ItemStore, StoredItem
from canister.ao.storage.queries import Filter, Record

BLOCK_SECONDS = 120  # Arweave's
_INDEXED_TAG_BYTES = 100  # values that are longer are found by their names


@dataclass(frozen=True, slots=True)
class Block:
    """Here blocks follow the clock: every so many seconds begins one, with all that comes until the next."""

    id: str
    height: int
    seconds: int


def block_at(seconds: float, block_seconds: int = BLOCK_SECONDS) -> Block:
    """The block of a Unix time."""
    height = int(seconds) // block_seconds
    return Block(to_base64url(sha256(b"block %d" % height)), height, height * block_seconds)


class Index:
    """Of one thread. `place` of a record is when it was added, so that cursors stay what they are."""

    def __init__(self) -> None:
        self._by_id: dict[str, Record] = {}
        self._all: list[Record] = []
        self._lists: defaultdict[tuple[str, bytes, bytes], list[Record]] = defaultdict(list)

    @classmethod
    async def of(cls, store: ItemStore) -> Index:
        """All that a store has, in the order in which it came."""
        index = cls()
        found: list[StoredItem | tuple[Transaction, float]] = [item async for item in store.all_items()]
        found += [transaction async for transaction in store.all_transactions()]
        found.sort(key=lambda each: each.seconds if isinstance(each, StoredItem) else each[1])
        for each in found:
            if isinstance(each, StoredItem):
                index.add_item(each, each.seconds)
            else:
                index.add_transaction(*each)
        return index

    def add_item(self, item: StoredItem, seconds: float) -> Record:
        """seconds: Unix time of its coming. One that is there already stays as it is."""
        return self._add(item.head.id, lambda place: _record(place, item.head, item.data_bytes, seconds))

    def add_transaction(self, transaction: Transaction, seconds: float) -> Record:
        return self._add(
            transaction.id,
            lambda place: replace(
                _record(place, transaction, transaction.data_bytes, seconds),
                quantity=transaction.quantity,
                reward=transaction.reward,
            ),
        )

    def add_known(self, id: str, owner: str, tags: Sequence[Tag], seconds: float = 0.0) -> Record:
        """What is known here by its id alone, such as a module that programs name: it has no data and no signature."""
        block = block_at(seconds)
        return self._add(
            id,
            lambda place: Record(
                place=place,
                id=id,
                owner=owner,
                owner_key="",
                target="",
                anchor="",
                signature="",
                tags=tuple(tags),
                data_bytes=0,
                block_id=block.id,
                height=block.height,
                seconds=block.seconds,
            ),
        )

    def record(self, id: str) -> Record | None:
        return self._by_id.get(id)

    def find(self, wanted: Filter) -> Iterable[Record]:
        """At least all that match, the newest first."""
        if wanted.ids:
            named = (self._by_id[id] for id in wanted.ids if id in self._by_id)
            return sorted(named, key=lambda record: record.place, reverse=True)
        shortest = min(self._candidates(wanted), key=lambda lists: sum(map(len, lists)), default=[self._all])
        return self._newest_first(shortest)

    def __len__(self) -> int:
        return len(self._all)

    def _candidates(self, wanted: Filter) -> Iterator[list[list[Record]]]:
        """Lists of records, each of which has all that match."""
        for kind, texts in (("owner", wanted.owners), ("recipient", wanted.recipients)):
            if texts:
                yield [self._lists.get((kind, text.encode(), b""), []) for text in texts]
        for name, values in wanted.tags:
            if values and all(len(value) <= _INDEXED_TAG_BYTES for value in values):
                yield [self._lists.get(("tag", name, value), []) for value in values]
            else:
                yield [self._lists.get(("name", name, b""), [])]

    def _newest_first(self, lists: list[list[Record]]) -> Iterator[Record]:
        if len(lists) == 1:
            yield from reversed(lists[0])
            return
        merged = {record.place: record for records in lists for record in records}
        yield from (merged[place] for place in sorted(merged, reverse=True))

    def _add(self, id: str, make: Callable[[int], Record]) -> Record:
        known = self._by_id.get(id)
        if known is not None:
            return known
        record = make(len(self._all))
        self._by_id[id] = record
        self._all.append(record)
        keys = {("owner", record.owner.encode(), b""), ("recipient", record.target.encode(), b"")}
        for name, value in record.tags:
            keys.add(("name", name, b""))
            if len(value) <= _INDEXED_TAG_BYTES:
                keys.add(("tag", name, value))
        for key in keys:
            self._lists[key].append(record)
        return record


def _record(place: int, signed: Head | Transaction, data_bytes: int, seconds: float) -> Record:
    block = block_at(seconds)
    return Record(
        place=place,
        id=signed.id,
        owner=signed.address,
        owner_key=to_base64url(signed.owner),
        target=to_base64url(signed.target),
        anchor=to_base64url(signed.anchor),
        signature=to_base64url(signed.signature),
        tags=signed.tags,
        data_bytes=data_bytes,
        block_id=block.id,
        height=block.height,
        seconds=block.seconds,
    )
