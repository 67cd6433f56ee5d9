"""The database: migrations, the one writer, other processes, and what is said when it goes wrong."""

from __future__ import annotations

import logging
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, insert, select, text
from sqlalchemy.exc import IntegrityError

from canister.errors import Busy, Conflict, StorageFull, StoreDamaged
from canister.store import connections
from canister.store.database import Database
from canister.store.migrations import HEADS, Schema, make_config, upgrade
from canister.store.tables import ao_metadata, api_keys, canister_metadata, server_metadata, settings

SCHEMAS: list[Schema] = ["ao", "canister", "server"]


@pytest.fixture
def database(disk: Path) -> Iterator[Database]:
    database = Database(disk / "canister.db", "canister")
    database.open()
    yield database
    database.close()


def put(connection: Connection, key: str, value: object) -> None:
    connection.execute(insert(settings), {"key": key, "value": value})


def values(database: Database) -> list[object]:
    with database.read() as connection:
        return list(connection.scalars(select(settings.c.value).order_by(settings.c.key)))


# -- migrations


# Alembic cannot compare an index on an expression; the next test does, by what SQLite has noted of it.
@pytest.mark.filterwarnings("ignore:.*expression-based index:sqlalchemy.exc.SAWarning")
@pytest.mark.filterwarnings("ignore:autogenerate skipping .*expression-based index")
@pytest.mark.parametrize("schema", SCHEMAS)
def test_the_migrations_make_the_tables(disk: Path, schema: Schema) -> None:
    metadata = {"ao": ao_metadata, "canister": canister_metadata, "server": server_metadata}[schema]
    with connected(disk / "migrated.db") as connection:
        upgrade(connection, schema)
        assert compare_metadata(MigrationContext.configure(connection, opts={"compare_type": True}), metadata) == []
        made = schema_of(connection)
    for table in metadata.tables.values():
        sql = made["table", table.name]
        assert ("AUTOINCREMENT" in sql) == bool(table.dialect_options["sqlite"]["autoincrement"])
        assert ("CHECK" in sql) == (table.name in ("files", "redo", "answers", "ao_processes", "ao_workers"))


@pytest.mark.parametrize("schema", SCHEMAS)
def test_a_new_database_is_what_the_migrations_make(disk: Path, schema: Schema) -> None:
    database = Database(disk / "some folder % with ? signs" / "x.db", schema)
    database.open()
    database.close()
    with connected(disk / "migrated.db") as migrated, connected(database.path) as new:
        upgrade(migrated, schema)
        assert schema_of(new) == schema_of(migrated)
        revisions = [each.exec_driver_sql("SELECT version_num FROM alembic_version").all() for each in (new, migrated)]
        assert revisions == [[(HEADS[schema],)]] * 2


@contextmanager
def connected(path: Path) -> Iterator[Connection]:
    engine = connections.make_engine(path, "BEGIN IMMEDIATE")
    with engine.connect() as connection:
        yield connection
    engine.dispose()


def schema_of(connection: Connection) -> dict[tuple[str, str], str]:
    """What SQLite has noted of each table and index, by kind and name; blanks apart."""
    rows = connection.execute(text("SELECT type, name, sql FROM sqlite_master WHERE sql IS NOT NULL"))
    return {(row.type, row.name): "".join(row.sql.split()) for row in rows}


@pytest.mark.parametrize("schema", SCHEMAS)
def test_the_newest_revision_is_the_one_that_the_code_knows(schema: Schema) -> None:
    assert ScriptDirectory.from_config(make_config(schema)).get_current_head() == HEADS[schema]


def test_databases_new_and_up_to_date_open_without_alembic(database: Database) -> None:
    code = (
        "import sys; from pathlib import Path; from canister.store.database import Database\n"
        "for path in sys.argv[1:]:\n"
        "    database = Database(Path(path), 'canister'); database.open(); database.close()\n"
        "assert not [name for name in sys.modules if name.startswith('alembic')]"
    )
    paths = [str(database.path), str(database.path.with_name("new.db"))]
    subprocess.run([sys.executable, "-c", code, *paths], check=True, timeout=60)


