"""Who leads: a lock that ends with its holder, and the row with the epoch that every change of a job compares."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from sqlalchemy import Connection, insert, select, text, update

from canister.errors import Conflict, LeadershipLost
from canister.herd.journal.databases import DatabasePair, Unreachable, clear_errors
from canister.herd.journal.records import Leader
from canister.herd.journal.statements import Row, Statement
from canister.herd.journal.tables import leader as table
from canister.system.data_dir import FolderLock

# Of PostgreSQL; the second number is the schema's, so that herds in different schemas of one database have one each.
_TRY_LOCK = text("SELECT pg_try_advisory_lock(1819045224, hashtext(current_schema()))")
_UNLOCK = text("SELECT pg_advisory_unlock_all()")


@dataclass(frozen=True, slots=True)
class Lead:
    holder: str
    address: str


class LeaderLock:
    """The lock itself: of a session of PostgreSQL, or of a file beside SQLite's. It is gone when this process is."""

    def __init__(self, pair: DatabasePair) -> None:
        self._pair = pair
        self._file = None if pair.path is None else FolderLock(Path(f"{pair.path}.leader"))
        self._session: Connection | None = None
        self._is_held = False
        self._one_at_a_time = Lock()

    def take(self) -> bool:
        """Have the lock, also if it is held already. False: another has it. Raises Unreachable."""
        with self._one_at_a_time:
            if self._file is not None:
                return self._take_file(self._file)
            return self._take_session()

    def release(self) -> None:
        with self._one_at_a_time:
            if self._file is not None:
                self._file.release()
            self._drop_session()
            self._is_held = False

    def _take_file(self, file: FolderLock) -> bool:
        if not self._is_held:
            with suppress(Conflict), clear_errors(self._pair.name):
                file.take()
                self._is_held = True
        return self._is_held

    def _take_session(self) -> bool:
        if self._session is not None:
            try:
                with clear_errors(self._pair.name):
                    self._session.execute(text("SELECT 1"))
                    return True
            except Unreachable:
                self._drop_session()
        with clear_errors(self._pair.name):
            session = self._pair.writers.connect().execution_options(isolation_level="AUTOCOMMIT")
            if session.execute(_TRY_LOCK).scalar_one():
                self._session = session
                return True
            session.close()
            return False

    def _drop_session(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            with suppress(Exception):  # it may be lost, and the lock with it
                session.execute(_UNLOCK)
            with suppress(Exception):
                session.invalidate()
                session.close()


def begin(connection: Connection, leads: Sequence[Lead]) -> list[int | Exception]:
    """The next epoch; waits for what the leader before is just committing."""
    epochs: list[int | Exception] = []
    for lead in leads:
        now = connection.execute(select(table.c.epoch).with_for_update()).scalar_one_or_none()
        values = {"holder": lead.holder, "address": lead.address, "epoch": (now or 0) + 1, "since_ns": time.time_ns()}
        if now is None:
            connection.execute(insert(table).values(one=1, **values))
        else:
            connection.execute(update(table).values(**values))
        epochs.append((now or 0) + 1)
    return epochs


def epoch(connection: Connection) -> int:
    """The epoch of who leads, which stays until the transaction ends; 0 before anybody has led."""
    return epoch_in(EPOCH.fetch(connection))


def epoch_in(rows: Sequence[Row]) -> int:
    """What EPOCH has found."""
    return int(rows[0][0]) if rows else 0


def lost() -> LeadershipLost:
    return LeadershipLost("another process leads this herd by now; ask again")


def current(connection: Connection) -> Leader | None:
    row = connection.execute(select(table.c.holder, table.c.address, table.c.epoch)).one_or_none()
    return None if row is None else Leader(*row)


EPOCH = Statement(select(table.c.epoch).with_for_update(read=True))
