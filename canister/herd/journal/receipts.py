"""The chain of receipts of a herd's canisters: one of each canister, in the order in which its calls were settled.

A worker makes the record of a call, and the commit that ends the call gives it its place. So a call has one record,
whoever ran it and how often, and a worker that is lost takes none along. The tree over the records is that of
`ic/receipts/tree.py`; a row has the nodes that its record completes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from sqlalchemy import Connection, bindparam, delete, func, select, text

from canister.api.herd_wire import Receipted
from canister.herd.journal.databases import DatabasePair, reading
from canister.herd.journal.statements import Rows, Statement
from canister.herd.journal.tables import receipt as table
from canister.herd.journal.tables import receipt_contents, receipt_terms
from canister.ic.receipts import record as records
from canister.ic.receipts import tree
from canister.ic.receipts.document import receipt_id, terms_hash
from canister.ic.receipts.record import NO_HASH, RecordError
from canister.state.receipts import MOST_LOOKED_AT, Contents, Found, chat_key
from canister.telemetry.logs import get_logger

MOST_TERMS = 4096  # whose use is remembered
NOTED_AGAIN = 1024  # records; so often the use of the same terms is noted

log = get_logger(__name__)


class Terms:
    """Which terms the journal has, so that they are not written with each record: by canister and hash, the number of
    the record with which their use was noted last.
    """

    def __init__(self) -> None:
        self._noted: dict[tuple[str, bytes], int] = {}
        self._written: list[tuple[str, bytes, int, bytes]] = []  # by a commit of which nobody has told how it ended

    def is_noted(self, canister: str, of_hash: bytes, number: int) -> bool:
        noted = self._noted.get((canister, of_hash))
        return noted is not None and 0 <= number - noted < NOTED_AGAIN

    def written(self, canister: str, of_hash: bytes, number: int, leaf: bytes) -> None:
        """They are written in the commit of this record, which may not hold."""
        self._written.append((canister, of_hash, number, leaf))

    def look_back(self, connection: Connection) -> None:
        """Note what was written before, as far as it holds."""
        for canister, of_hash, number, leaf in self._written:
            record = _record(connection, canister, number)
            if record is not None and tree.leaf_hash(record) == leaf:
                if len(self._noted) >= MOST_TERMS:
                    self._noted.clear()
                self._noted[canister, of_hash] = number
        self._written.clear()


@dataclass(slots=True)
class _Chain:
    """The end of a canister's chain within a transaction."""

    size: int
    last: bytes  # leaf hash of the last record
    nodes: dict[tuple[int, int], bytes]  # of this transaction


@dataclass(slots=True)
class Page:
    """The records of one transaction."""

    connection: Connection
    terms: Terms
    _chains: dict[str, _Chain] = field(default_factory=dict)
    _rows: list[dict[str, Any]] = field(default_factory=list)
    _terms: dict[tuple[str, bytes], dict[str, Any]] = field(default_factory=dict)
    _contents: list[dict[str, Any]] = field(default_factory=list)

    def add(self, canister: str, told: Receipted, fence: int) -> str:
        """Put a record at the end of its canister's chain; returns the id of its receipt. "": it is no record.

        fence: of the try that ended the call, where the record names none.
        """
        try:
            record = records.read(told.record)
        except RecordError as error:
            log.error("a worker has sent a record that is none", canister=canister, reason=str(error))
            return ""
        if terms_hash(told.terms) != record.terms:
            log.error("a worker has sent a record without its terms", canister=canister)
            return ""
        if record.fence is None:
            record = replace(record, fence=fence)
        if not self._chains:
            self.terms.look_back(self.connection)
        chain = self._chain(canister)
        number = chain.size
        data = records.encode_at(record, number, chain.last)
        leaf = tree.leaf_hash(data)
        chain.nodes[0, number] = leaf
        nodes = tree.completed(number, leaf, _node_of(self.connection, canister, chain.nodes))
        for level, node in enumerate(nodes, 1):
            chain.nodes[level, number >> level] = node
        chain.size, chain.last = number + 1, leaf
        chat = None if record.chat is None else chat_key(record.caller, record.chat.cache)
        place = {"canister": canister, "number": number}
        self._rows.append({**place, "chat": chat, "record": data, "nodes": b"".join(nodes)})
        if not self.terms.is_noted(canister, record.terms, number):
            key = canister, record.terms
            if key not in self._terms:
                self._terms[key] = {"canister": canister, "hash": record.terms, "terms": told.terms, "used_at": number}
                self.terms.written(canister, record.terms, number, leaf)
        if told.words or told.argument or told.output:
            kept = {"words": told.words, "argument": told.argument, "output": told.output}
            self._contents.append({**place, **kept})
        return receipt_id(number, leaf)

    def write(self) -> None:
        _INSERT.run(self.connection, self._rows)
        _KEEP_CONTENTS.run(self.connection, self._contents)
        _KEEP_TERMS.run(self.connection, list(self._terms.values()))

    def _chain(self, canister: str) -> _Chain:
        chain = self._chains.get(canister)
        if chain is None:
            last = _LAST.fetch(self.connection, {"of": canister})
            size, leaf = (last[0][0] + 1, tree.leaf_hash(bytes(last[0][1]))) if last else (0, NO_HASH)
            chain = self._chains[canister] = _Chain(size, leaf, {} if not last else {(0, size - 1): leaf})
        return chain