def test_migrating_leaves_logging_alone(disk: Path) -> None:
    root = logging.getLogger()
    before = root.level, list(root.handlers), logging.getLogger("alembic").level, logging.getLogger("x").disabled
    with connected(disk / "x.db") as connection:
        upgrade(connection, "server")
    after = root.level, list(root.handlers), logging.getLogger("alembic").level, logging.getLogger("x").disabled
    assert after == before


def test_many_that_open_a_new_database_at_once_all_succeed(disk: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from canister.store.database import Database\n"
        "database = Database(Path(sys.argv[1]), 'server'); database.open(); database.close()"
    )
    command = [sys.executable, "-W", "error", "-c", code, str(disk / "server.db")]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    results = [process.communicate(timeout=60)[1] for process in processes]
    assert results == ["", "", ""]


def test_a_newer_database_is_refused(database: Database) -> None:
    database.submit(lambda c: c.exec_driver_sql("UPDATE alembic_version SET version_num = 'c9999'")).result()
    newer = Database(database.path, "canister")
    with pytest.raises(Conflict, match=r"revision 'c9999'.*upgrade llama-canister"):
        newer.open()
    with pytest.raises(RuntimeError, match="not open"):
        newer.submit(lambda connection: None)


# -- reading and writing


def test_every_connection_is_durable_and_checks_keys(database: Database) -> None:
    def pragmas(connection: Connection) -> list[object]:
        names = ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        return [connection.exec_driver_sql(f"PRAGMA {name}").scalar_one() for name in names]

    assert database.submit(pragmas).result() == ["wal", 2, 1, 30_000]
    with database.read() as connection:
        assert pragmas(connection) == ["wal", 2, 1, 30_000]


def test_what_is_submitted_is_done_in_order_each_in_its_transaction(database: Database) -> None:
    futures = [database.submit(lambda c, n=n: put(c, f"{n:02}", n)) for n in range(20)]  # type: ignore[misc]

    def fail(connection: Connection) -> None:
        put(connection, "x", 1)
        put(connection, "00", 1)

    failing = database.submit(fail)
    last = database.submit(lambda connection: put(connection, "z", "last"))
    with pytest.raises(IntegrityError):
        failing.result()
    last.result()
    assert all(future.done() for future in futures)
    assert values(database) == [*range(20), "last"]


def test_a_reader_sees_one_state_and_does_not_wait_for_the_writer(database: Database) -> None:
    database.submit(lambda connection: put(connection, "a", 1)).result()
    written, release = threading.Event(), threading.Event()

    def work(connection: Connection) -> None:
        put(connection, "b", 2)
        written.set()
        assert release.wait(60)

    future = database.submit(work)
    assert written.wait(60)
    with database.read() as connection:
        assert connection.scalars(select(settings.c.value)).all() == [1]
        release.set()
        future.result()
        assert connection.scalars(select(settings.c.value)).all() == [1]
    assert values(database) == [1, 2]


def test_after_the_commit_and_before_the_reply(database: Database) -> None:
    seen: list[object] = []
    future = database.submit(
        lambda connection: put(connection, "a", 1),
        committed=lambda: seen.extend([future.done(), threading.current_thread().name, *values(database)]),
    )
    future.result()
    assert seen == [False, "writer canister.db", 1]


def test_a_cancelled_job_is_not_begun(database: Database) -> None:
    release = threading.Event()
    blocked = database.submit(lambda connection: release.wait(60))
    cancelled = database.submit(lambda connection: put(connection, "a", 1))
    assert cancelled.cancel()
    release.set()
    blocked.result()
    assert values(database) == []


def test_closing_finishes_what_is_queued(disk: Path) -> None:
    database = Database(disk / "x.db", "canister")
    database.open()
    futures = [database.submit(lambda c, n=n: put(c, f"{n:02}", n)) for n in range(5)]  # type: ignore[misc]
    database.close()
    database.close()
    assert all(future.done() for future in futures)
    with pytest.raises(RuntimeError, match="not open"):
        database.submit(lambda connection: None)
    with pytest.raises(RuntimeError, match="not open"), database.read():
        pass
    database.open()
    assert values(database) == [0, 1, 2, 3, 4]
    database.close()


