"""The chain of receipts: a record a call, appended in the call's own transaction, and a tree over all of them.

The number of a record is its place in the order of commits, so all that depends on it is made on the writer thread. A
row has the nodes of the tree that its record completes. Old records go when there are more than are to be kept; what
later proofs need of them stays, log n rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from sqlalchemy import Connection, bindparam, delete, func, select
from sqlalchemy.dialects.sqlite import insert

from canister.ic.receipts import record as records
from canister.ic.receipts import tree
from canister.ic.receipts.document import receipt_id
from canister.ic.receipts.record import NO_HASH, Record
from canister.store.database import Database
from canister.store.statements import Prepared
from canister.store.tables import receipt_contents, receipt_terms, receipts

if TYPE_CHECKING:
    from canister.store.transaction import Transaction

PRUNED_AT_ONCE = 64  # records
MOST_LOOKED_AT = 1000  # of them, for those of a caller

_LAST = Prepared(
    select(receipts.c.number, receipts.c.record).where(
        receipts.c.number == select(func.max(receipts.c.number)).scalar_subquery()
    )
)
_ROW = Prepared(select(receipts.c.record).where(receipts.c.number == bindparam("wanted")))
_NODES = Prepared(select(receipts.c.nodes).where(receipts.c.number == bindparam("wanted")))
_INSERT = Prepared(insert(receipts), "number", "chat", "record", "nodes")
_OF_CHAT = Prepared(
    select(receipts.c.number, receipts.c.record)
    .where(receipts.c.chat == bindparam("of_chat"), receipts.c.number < bindparam("below"))
    .order_by(receipts.c.number.desc())
    .limit(bindparam("most"))
)
_NEWEST = Prepared(
    select(receipts.c.number, receipts.c.record)
    .where(receipts.c.number < bindparam("below"), receipts.c.number >= bindparam("first"))
    .order_by(receipts.c.number.desc())
)
_LOWEST = select(receipts.c.number).order_by(receipts.c.number).limit(65)
_NEW_TERMS = insert(receipt_terms)
_KEEP_TERMS = Prepared(
    _NEW_TERMS.on_conflict_do_update(index_elements=["hash"], set_={"used_at": _NEW_TERMS.excluded.used_at}),
    *("hash", "terms", "used_at"),
)
_TERMS = Prepared(select(receipt_terms.c.terms).where(receipt_terms.c.hash == bindparam("of_hash")))
_KEEP_CONTENTS = Prepared(insert(receipt_contents), "number", "words", "argument", "output")
_CONTENTS = Prepared(
    select(receipt_contents.c.words, receipt_contents.c.argument, receipt_contents.c.output).where(
        receipt_contents.c.number == bindparam("wanted")
    )
)


@dataclass(frozen=True, slots=True)
class Contents:
    """What a record has the hashes of: words of tokens, argument and output in CBOR."""

    words: bytes
    argument: bytes
    output: bytes


@dataclass(slots=True)
class Added:
    """The place of a record in the chain, once it is committed."""

    index: int = -1
    leaf: bytes = b""

    @property
    def id(self) -> str:
        return receipt_id(self.index, self.leaf)


@dataclass(frozen=True, slots=True)
class Found:
    """A record with what proves it: `size` records are under `root`, and path leads there. since_root, consistency:
    of the first records, as asked for.
    """

    index: int
    record: bytes
    terms: bytes
    size: int
    root: bytes
    path: tuple[bytes, ...]
    since_root: bytes
    consistency: tuple[bytes, ...]

    @classmethod
    def proved(cls, index: int, record: bytes, terms: bytes, size: int, node: tree.Node, since: int) -> Self:
        """Of a chain of `size` records with these nodes. since: 0: nothing is asked. tree.ProofError."""
        consistency = tuple(tree.consistency_path(since, size, node)) if since else ()
        since_root = tree.root(since, node) if since else b""
        path = tuple(tree.inclusion_path(index, size, node))
        return cls(index, record, terms, size, tree.root(size, node), path, since_root, consistency)


class Receipts:
    """n_kept: records that are kept; 0: all. most_bytes: of their contents; those of the oldest go first."""

    def __init__(self, database: Database, n_kept: int, most_bytes: int = 1 << 62) -> None:
        self._database = database
        self._n_kept, self._most_bytes = n_kept, most_bytes
        self._content_bytes: int | None = None  # not counted yet
        self._terms: dict[bytes, int] = {}  # by hash, when they were last noted as used

    def add(self, transaction: Transaction, record: Record, terms: bytes, contents: Contents | None = None) -> Added:
        """Append a record when this transaction commits; its index and `previous` are found then."""
        added = Added()
        noted = self._terms.get(record.terms)
        chat = None if record.chat is None else chat_key(record.caller, record.chat.cache)

        def append(connection: Connection) -> None:
            last = _LAST.run(connection).fetchone()
            index = 0 if last is None else last[0] + 1
            previous = NO_HASH if last is None else tree.leaf_hash(last[1])
            data = records.encode_at(record, index, previous)
            leaf = tree.leaf_hash(data)
            nodes = tree.completed(index, leaf, _nodes(connection, {(0, index - 1): previous}))
            row = {"number": index, "chat": chat, "record": data, "nodes": b"".join(nodes)}
            _INSERT.run(connection, row)
            if noted is None or index - noted >= max(1, self._n_kept // 4):
                _KEEP_TERMS.run(connection, {"hash": record.terms, "terms": terms, "used_at": index})
            if contents is not None:
                kept = {"words": contents.words, "argument": contents.argument, "output": contents.output}
                _KEEP_CONTENTS.run(connection, {"number": index, **kept})
                self._bound_contents(connection, contents)
            if self._n_kept and index % PRUNED_AT_ONCE == 0 and index > self._n_kept:
                _prune(connection, index - self._n_kept, self._n_kept // 4)
            added.index, added.leaf = index, leaf

        def committed() -> None:
            if noted is None or added.index - noted >= max(1, self._n_kept // 4):
                if len(self._terms) > 4096:
                    self._terms.clear()
                self._terms[record.terms] = added.index

        transaction.run(append)
        transaction.on_commit(committed)
        return added

    def _bound_contents(self, connection: Connection, contents: Contents) -> None:
        """On the writer thread. What was undone or pruned is counted until all is counted anew."""
        added = len(contents.words) + len(contents.argument) + len(contents.output)
        if self._content_bytes is None:
            self._content_bytes = _prune_contents(connection, self._most_bytes)
        else:
            self._content_bytes += added
            if self._content_bytes > self._most_bytes:
                self._content_bytes = _prune_contents(connection, self._most_bytes // 8 * 7)

    @property
    def size(self) -> int:
        """Records that were ever made."""
        with self._database.read() as connection:
            return _size(connection)

    def first(self) -> int:
        """The number of the record from which on all are kept."""
        with self._database.read() as connection:
            lowest = connection.execute(_LOWEST).scalars().all()
            n_kept = connection.execute(select(func.count()).select_from(receipts)).scalar_one()
            return tree.first_kept(lowest, n_kept, _size(connection))

    def head(self) -> tuple[int, bytes]:
        """The number of records, and the root of their tree."""
        with self._database.read() as connection:
            size = _size(connection)
            return size, tree.root(size, _nodes(connection))

    def consistency(self, since: int) -> tuple[int, bytes, tuple[bytes, ...]]:
        """The head, and what proves that the first `since` records are its beginning. tree.ProofError."""
        with self._database.read() as connection:
            size, node = _size(connection), _nodes(connection)
            return size, tree.root(size, node), tuple(tree.consistency_path(since, size, node))

    def record(self, index: int) -> bytes | None:
        """The bytes of a record; None for one that never was, or is kept no more."""
        row = self._database.first(_ROW, {"wanted": index})
        return None if row is None else bytes(row[0])

    def find(self, index: int, since: int = 0) -> Found | None:
        """A record with its proofs, as of now. None as of `record`. since: as of `consistency`; tree.ProofError."""
        with self._database.read() as connection:
            row = _ROW.run(connection, {"wanted": index}).fetchone()
            if row is None:
                return None
            data, size, node = bytes(row[0]), _size(connection), _nodes(connection)
            terms = _TERMS.run(connection, {"of_hash": records.decode(data).terms}).fetchone()
            if terms is None:
                return None
            return Found.proved(index, data, bytes(terms[0]), size, node, since)

    def terms(self, of_hash: bytes) -> bytes | None:
        """The terms with this hash, as long as a record names them."""
        row = self._database.first(_TERMS, {"of_hash": of_hash})
        return None if row is None else bytes(row[0])

    def contents(self, index: int) -> Contents | None:
        row = self._database.first(_CONTENTS, {"wanted": index})
        return None if row is None else Contents(bytes(row[0]), bytes(row[1]), bytes(row[2]))

    def newest(self, caller: bytes, below: int, most: int) -> list[tuple[int, bytes]]:
        """Number and record of a caller's calls among the MOST_LOOKED_AT records before `below`, the newest first."""
        with self._database.read() as connection:
            end = min(below, _size(connection))
            rows = _NEWEST.run(connection, {"below": end, "first": end - MOST_LOOKED_AT}).fetchall()
        return [(number, bytes(record)) for number, record in rows if _is_of(caller, record)][:most]

    def of_chat(self, caller: bytes, cache: str, below: int, most: int) -> list[tuple[int, bytes]]:
        """Number and record of the newest calls on one of the caller's caches, the newest first."""
        values = {"of_chat": chat_key(caller, cache), "below": below, "most": most}
        with self._database.read() as connection:
            return [(number, bytes(record)) for number, record in _OF_CHAT.run(connection, values).fetchall()]