class ReceiptChain:
    """The chain of one canister, for who reads it, on a thread of its own. All raise JournalUnavailable."""

    def __init__(self, pair: DatabasePair, canister: str) -> None:
        self._pair = pair
        self._canister = canister

    @property
    def size(self) -> int:
        """Records that were ever made."""
        with reading(self._pair) as connection:
            return self._size(connection)

    def first(self) -> int:
        c = table.c
        of = c.canister == self._canister
        with reading(self._pair) as connection:
            lowest = connection.execute(select(c.number).where(of).order_by(c.number).limit(65)).scalars().all()
            n_kept = connection.execute(select(func.count()).select_from(table).where(of)).scalar_one()
            return tree.first_kept(lowest, n_kept, self._size(connection))

    def consistency(self, since: int) -> tuple[int, bytes, tuple[bytes, ...]]:
        """As of `state/receipts.py`, and so are all others here."""
        with reading(self._pair) as connection:
            size, node = self._size(connection), _node_of(connection, self._canister)
            return size, tree.root(size, node), tuple(tree.consistency_path(since, size, node))

    def find(self, index: int, since: int = 0) -> Found | None:
        with reading(self._pair) as connection:
            row = _record(connection, self._canister, index)
            if row is None:
                return None
            size, node = self._size(connection), _node_of(connection, self._canister)
            terms = self._terms(connection, records.decode(row).terms)
            if terms is None:
                return None
            return Found.proved(index, row, terms, size, node, since)

    def contents(self, index: int) -> Contents | None:
        c = receipt_contents.c
        query = select(c.words, c.argument, c.output).where(c.canister == self._canister, c.number == index)
        with reading(self._pair) as connection:
            row = connection.execute(query).one_or_none()
        return None if row is None else Contents(*map(bytes, row))

    def newest(self, caller: bytes, below: int, most: int) -> list[tuple[int, bytes]]:
        c = table.c
        with reading(self._pair) as connection:
            end = min(below, self._size(connection))
            within = (c.canister == self._canister, c.number < end, c.number >= end - MOST_LOOKED_AT)
            rows = connection.execute(select(c.number, c.record).where(*within).order_by(c.number.desc())).all()
        found = [(number, bytes(record)) for number, record in rows]
        return [(number, record) for number, record in found if records.decode(record).caller == caller][:most]

    def of_chat(self, caller: bytes, cache: str, below: int, most: int) -> list[tuple[int, bytes]]:
        c = table.c
        within = (c.canister == self._canister, c.chat == chat_key(caller, cache), c.number < below)
        query = select(c.number, c.record).where(*within).order_by(c.number.desc()).limit(most)
        with reading(self._pair) as connection:
            return [(number, bytes(record)) for number, record in connection.execute(query)]

    def _size(self, connection: Connection) -> int:
        last = connection.execute(select(func.max(table.c.number)).where(table.c.canister == self._canister))
        found = last.scalar_one()
        return 0 if found is None else int(found) + 1

    def _terms(self, connection: Connection, of_hash: bytes) -> bytes | None:
        c = receipt_terms.c
        found = connection.execute(select(c.terms).where(c.canister == self._canister, c.hash == of_hash)).scalar()
        return None if found is None else bytes(found)


def purge(connection: Connection, n_kept: int) -> None:
    """Drop the records of each canister beyond the newest n_kept, but for those that complete the tree over them."""
    c = table.c
    for canister, last in connection.execute(select(c.canister, func.max(c.number)).group_by(c.canister)).all():
        first = last + 1 - n_kept
        if first <= 0:
            continue
        ends = tree.whole_ends(first)
        old = (c.canister == canister, c.number < first)
        connection.execute(delete(table).where(*old, c.number.not_in(ends)))
        k, t = receipt_contents.c, receipt_terms.c
        connection.execute(delete(receipt_contents).where(k.canister == canister, k.number < first))
        unused = (t.canister == canister, t.used_at < first - NOTED_AGAIN)
        connection.execute(delete(receipt_terms).where(*unused))


def _record(connection: Connection, canister: str, number: int) -> bytes | None:
    rows = _ROW.fetch(connection, {"of": canister, "wanted": number})
    return bytes(rows[0][0]) if rows else None


def _node_of(connection: Connection, canister: str, known: Mapping[tuple[int, int], bytes] = tree.NOTHING) -> tree.Node:
    def completed_by(number: int) -> bytes | None:
        rows = _NODES.fetch(connection, {"of": canister, "wanted": number})
        return bytes(rows[0][0]) if rows else None

    return tree.node_of(partial(_record, connection, canister), completed_by, known)


_c = table.c
_of = _c.canister == bindparam("of")
_LAST = Statement(select(_c.number, _c.record).where(_of).order_by(_c.number.desc()).limit(1))
_ROW = Statement(select(_c.record).where(_of, _c.number == bindparam("wanted")))
_NODES = Statement(select(_c.nodes).where(_of, _c.number == bindparam("wanted")))
_INSERT = Rows(table, ("canister", "number", "chat", "record", "nodes"))
_KEEP_CONTENTS = Rows(receipt_contents, ("canister", "number", "words", "argument", "output"))
_KEEP_TERMS = Statement(
    text(
        "INSERT INTO receipt_terms (canister, hash, terms, used_at) VALUES (:canister, :hash, :terms, :used_at) "
        "ON CONFLICT (canister, hash) DO UPDATE SET used_at = excluded.used_at"
    )
)
