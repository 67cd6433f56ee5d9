"""The databases of a data folder for processes other than their server: paused, copied, examined.

All of it works beside a running server, and on a database whose tables are not those of this version.
"""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from canister.errors import Busy, StoreDamaged
from canister.store.connections import BEGIN_WRITING

BUSY_SECONDS = 30


@contextmanager
def stopped(database: Path) -> Iterator[None]:
    """Nothing is committed meanwhile; writers wait. Raises Busy, StoreDamaged."""
    with _clear_errors(database), closing(_connect(database)) as writer:
        writer.execute(BEGIN_WRITING)
        yield
        writer.execute("ROLLBACK")


@contextmanager
def reading(database: Path) -> Iterator[sqlite3.Connection]:
    """A reader that sees the state of this moment. Raises Busy, StoreDamaged."""
    with _clear_errors(database), closing(_connect(database)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM sqlite_master").fetchone()
        yield reader


def canister_ids(server: sqlite3.Connection) -> list[str]:
    """The ids of canisters that were not deleted."""
    return [row[0] for row in server.execute("SELECT id FROM canisters WHERE deleted_ns IS NULL ORDER BY id")]


def files(canister: sqlite3.Connection) -> list[tuple[str, int]]:
    """Path and committed size of each file."""
    return canister.execute("SELECT path, size FROM files WHERE kind = 'file' ORDER BY path").fetchall()


def staged(canister: sqlite3.Connection) -> dict[str, str]:
    """By path, where a committed file lies until it is moved to its place."""
    return dict(canister.execute("SELECT path, source FROM redo WHERE kind = 'put' ORDER BY id").fetchall())


def ids_by_name(server: sqlite3.Connection) -> dict[str, str]:
    """The ids of canisters that were not deleted, by their names."""
    return dict(server.execute("SELECT name, id FROM canisters WHERE deleted_ns IS NULL").fetchall())


def digests(canister: sqlite3.Connection) -> dict[str, str]:
    """By path, the SHA-256 of each file that was uploaded to its end, in hex."""
    query = "SELECT path, sha256 FROM uploads JOIN files USING (path, size)"
    return dict(canister.execute(query).fetchall())


def receipts(canister: sqlite3.Connection) -> Iterator[tuple[int, bytes, bytes]]:
    """Number, record, and nodes of the tree that it completes, of each call that is kept, in their order."""
    yield from canister.execute("SELECT number, record, nodes FROM receipts ORDER BY number")


def receipt_terms(canister: sqlite3.Connection, of_hash: bytes) -> bytes | None:
    row = canister.execute("SELECT terms FROM receipt_terms WHERE hash = ?", (of_hash,)).fetchone()
    return None if row is None else bytes(row[0])


def receipt_contents(canister: sqlite3.Connection, number: int) -> tuple[bytes, bytes, bytes] | None:
    """Words, argument and output of a call, where they are kept."""
    row = canister.execute(
        "SELECT words, argument, output FROM receipt_contents WHERE number = ?", (number,)
    ).fetchone()
    return None if row is None else tuple(row)


def copy(reader: sqlite3.Connection, target: Path) -> list[str]:
    """Write the database as its reader sees it, in one piece. Returns what is unsound in it. OSError: a full disk."""
    with closing(sqlite3.connect(target)) as copied:
        try:
            reader.backup(copied)
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorname", "").startswith("SQLITE_FULL"):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
            raise
        faults = [row[0] for row in copied.execute("PRAGMA quick_check(1)")]
    return [] if faults == ["ok"] else faults


@contextmanager
def examining(path: Path) -> Iterator[sqlite3.Connection]:
    """The database, for reading. A file that may not be written to at all is read as it stands."""
    if not path.is_file():
        raise FileNotFoundError(2, "there is no such file", str(path))
    uri = path.absolute().as_uri() + ("?mode=rw" if os.access(path, os.W_OK) else "?immutable=1")
    with closing(sqlite3.connect(uri, uri=True, isolation_level=None, timeout=BUSY_SECONDS)) as connection:
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA query_only = ON")
        yield connection


def faults(connection: sqlite3.Connection) -> list[str]:
    """What is unsound in the file, at most ten things. Its rows can be read if there are none."""
    found = [row[0] for row in connection.execute("PRAGMA integrity_check(10)")]
    return [] if found == ["ok"] else found


def dangling(connection: sqlite3.Connection) -> list[tuple[str, str]]:
    """Rows that refer to a missing row, at most ten: their table, and the other table."""
    return [(row[0], row[2]) for row in connection.execute("PRAGMA foreign_key_check").fetchmany(10)]


def revision(connection: sqlite3.Connection) -> str | None:
    """The revision of the tables."""
    row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    return None if row is None else row[0]


def tables(connection: sqlite3.Connection, names: Sequence[str]) -> dict[str, list[sqlite3.Row]]:
    """All rows of these tables, at one moment. names: never from outside."""
    connection.execute("BEGIN")
    found = {name: connection.execute(f"SELECT * FROM {name}").fetchall() for name in names}
    connection.execute("ROLLBACK")
    return found


def _connect(database: Path) -> sqlite3.Connection:
    return sqlite3.connect(
        f"{database.absolute().as_uri()}?mode=rw", uri=True, isolation_level=None, timeout=BUSY_SECONDS
    )


@contextmanager
def _clear_errors(database: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorname", "").startswith("SQLITE_BUSY"):
            raise Busy(f"{database} was in use for {BUSY_SECONDS} s without a pause; try again") from error
        raise StoreDamaged(f"{database} cannot be read ({error}); `canister doctor` tells more") from error
