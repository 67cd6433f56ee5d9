"""The thread that writes: all that waits becomes one transaction, one COMMIT, one wait for the disk.

Steps of a kind are done together, in few statements. A step decides on rows that it has locked, and then writes what
cannot fail; so one that is refused does not spoil the others. Steps in one transaction are sorted by kind, which nobody
can notice: whoever needs the effect of a step has waited for its commit.

A connection to PostgreSQL may be lost in the middle of COMMIT, so that nobody knows whether it holds. Each transaction
there therefore marks the writer's own row. The row is locked and read again afterwards, which waits for the old
transaction to end, and the mark tells. Then the steps are answered, or run again. SQLite has no connection to lose.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sqlalchemy import Connection, bindparam, delete, insert, select, update

from canister.errors import Busy, JournalUnavailable, StoreDamaged
from canister.herd.journal.databases import Again, DatabasePair, Unreachable, clear_errors, unavailable
from canister.herd.journal.statements import Statement
from canister.herd.journal.tables import writer as table
from canister.store.connections import BEGIN_WRITING
from canister.store.statements import driver_of
from canister.telemetry import metrics

MAX_GROUP = 256  # steps in one transaction; so nobody waits for too many others
_RETRY_SECONDS = (0.05, 0.1, 0.2, 0.5, 1.0)
_MAX_TRIES = 8  # of a transaction that the database undoes in favour of others
_KEPT_NS = 7 * 24 * 3600 * 10**9  # marks of writers that are gone

V = TypeVar("V")
T = TypeVar("T")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Kind(Generic[V, T]):
    """What a step does. `run` gets all steps of a transaction and returns a result, or an error, for each in order.

    rank: kinds of a lower rank run first. Errors of `run` itself undo the whole transaction.
    """

    name: str
    rank: int
    run: Callable[[Connection, Sequence[V]], Sequence[T | Exception]]


@dataclass(slots=True, eq=False)
class _Step:
    kind: Kind[Any, Any]
    value: Any
    until: float  # monotonic; inf: for as long as the writer lives
    future: Future[Any]


class Writer:
    """One thread with one connection. `submit` may be called from any thread."""

    def __init__(self, pair: DatabasePair) -> None:
        self._pair = pair
        self._id = os.urandom(16)
        self._steps: queue.SimpleQueue[_Step | None] = queue.SimpleQueue()
        self._held: deque[_Step] = deque()  # taken from the queue, not yet begun
        self._is_ending = False
        self._connection: Connection | None = None
        self._unknown: tuple[bytes, list[Any]] | None = None  # mark and results of a COMMIT whose outcome is not known
        self._n_lost = 0  # connections in a row
        self._closing = threading.Lock()  # held while a step is queued, so that none comes after the end
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to write. Raises JournalUnavailable when the database cannot be reached."""
        try:
            with clear_errors(self._pair.name):
                self._enrol(self._connect())
        except Unreachable as error:
            raise unavailable(error) from error
        self._thread = threading.Thread(target=self._write, name="herd journal", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Do what is queued, and end. What cannot be done since the database does not answer fails. May be called
        twice.
        """
        with self._closing:
            thread, self._thread = self._thread, None
            if thread is not None:
                self._steps.put(None)
        if thread is not None:
            thread.join()

    @property
    def is_open(self) -> bool:
        return self._thread is not None

    def submit(self, kind: Kind[V, T], value: V, patience_seconds: float) -> Future[T]:
        """Do a step; the future is done when it is durable. One whose future is cancelled may be done all the same.

        patience_seconds: for a database that does not answer; then the caller is told so. inf: to the end.
        """
        step = _Step(kind, value, time.monotonic() + patience_seconds, Future())
        with self._closing:
            if self._thread is None:
                raise JournalUnavailable("the journal is closed")
            self._steps.put(step)
        return step.future

    # -- on the thread

    def _write(self) -> None:
        while group := self._next_group():
            self._do(group)
            del group  # or the last results live until the next step comes
        self._disconnect()

    def _next_group(self) -> list[_Step]:
        """What waits, at least one step; none at the end."""
        while True:
            if not self._held:
                if self._is_ending:
                    return []
                self._take(self._steps.get())
            self._take_all()
            group: list[_Step] = []
            while self._held and len(group) < MAX_GROUP:
                step = self._held.popleft()
                if step.future.set_running_or_notify_cancel():
                    group.append(step)
            if group:
                return group

    def _take(self, step: _Step | None) -> None:
        if step is None:
            self._is_ending = True
        else:
            self._held.append(step)

    def _take_all(self) -> None:
        while True:
            try:
                self._take(self._steps.get_nowait())
            except queue.Empty:
                return

    def _do(self, group: list[_Step]) -> None:
        """Make the steps durable and answer them, in one transaction; one by one if they cannot be together."""
        started = time.perf_counter()
        group.sort(key=lambda step: step.kind.rank)
        n_tries = 0
        results: list[Any] | None = None
        while results is None:
            try:
                results = self._transact(group)
            except Unreachable as error:
                results = self._reached_again(error, group)
                if results is None:
                    group = [step for step in group if not step.future.done()]
                    if not group:
                        return
            except BaseException as error:
                n_tries += 1
                if isinstance(error, Again) and n_tries < _MAX_TRIES:
                    time.sleep(0.01 * n_tries)
                elif len(group) == 1 or isinstance(error, Busy | StoreDamaged):  # no better one by one
                    for step in group:
                        step.future.set_exception(_told(error))
                    return
                else:
                    for step in group:
                        self._do([step])
                    return
        metrics.count_group(len(group), time.perf_counter() - started)
        for step, result in zip(group, results, strict=True):
            if step.future.done():  # it has lost its patience meanwhile
                continue
            if isinstance(result, Exception):
                step.future.set_exception(result)
            else:
                step.future.set_result(result)

    def _transact(self, group: Sequence[_Step]) -> list[Any]:
        """Run the steps and commit. Raises Unreachable, Again, and whatever the steps and the database raise."""
        self._unknown = None
        with clear_errors(self._pair.name):
            connection = self._connection or self._connect()
            try:
                self._begin(connection)
                results = self._run(connection, group)
                if all(isinstance(result, Exception) for result in results):
                    self._undo(connection)
                    return results
                if not self._pair.is_sqlite:
                    mark = os.urandom(16)
                    if not self._mark(connection, mark):
                        connection.rollback()
                        self._enrol(connection)
                        return self._transact(group)
                    self._unknown = (mark, results)
                self._commit(connection)
            except BaseException:
                self._undo(connection)
                raise
        self._unknown = None
        self._n_lost = 0
        return results

    def _begin(self, connection: Connection) -> None:
        if self._pair.is_sqlite:
            driver_of(connection).execute(BEGIN_WRITING)  # SQLAlchemy's way takes longer than most statements
        else:
            connection.begin()

    def _commit(self, connection: Connection) -> None:
        if connection.in_transaction():  # of PostgreSQL, or a step has used SQLAlchemy's way
            connection.commit()
        else:
            driver_of(connection).commit()

    def _enrol(self, connection: Connection) -> None:
        """A row of this writer, committed before it is needed: what is not there cannot be locked and waited for."""
        if self._pair.is_sqlite:
            return
        now_ns = time.time_ns()
        connection.execute(delete(table).where(table.c.at_ns < now_ns - _KEPT_NS))
        connection.execute(insert(table).values(id=self._id, mark=b"", at_ns=now_ns))
        connection.commit()

    def _mark(self, connection: Connection, mark: bytes) -> bool:
        """False: another writer took this one for gone, since it has not written for so long."""
        return bool(_MARK.fetch(connection, {"of_id": self._id, "mark": mark, "at_ns": time.time_ns()}))

    def _run(self, connection: Connection, group: Sequence[_Step]) -> list[Any]:
        results: list[Any] = []
        start = 0
        while start < len(group):
            kind = group[start].kind
            end = start
            while end < len(group) and group[end].kind is kind:
                end += 1
            found = kind.run(connection, [step.value for step in group[start:end]])
            if len(found) != end - start:
                raise RuntimeError(f"{kind.name}: {end - start} steps and {len(found)} results")
            results += found
            start = end
        return results

    def _undo(self, connection: Connection) -> None:
        try:
            connection.rollback()
            driver = connection.connection.driver_connection
            if self._pair.is_sqlite and driver is not None and driver.in_transaction:
                driver.execute("ROLLBACK")  # a COMMIT that failed ends it for SQLAlchemy, not always for SQLite
        except Exception:
            self._disconnect()

    # -- a connection that was lost

    def _reached_again(self, error: Unreachable, group: Sequence[_Step]) -> list[Any] | None:
        """Wait for the database, as long as somebody in the group waits. Returns the results if its COMMIT holds."""
        _log.warning("%s; trying again", error)
        while True:
            self._disconnect()
            time.sleep(_RETRY_SECONDS[min(self._n_lost, len(_RETRY_SECONDS) - 1)])
            self._n_lost += 1
            self._take_all()
            if not self._tell_the_impatient(group, error):
                return None
            if self._unknown is None:
                return None
            try:
                holds = self._holds(self._unknown[0])
            except Unreachable as again:
                error = again
                continue
            _log.warning("%s answers again", self._pair.name)
            return self._unknown[1] if holds else None

    def _tell_the_impatient(self, group: Sequence[_Step], error: Unreachable) -> bool:
        """Tell those whose time is over, at the end everybody. Does anybody in the group wait still?"""
        now = time.monotonic()
        over = [step for step in (*group, *self._held) if self._is_ending or step.until < now]
        for step in over:
            if not step.future.done() and (step.future.running() or step.future.set_running_or_notify_cancel()):
                step.future.set_exception(unavailable(error))
        self._held = deque(step for step in self._held if not step.future.done())
        return not all(step.future.done() for step in group)

    def _holds(self, mark: bytes) -> bool:
        """Does the COMMIT with this mark hold? Waits for its transaction to end, if it is still there."""
        with clear_errors(self._pair.name):
            connection = self._connect()
            connection.begin()
            found = _MARKED.fetch(connection, {"of_id": self._id})
            connection.rollback()
            return found == [(mark,)]

    def _connect(self) -> Connection:
        with clear_errors(self._pair.name):
            connection = self._pair.writers.connect()
        self._connection = connection
        return connection

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(Exception):  # it may be lost
                connection.invalidate()
                connection.close()


def _told(error: BaseException) -> BaseException:
    """What a caller is told of an error of the whole transaction."""
    if isinstance(error, Again):
        return JournalUnavailable(f"the database undid this too often in favour of others: {error}; ask again")
    return error


_of_id = table.c.id == bindparam("of_id")
_MARK = Statement(
    update(table).where(_of_id).values(mark=bindparam("mark"), at_ns=bindparam("at_ns")).returning(table.c.id)
)
_MARKED = Statement(select(table.c.mark).where(_of_id).with_for_update())
