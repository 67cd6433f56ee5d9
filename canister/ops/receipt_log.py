"""The receipts of a canister in a data folder that no server uses: their chain, and what a replay needs of each call.

Nothing is written. The records of such a folder are signed by nobody; whether they were changed is told by their chain,
as far as whoever changed them has not made all of it anew. A receipt that was handed out tells that too.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

from canister.engine.told_calls import words_of
from canister.errors import Conflict, NotFound, StoreDamaged
from canister.ic import principal
from canister.ic.receipts import record as records
from canister.ic.receipts import tree
from canister.ic.receipts.document import Replay
from canister.ic.receipts.record import NO_HASH, Record, RecordError
from canister.store import outside
from canister.store.cache_paths import sessions_of
from canister.store.container import CacheFile
from canister.store.migrations import HEADS
from canister.store.paths import clean_file_path
from canister.system.data_dir import CANISTER_DATABASE, CANISTERS, SERVER_DATABASE, STABLE, STAGING
from canister.system.hashing import sha256_of_file

MODELS = ".gguf"


@contextmanager
def opened(data_dir: Path, canister: str) -> Iterator[ReceiptLog]:
    """The receipts of a canister, by its name or id. Raises NotFound, Conflict (another version's), StoreDamaged."""
    if not (data_dir / SERVER_DATABASE).is_file():
        raise NotFound(f"no server has run with {data_dir}; --data-dir names another folder, --network a server")
    try:
        with outside.examining(data_dir / SERVER_DATABASE) as server:
            ids = outside.ids_by_name(server)
        id = ids.get(canister, canister)
        if id not in ids.values():
            raise NotFound(f"{data_dir} has no canister {canister!r}, but {', '.join(sorted(ids))}")
        folder = data_dir / CANISTERS / id
        with outside.examining(folder / CANISTER_DATABASE) as database:
            if outside.revision(database) != HEADS["canister"]:
                raise Conflict(f"{folder} was written by another version; start its server once, or use that version")
            yield ReceiptLog(id, folder, database)
    except sqlite3.Error as error:
        raise StoreDamaged(f"{data_dir} cannot be read ({error}); `canister doctor` tells more") from error


class ReceiptLog:
    """faults: what is wrong with the chain, in sentences. first: from which record on all are kept. size: that were
    ever made.
    """

    def __init__(self, id: str, folder: Path, database: sqlite3.Connection) -> None:
        self.canister_id = principal.from_text(id)
        self._folder, self._database = folder, database
        self._records: dict[int, bytes] = {}
        self.faults: list[str] = []
        nodes: dict[tuple[int, int], bytes] = {}
        last: tuple[int, bytes] | None = None
        for number, data, told in outside.receipts(database):
            self._records[number] = data
            self.faults += self._faults_of(number, data, last)
            last = number, tree.leaf_hash(data)
            nodes[0, number] = last[1]
            for level in range(1, len(told) // tree.HASH_BYTES + 1):
                nodes[level, number >> level] = told[tree.HASH_BYTES * (level - 1) : tree.HASH_BYTES * level]
        numbers = list(self._records)
        self.size = numbers[-1] + 1 if numbers else 0
        self.first = next((n for n in reversed(range(self.size)) if n - 1 not in self._records), 0)
        self.faults += self._faults_of_gaps(numbers) + self._faults_of_tree(nodes)

    def _faults_of(self, number: int, data: bytes, last: tuple[int, bytes] | None) -> list[str]:
        try:
            record = records.decode(data)
        except RecordError as error:
            return [f"record {number} is damaged: {error}"]
        if record.index != number:
            return [f"record {number} says that it is number {record.index}"]
        follows = last is None or last[0] + 1 != number or record.previous == last[1]
        if not follows or (number == 0) != (record.previous == NO_HASH):
            return [f"record {number} does not follow the one before it: one of them was changed, or one is missing"]
        return []

    def _faults_of_gaps(self, numbers: Sequence[int]) -> list[str]:
        """Of old records, those stay that complete the tree over them, and no others."""
        below = [number for number in numbers if number < self.first]
        ends = range(self.first, self.first + 64)
        if any(below == [end for end in tree.whole_ends(one) if end < self.first] for one in ends):
            return []
        return [f"a record was left out: there is none of call {self.first - 1}"]

    def _faults_of_tree(self, nodes: Mapping[tuple[int, int], bytes]) -> list[str]:
        for (level, n), told in nodes.items():
            left, right = nodes.get((level - 1, 2 * n)), nodes.get((level - 1, 2 * n + 1))
            if level and left is not None and right is not None and tree.node_hash(left, right) != told:
                return [f"the tree over the records is wrong above records {n << level} to {((n + 1) << level) - 1}"]
        return []

    def record(self, number: int) -> tuple[bytes, bytes] | None:
        """A record and its terms; None where either is not kept."""
        data = self._records.get(number)
        terms = None if data is None else outside.receipt_terms(self._database, records.decode(data).terms)
        return None if data is None or terms is None else (data, terms)

    def replay_of(self, record: Record) -> Replay:
        """What is kept of a call: its contents, or the tokens of its chat as far as they are still those behind it."""
        kept = outside.receipt_contents(self._database, record.index)
        if kept is not None:
            return Replay(*kept)
        chat = record.chat
        if chat is None or not chat.cache:
            return Replay()
        words = self._words(f"{sessions_of(principal.to_text(record.caller))}/{chat.cache}")[: 4 * chat.n_after]
        return Replay(words if records.words_hash(words) == chat.after else b"")

    def _words(self, path: str) -> bytes:
        path = clean_file_path(path)
        found = self._file(path)
        if found is None:
            return b""
        with found.open("rb") as file:
            try:
                held = CacheFile.parse(
                    lambda offset, n_bytes: os.pread(file.fileno(), n_bytes, offset), self._sizes[path]
                )
            except StoreDamaged:
                return b""
        return words_of(held.tokens, held.generated, held.starts, held.redrawn)

    @cached_property
    def _sizes(self) -> dict[str, int]:
        return {row[0]: row[1] for row in outside.files(self._database)}

    def _file(self, path: str) -> Path | None:
        """Where a committed file lies."""
        staged = outside.staged(self._database).get(path)
        places = [self._folder / STABLE / path, *([] if staged is None else [self._folder / STAGING / staged])]
        return next((place for place in reversed(places) if path in self._sizes and place.is_file()), None)

    def model(self, digest: bytes) -> Path | None:
        """The file of stable memory that is this model; a split one is none."""
        known = outside.digests(self._database)
        for path in sorted(self._sizes):
            file = self._file(path) if path.endswith(MODELS) else None
            if file is not None and (known.get(path) or sha256_of_file(file)) == digest.hex():
                return file
        return None
