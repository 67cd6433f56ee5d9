"""One SQLite database: many short readers, one writer thread. Knows tables and transactions, not what they mean.

The writer commits jobs in groups, each job in a savepoint, with one COMMIT and one wait for the disk. A job that fails
fails alone, and no caller is answered before the COMMIT has returned. Write-ahead logging keeps readers at the last
commit; `synchronous=FULL` survives a power cut. `_overwrite_failed_commit` explains a COMMIT that fails.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from canister.errors import Busy, StorageFull, StoreDamaged
from canister.store.connections import BEGIN_WRITING, BUSY_SECONDS, make_engine, migrate, use_write_ahead_log
from canister.store.migrations import Schema
from canister.store.statements import Prepared, driver_of, forget_driver, keep_driver
from canister.telemetry import metrics

MAX_GROUP = 64  # jobs that are committed together; so nobody waits for too many others

T = TypeVar("T")
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Job(Generic[T]):
    work: Callable[[Connection], T]
    before: Callable[[], None] | None
    committed: Callable[[], None] | None
    future: Future[T]
    result: T | None = None

    def publish(self, path: Path) -> None:
        """The commit holds, so make it visible."""
        if self.committed is None:
            return
        try:
            self.committed()
        except Exception:
            _log.exception("after a commit to %s", path)
        except BaseException as error:
            self.future.set_exception(error)

    def tell(self) -> None:
        if not self.future.done():
            self.future.set_result(self.result)  # type: ignore[arg-type]  # set by now


class _Lost(Exception):
    """SQLite has undone the transaction of several jobs because of one."""


class Database:
    """One SQLite file, opened by `open`, with one writer thread. Any thread may call any method.

    Other processes may open the same file; they and the writer take turns, and wait for up to 30 seconds.
    """

    def __init__(self, path: Path, schema: Schema) -> None:
        self.path = path
        self.schema = schema
        self.failed: StoreDamaged | None = None
        """Set while it is not known whether the last commit holds; then nothing is written."""
        self._readers: Engine | None = None
        self._writer: Engine | None = None
        self._connection: Connection | None = None  # the writer's own, kept
        self._shared_reader: Connection | None = None  # kept for `first`; it never begins a transaction
        self._reading = threading.Lock()
        self.n_transactions = 0
        """Begun so far; on the writer thread it tells jobs that are committed together from later ones."""
        self._thread: threading.Thread | None = None
        self._jobs: queue.SimpleQueue[_Job[Any] | None] = queue.SimpleQueue()
        self._closing = threading.Lock()  # held while a job is queued, so that none comes after the end

    def open(self) -> None:
        """Create or migrate the file and start the writer.

        Raises StoreDamaged (not a database, or a broken one), Conflict (written by a newer version), StorageFull, Busy.
        """
        with self._clear_errors():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            use_write_ahead_log(self.path)
            self._writer = make_engine(self.path, BEGIN_WRITING)
            self._readers = make_engine(self.path, "BEGIN")
            try:
                migrate(self.path, self.schema, self._readers, self._writer)
                self._connection = self._writer.connect()
                self._shared_reader = self._readers.connect()
                keep_driver(self._connection)
                keep_driver(self._shared_reader)
            except BaseException:
                self._dispose()
                raise
        self._thread = threading.Thread(target=self._write, name=f"writer {self.path.name}", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Finish what is queued and let go of the file. May be called twice."""
        with self._closing:
            thread, self._thread = self._thread, None
            if thread is not None:
                self._jobs.put(None)
        if thread is not None:
            thread.join()
        self._dispose()

    @property
    def is_open(self) -> bool:
        return self._thread is not None

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A connection that sees the last commit and nothing later; for short reading."""
        if self._readers is None:
            raise RuntimeError(f"{self.path} is not open")
        with self._clear_errors(), self._readers.connect() as connection:
            yield connection

    def first(self, statement: Prepared, values: Mapping[str, object]) -> tuple[Any, ...] | None:
        """The first row of a query as last committed, by the shortest way, for what every message needs."""
        if self._shared_reader is None:
            raise RuntimeError(f"{self.path} is not open")
        try:
            with self._reading:
                # Fetch to the end, or the reader would go on seeing this state.
                rows = statement.run(self._shared_reader, values).fetchall()
        except (DBAPIError, sqlite3.Error, OSError) as error:
            clear = self._cleared(error)
            if clear is error:
                raise
            raise clear from error
        return rows[0] if rows else None

    def submit(
        self,
        work: Callable[[Connection], T],
        *,
        before: Callable[[], None] | None = None,
        committed: Callable[[], None] | None = None,
    ) -> Future[T]:
        """Run `work` in a transaction on the writer thread, after everything submitted before.

        The future is done after the commit. An error in `work` or of the commit rolls back and is the future's error.
        `before` runs on the writer thread outside of the transaction; its errors are the future's too. `committed` runs
        on the writer thread between the commit and the future; it must not fail.

        Jobs queued at the same time are committed together. `work` sees what earlier jobs of the group have done, and
        runs again if SQLite lost the transaction because of a neighbour. So it may change nothing but the database.
        """
        job: _Job[T] = _Job(work, before, committed, Future())
        with self._closing:
            if self._thread is None:
                raise RuntimeError(f"{self.path} is not open")
            self._jobs.put(job)
        return job.future

    # -- on the writer thread

    def _write(self) -> None:
        is_last = False
        while not is_last:
            group, is_last = self._next_group()
            self._commit_group([job for job in group if self._is_begun(job)])
            del group  # or the last results live until the next job comes

    def _next_group(self) -> tuple[list[_Job[Any]], bool]:
        """The queued jobs, at least one unless it was cancelled, and whether nothing follows them."""
        group: list[_Job[Any]] = []
        job = self._jobs.get()
        while job is not None:
            if job.future.set_running_or_notify_cancel():
                group.append(job)
            if len(group) == MAX_GROUP:
                return group, False
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                return group, False
        return group, True

    def _is_begun(self, job: _Job[Any]) -> bool:
        try:
            if job.before is not None:
                self._recover_from_failure()  # else its bytes might overwrite committed ones
                job.before()
        except BaseException as error:
            job.future.set_exception(error)
            return False
        return True

    def _commit_group(self, jobs: list[_Job[Any]]) -> None:
        """One transaction, one COMMIT, one wait for the disk. Only then are the callers answered."""
        if not jobs:
            return
        started = time.perf_counter()
        try:
            done = self._transact(jobs)
        except _Lost:
            for job in jobs:
                self._commit_group([job])
            return
        except BaseException as error:
            for job in jobs:
                if not job.future.done():
                    job.future.set_exception(self._cleared(error))
            return
        seconds = time.perf_counter() - started
        for job in done:
            job.publish(self.path)
        for job in done:
            job.tell()
        if done:  # while those who were told wake up
            metrics.count_group(len(done), seconds)

    def _transact(self, jobs: list[_Job[Any]]) -> list[_Job[Any]]:
        """Run the jobs in a transaction and commit. Returns the committed ones; jobs that failed have been told so."""
        self._recover_from_failure()
        assert self._connection is not None
        connection = self._connection
        self.n_transactions += 1
        _begin(connection)
        try:
            done = [job for job in jobs if self._run(job, connection, is_alone=len(jobs) == 1)]
        except BaseException:
            _roll_back(connection)
            raise
        if not done:
            _roll_back(connection)
            return []
        try:
            self._commit(connection)
        except BaseException:
            _roll_back(connection)
            self._overwrite_failed_commit()
            raise
        return done

    def _run(self, job: _Job[Any], connection: Connection, *, is_alone: bool) -> bool:
        """Do a job. If it fails, undo it and tell its caller. Raises _Lost if its neighbours were undone as well."""
        driver = driver_of(connection)
        if not is_alone:
            driver.execute("SAVEPOINT job")
        try:
            job.result = job.work(connection)
        except BaseException as error:
            if not is_alone:
                if not driver.in_transaction:  # a full disk, for instance, may end the whole transaction
                    raise _Lost from error
                driver.execute("ROLLBACK TO job")
                driver.execute("RELEASE job")
            job.future.set_exception(self._cleared(error))
            return False
        if not is_alone:
            driver.execute("RELEASE job")
        return True

    def _commit(self, connection: Connection) -> None:
        if connection.in_transaction():  # a job has used SQLAlchemy's way
            connection.commit()
        else:
            driver_of(connection).execute("COMMIT")

    def _recover_from_failure(self) -> None:
        """After a commit that failed: try again, since there may be room on the disk by now. Raises StoreDamaged."""
        if self.failed is not None:
            self._overwrite_failed_commit()
        if self.failed is not None:
            raise StoreDamaged(str(self.failed))

    def _overwrite_failed_commit(self) -> None:
        """Commit a harmless change over a commit that failed, so that it cannot come back; else set `failed`.

        When a COMMIT fails, the log may or may not hold it already, and a crash could bring it back. While `failed` is
        set, nothing is written before such a change was committed.
        """
        assert self._connection is not None
        connection = self._connection
        try:
            _begin(connection)
            version = int(connection.exec_driver_sql("PRAGMA user_version").scalar_one())
            connection.exec_driver_sql(f"PRAGMA user_version = {(version + 1) % 2**31}")
            self._commit(connection)
        except BaseException as error:
            with contextlib.suppress(DBAPIError, sqlite3.Error):
                _roll_back(connection)
            self.failed = StoreDamaged(
                f"{self.path} does not accept writes ({getattr(error, 'orig', error)}); make room on the disk or mend "
                "it: every call tries again, and so does a restart"
            )
        else:
            self.failed = None

    def _dispose(self) -> None:
        for connection in (self._connection, self._shared_reader):
            if connection is not None:
                forget_driver(connection)
                connection.close()
        self._connection = self._shared_reader = None
        for engine in (self._readers, self._writer):
            if engine is not None:
                engine.dispose()
        self._readers = self._writer = None

    @contextmanager
    def _clear_errors(self) -> Iterator[None]:
        """Turn SQLite's complaints about the file or the disk into our errors. Other errors are bugs and pass."""
        try:
            yield
        except (DBAPIError, sqlite3.Error, OSError) as error:
            clear = self._cleared(error)
            if clear is error:
                raise
            raise clear from error

    def _cleared(self, error: BaseException) -> BaseException:
        """Our error for one of SQLite or the system, which becomes its cause; else the error itself."""
        clear: Exception | None = None
        if isinstance(error, OSError):
            clear = StoreDamaged(f"{self.path} cannot be opened: {error.strerror}; check its folder")
        elif isinstance(error, DBAPIError | sqlite3.Error):
            clear = _clear_error(self.path, error.orig if isinstance(error, DBAPIError) else error)
        if clear is None:
            return error
        clear.__cause__ = error
        return clear