def test_two_processes_write_to_the_server_database(disk: Path) -> None:
    """`canister key create` runs beside the server."""
    database = Database(disk / "server.db", "server")
    database.open()
    code = """
import sys
from pathlib import Path
from sqlalchemy import insert
from canister.store.database import Database
from canister.store.tables import api_keys
database = Database(Path(sys.argv[1]), "server")
database.open()
for n in range(25):
    row = dict(name=f"theirs {n}", key_id=f"their id {n}", hash="", principal="", created_ns=n)
    database.submit(lambda connection: connection.execute(insert(api_keys), row) and None).result()
database.close()
"""
    try:
        process = subprocess.Popen([sys.executable, "-W", "error", "-c", code, str(database.path)])
        n = 0
        while process.poll() is None or n < 25:
            row = {"name": f"ours {n}", "key_id": f"our id {n}", "hash": "", "principal": "", "created_ns": n}
            database.submit(lambda connection, row=row: connection.execute(insert(api_keys), row)).result()  # type: ignore[misc]
            n += 1
        assert process.returncode == 0
        with database.read() as connection:
            names = connection.scalars(select(api_keys.c.name)).all()
        assert len(names) == n + 25
    finally:
        database.close()


# -- when it goes wrong


@pytest.mark.parametrize("data", [b"this is no database " * 100, b"SQLite format 3\0" + b"\xff" * 5000])
def test_a_file_that_is_no_database(disk: Path, data: bytes) -> None:
    (disk / "x.db").write_bytes(data)
    with pytest.raises(StoreDamaged, match=r"x\.db is not a sound SQLite database.*put a backup in its place"):
        Database(disk / "x.db", "canister").open()
    assert (disk / "x.db").read_bytes() == data


def test_a_database_that_is_damaged_later(database: Database) -> None:
    for n in range(200):
        database.submit(lambda c, n=n: put(c, str(n), "x" * 1000))  # type: ignore[misc]
    database.close()
    data = bytearray(database.path.read_bytes())
    data[8192:] = b"\xff" * (len(data) - 8192)
    database.path.write_bytes(data)
    damaged = Database(database.path, "canister")
    try:
        with pytest.raises(StoreDamaged, match="not a sound SQLite database"):  # noqa: PT012
            damaged.open()
            values(damaged)  # wherever it is met
    finally:
        damaged.close()


def test_a_folder_that_cannot_be_made(disk: Path) -> None:
    (disk / "file").write_bytes(b"")
    with pytest.raises(StoreDamaged, match=r"file/x\.db cannot be opened"):
        Database(disk / "file" / "x.db", "canister").open()
    (disk / "x.db").mkdir()
    with pytest.raises(StoreDamaged, match="cannot be read or written"):
        Database(disk / "x.db", "canister").open()


def test_a_full_disk(database: Database) -> None:
    database.submit(lambda connection: connection.exec_driver_sql("PRAGMA max_page_count = 60").scalar()).result()
    with pytest.raises(StorageFull, match="no room on the disk"):
        database.submit(lambda connection: put(connection, "a", "x" * 1_000_000)).result()
    database.submit(lambda connection: put(connection, "b", "small")).result()
    assert values(database) == ["small"]


def test_a_database_that_somebody_else_keeps(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "BUSY_SECONDS", 0.05)
    impatient = Database(database.path, "canister")
    impatient.open()
    try:
        with closing(sqlite3.connect(database.path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(Busy, match="in use by another process"):
                impatient.submit(lambda connection: put(connection, "a", 1)).result()
        impatient.submit(lambda connection: put(connection, "a", 1)).result()
    finally:
        impatient.close()


def test_a_wrong_statement_stays_a_bug(database: Database) -> None:
    with pytest.raises(Exception, match="no such table"), database.read() as connection:
        connection.exec_driver_sql("SELECT * FROM missing")


def test_a_failed_commit_is_buried(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its pages may be in the log already; what comes next must not let them come back."""
    commit = database._commit
    failures = [True]

    def failing_once(connection: Connection) -> None:
        if failures:
            failures.pop()
            raise OSError(5, "Input/output error")
        commit(connection)

    monkeypatch.setattr(database, "_commit", failing_once)
    with pytest.raises(StoreDamaged, match="Input/output error"):
        database.submit(lambda connection: put(connection, "a", 1)).result()
    assert database.failed is None
    with database.read() as connection:
        assert connection.exec_driver_sql("PRAGMA user_version").scalar_one() == 1
    database.submit(lambda connection: put(connection, "b", 2)).result()
    assert values(database) == [2]