def _is_of(caller: bytes, record: bytes) -> bool:
    return records.decode(record).caller == caller


def chat_key(caller: bytes, cache: str) -> int | None:
    """Finds the calls on a prompt cache; others may have the same by chance. None: there is no cache."""
    if not cache:
        return None
    found = hashlib.sha256(len(caller).to_bytes(1) + caller + cache.encode()).digest()[:8]
    return int.from_bytes(found, "little", signed=True)


def _size(connection: Connection) -> int:
    last = _LAST.run(connection).fetchone()
    return 0 if last is None else int(last[0]) + 1


def _nodes(connection: Connection, known: Mapping[tuple[int, int], bytes] = tree.NOTHING) -> tree.Node:
    def of(statement: Prepared) -> Callable[[int], bytes | None]:
        def read(number: int) -> bytes | None:
            row = statement.run(connection, {"wanted": number}).fetchone()
            return None if row is None else bytes(row[0])

        return read

    return tree.node_of(of(_ROW), of(_NODES), known)


def _prune(connection: Connection, first: int, slack: int) -> None:
    """Remove the records before `first`, but for those that complete the tree over them."""
    ends, table = tree.whole_ends(first), receipts
    connection.execute(delete(table).where(table.c.number < first, table.c.number.not_in(ends)))
    connection.execute(delete(receipt_contents).where(receipt_contents.c.number < first))
    connection.execute(delete(receipt_terms).where(receipt_terms.c.used_at < first - slack))


def _prune_contents(connection: Connection, most_bytes: int) -> int:
    """Remove the contents of the oldest records, beyond so many bytes of all; bytes that are left."""
    table, total = receipt_contents, 0
    sizes = func.length(table.c.words) + func.length(table.c.argument) + func.length(table.c.output)
    for number, n_bytes in connection.execute(select(table.c.number, sizes).order_by(table.c.number.desc())):
        if total + n_bytes > most_bytes:
            connection.execute(delete(table).where(table.c.number <= number))
            break
        total += n_bytes
    return total