def _begin(connection: Connection) -> None:
    # Not by SQLAlchemy, which takes as long as four statements of a call. It joins when a job asks it for something.
    driver_of(connection).execute(BEGIN_WRITING)


def _roll_back(connection: Connection) -> None:
    connection.rollback()
    driver = driver_of(connection)
    if driver.in_transaction:  # a COMMIT that failed ends the transaction for SQLAlchemy, not always for SQLite
        driver.execute("ROLLBACK")


def _clear_error(path: Path, error: BaseException | None) -> Exception | None:
    """Our error for one of sqlite3's. None for those that mean a wrong statement, which is a bug."""
    name = getattr(error, "sqlite_errorname", "")
    if name.startswith("SQLITE_FULL"):
        return StorageFull(f"no room on the disk for {path}; make room and try again")
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return Busy(f"{path} is in use by another process for more than {BUSY_SECONDS} s; try again")
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
        return StoreDamaged(
            f"{path} is not a sound SQLite database ({error}); stop the server and put a backup in its place, "
            "or move it away to start empty"
        )
    if name.startswith(("SQLITE_IOERR", "SQLITE_CANTOPEN", "SQLITE_READONLY", "SQLITE_PERM")):
        return StoreDamaged(f"{path} cannot be read or written ({error}); check the disk and the file's permissions")
    return None
