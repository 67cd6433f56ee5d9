"""How an SQLite file is opened: write-ahead logging, tables of this version, connections that begin as they should."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import ConnectionPoolEntry, QueuePool

from canister.errors import Conflict
from canister.store.migrations import HEADS, Schema, create, upgrade

BUSY_SECONDS = 30
BEGIN_WRITING = "BEGIN IMMEDIATE"
N_READERS = 8  # connections kept; more are made when needed


def use_write_ahead_log(path: Path) -> None:
    """Switch the file to write-ahead logging, which stays with the file.

    SQLite does not wait when another process does the same at this moment, so this function waits.
    """
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorname[:11] != "SQLITE_BUSY" or time.monotonic() > deadline:
                raise
        finally:
            connection.close()
        time.sleep(0.01)


def make_engine(path: Path, begin: str) -> Engine:
    """An engine whose transactions start with `begin`; sqlite3's own transaction handling is switched off."""
    engine = create_engine(
        URL.create("sqlite", database=str(path)),
        poolclass=QueuePool,
        pool_size=N_READERS,
        max_overflow=-1,
        connect_args={"timeout": BUSY_SECONDS, "check_same_thread": False},
    )

    @event.listens_for(engine, "connect")
    def _connected(connection: sqlite3.Connection, _entry: ConnectionPoolEntry) -> None:
        connection.isolation_level = None
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA fullfsync = ON")  # macOS: through the drive's cache; elsewhere nothing

    @event.listens_for(engine, "begin")
    def _begun(connection: Connection) -> None:
        driver = connection.connection.driver_connection
        if not (isinstance(driver, sqlite3.Connection) and driver.in_transaction):  # begun without SQLAlchemy
            connection.exec_driver_sql(begin)

    return engine


def migrate(path: Path, schema: Schema, readers: Engine, writer: Engine) -> None:
    """Bring the tables to this version. Conflict: a newer version has written them, or the database is not ours."""
    with readers.connect() as connection:
        if _revision(connection) == HEADS[schema]:
            return
    with writer.connect() as connection:  # alone from here on: BEGIN IMMEDIATE
        revision = _revision(connection)
        if revision == HEADS[schema]:
            return
        if revision is not None and not _is_known(schema, revision):
            raise Conflict(
                f"{path} has the tables of revision {revision!r}, which this version does not know: it was "
                "written by a newer llama-canister, or is not a database of ours; upgrade llama-canister"
            )
        if revision is None and _is_empty(connection):
            create(connection, schema)
        else:
            upgrade(connection, schema)
        connection.commit()


def _revision(connection: Connection) -> str | None:
    """The revision that Alembic noted in the file; None for a new one."""
    try:
        revision = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar_one_or_none()
    except OperationalError as error:
        if "no such table" in str(error.orig):
            return None
        raise
    return None if revision is None else str(revision)


def _is_empty(connection: Connection) -> bool:
    return not connection.exec_driver_sql("SELECT count(*) FROM sqlite_master").scalar_one()


def _is_known(schema: Schema, revision: str) -> bool:
    from alembic.script import ScriptDirectory

    from canister.store.migrations import make_config

    scripts = ScriptDirectory.from_config(make_config(schema))
    return any(script.revision == revision for script in scripts.walk_revisions())
