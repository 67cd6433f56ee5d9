"""The two databases that a journal may lie in: an SQLite file, or PostgreSQL. How they are opened, and what fails
there.

Everything above is the same for both, but for what stands here.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import URL, Connection, Engine, create_engine, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError

from canister.errors import BadRequest, Busy, JournalUnavailable, StorageFull, StoreDamaged
from canister.store.connections import BEGIN_WRITING, make_engine, use_write_ahead_log

_POSTGRESQL = ("postgresql", "postgres", "postgresql+psycopg")
_CONNECT_SECONDS = 5
# A machine that is lost does not close its connections. So the server asks, or the lock of a leader would stay.
_KEEPALIVE = "-c tcp_keepalives_idle=5 -c tcp_keepalives_interval=2 -c tcp_keepalives_count=3"
# serialization_failure, deadlock_detected, unique_violation: another process was first, which the next run will see.
_AGAIN = ("40001", "40P01", "23505")
_GONE = re.compile("08...|57P0[1-5]|25006|53300")  # connection lost, server ending or starting, read-only, too many


class Unreachable(Exception):
    """The database cannot be reached just now. What was being committed may have been."""


class Again(Exception):
    """The database has undone a transaction in favour of another one; it can be run again."""


@dataclass(frozen=True, slots=True)
class DatabasePair:
    """Engines of one database. name: for people, without a password. path: of an SQLite file."""

    name: str
    path: Path | None
    writers: Engine
    readers: Engine

    @property
    def is_sqlite(self) -> bool:
        return self.path is not None

    def dispose(self) -> None:
        self.writers.dispose()
        self.readers.dispose()


def connect_to(url: str) -> DatabasePair:
    """Engines for sqlite:///PATH or postgresql://USER@HOST/DATABASE. Raises BadRequest, for SQLite StoreDamaged too."""
    parsed = _parsed(url)
    if parsed.get_backend_name() == "sqlite":
        path = Path(parsed.database or "")
        with clear_errors(str(path)):
            path.parent.mkdir(parents=True, exist_ok=True)
            use_write_ahead_log(path)
            return DatabasePair(str(path), path, make_engine(path, BEGIN_WRITING), make_engine(path, "BEGIN"))
    name = parsed.render_as_string(hide_password=True)
    engine = _postgresql(parsed)
    return DatabasePair(name, None, engine, engine)


def _parsed(url: str) -> URL:
    try:
        parsed = make_url(url)
    except ArgumentError:
        parsed = None
    if parsed is None or parsed.drivername not in ("sqlite", *_POSTGRESQL):
        raise BadRequest(
            "the journal of a herd is named by sqlite:///PATH or postgresql://USER:PASSWORD@HOST:PORT/DATABASE"
        )
    if parsed.drivername == "sqlite":
        if not parsed.database or parsed.database == ":memory:":
            raise BadRequest(f"{url} names no file; sqlite:///PATH does, and sqlite:////PATH for an absolute one")
        return parsed
    return parsed.set(drivername="postgresql+psycopg")


def _postgresql(url: URL) -> Engine:
    options = f"{_KEEPALIVE} {url.query.get('options', '')}".strip()
    given = {key: value for key, value in url.query.items() if key != "options"}
    try:
        return create_engine(
            url.set(query=given),
            pool_size=8,
            max_overflow=8,
            pool_pre_ping=True,
            isolation_level="READ COMMITTED",
            connect_args={
                "connect_timeout": _CONNECT_SECONDS,
                "options": options,
                "application_name": "llama-canister",
                "keepalives_idle": 5,
                "keepalives_interval": 2,
                "keepalives_count": 3,
                "tcp_user_timeout": 10_000,
            },
        )
    except (ImportError, NoSuchModuleError) as error:
        raise BadRequest(
            "a journal in PostgreSQL needs the driver psycopg: pip install 'llama-canister[herd]'"
        ) from error


@contextmanager
def clear_errors(name: str) -> Iterator[None]:
    """Turn a database's complaints into our errors: Unreachable, Again, or those for a caller. Others are bugs and
    pass.
    """
    try:
        yield
    except Exception as error:
        clear = _clear_error(name, error)
        if clear is None:
            raise
        raise clear from error


def _clear_error(name: str, error: Exception) -> Exception | None:
    if isinstance(error, OSError):
        return StoreDamaged(f"{name} cannot be opened: {error.strerror}; check its folder")
    cause = error.orig if isinstance(error, DBAPIError) else error
    if isinstance(cause, sqlite3.Error):
        return _sqlite_error(name, cause)
    if type(cause).__module__.partition(".")[0] == "psycopg":
        return _postgresql_error(name, cause, isinstance(error, DBAPIError) and error.connection_invalidated)
    return None


def _sqlite_error(name: str, cause: sqlite3.Error) -> Exception | None:
    code = getattr(cause, "sqlite_errorname", "")
    if code.startswith("SQLITE_FULL"):
        return StorageFull(f"no room on the disk for {name}; make room and try again")
    if code.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return Busy(f"{name} is in use by another process for too long; try again")
    if code.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
        return StoreDamaged(
            f"{name} is not a sound SQLite database ({cause}); stop the herd and put a backup in its place"
        )
    if code.startswith(("SQLITE_IOERR", "SQLITE_CANTOPEN", "SQLITE_READONLY", "SQLITE_PERM")):
        return StoreDamaged(f"{name} cannot be read or written ({cause}); check the disk and the file's permissions")
    return None


def _postgresql_error(name: str, cause: BaseException | None, is_lost: bool) -> Exception | None:
    state = getattr(cause, "sqlstate", None)
    if type(cause).__name__ == "PipelineAborted":  # the cause was another statement's error
        return None
    if state in _AGAIN:
        return Again(str(cause))
    if state == "53100":
        return StorageFull(f"no room on the disk of {name}; make room and try again")
    # psycopg gives no state to an error of the connection itself.
    if is_lost or (state is None and type(cause).__name__ == "OperationalError") or _GONE.fullmatch(state or ""):
        return Unreachable(f"{name} does not answer: {_first_line(cause)}")
    return None


def _first_line(cause: BaseException | None) -> str:
    return str(cause).strip().partition("\n")[0]


def unavailable(error: Unreachable) -> JournalUnavailable:
    return JournalUnavailable(f"{error}; ask again with the same id or key")


@contextmanager
def reading(pair: DatabasePair) -> Iterator[Connection]:
    """A connection that sees what was committed. Raises JournalUnavailable."""
    try:
        with clear_errors(pair.name), pair.readers.connect() as connection:
            yield connection
    except Unreachable as error:
        raise unavailable(error) from error
