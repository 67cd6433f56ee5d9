"""The tables: as the revisions make them, of a newer version refused, made once by many who open them together."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import text

from canister.errors import BadRequest, Conflict, JournalUnavailable, StoreDamaged
from canister.herd.journal import Journal, migrations
from canister.herd.journal.databases import connect_to
from canister.herd.journal.tables import metadata
from tests.herd.conftest import NewDatabase

pytestmark = pytest.mark.anyio


def described(url: str) -> dict[str, set[str]]:
    """Columns, constraints and indexes, as the database itself tells them."""
    queries = {
        "sqlite": {
            "columns": 'SELECT m.name, p.name, p.type, p."notnull", p.dflt_value, p.pk FROM sqlite_master m '
            "JOIN pragma_table_info(m.name) p WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite_%'",
            "indexes": 'SELECT m.name, i.name, i."unique", i.partial, x.name FROM sqlite_master m '
            "JOIN pragma_index_list(m.name) i JOIN pragma_index_info(i.name) x WHERE m.type = 'table'",
            "foreign keys": "SELECT m.name, f.* FROM sqlite_master m JOIN pragma_foreign_key_list(m.name) f",
        },
        "postgresql": {
            "columns": "SELECT table_name, column_name, data_type, is_nullable, column_default, numeric_precision "
            "FROM information_schema.columns WHERE table_schema = current_schema()",
            "constraints": "SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint "
            "WHERE connamespace = current_schema()::regnamespace",
            "indexes": "SELECT tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = current_schema()",
        },
    }
    pair = connect_to(url)
    with pair.readers.connect() as connection:
        schema = "" if pair.is_sqlite else str(connection.execute(text("SELECT current_schema()")).scalar_one())
        found = {
            name: {str(tuple(row)).replace(f"{schema}.", "") for row in connection.execute(text(query))}
            for name, query in queries[connection.dialect.name].items()
        }
    pair.dispose()
    assert all(found.values())
    return found


async def test_the_revisions_make_the_tables(new_database: NewDatabase) -> None:
    fresh, upgraded = new_database(), new_database()
    await (await Journal.open(fresh)).close()
    pair = connect_to(upgraded)
    with pair.writers.connect() as connection:
        config = migrations.make_config()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        connection.commit()
        context = MigrationContext.configure(connection, opts={"version_table": "herd_version"})
        assert compare_metadata(context, metadata) == []
        connection.rollback()
    pair.dispose()
    for name, rows in described(fresh).items():
        assert rows == described(upgraded)[name], name


def test_the_head_is_the_newest_revision() -> None:
    assert ScriptDirectory.from_config(migrations.make_config()).get_current_head() == migrations.HEAD


async def test_a_newer_version_is_not_touched(journal_url: str) -> None:
    await (await Journal.open(journal_url)).close()
    pair = connect_to(journal_url)
    with pair.writers.connect() as connection:
        connection.execute(text("UPDATE herd_version SET version_num = 'h9999'"))
        connection.commit()
    pair.dispose()
    with pytest.raises(Conflict, match=r"'h9999'.*upgrade llama-canister"):
        await Journal.open(journal_url)


async def test_many_may_open_an_empty_database_together(journal_url: str) -> None:
    opened = await asyncio.gather(*(Journal.open(journal_url) for _ in range(4)))
    assert sorted(await asyncio.gather(*(journal.mint(f"a{n}", 1) for n, journal in enumerate(opened)))) == [True] * 4
    assert (await opened[0].supply()).minted == 4
    for journal in opened:
        await journal.close()


@pytest.mark.parametrize(
    "url", ["", "herd.db", "mysql://h/d", "sqlite://", "sqlite:///:memory:", "postgresql+asyncpg://h/d"]
)
async def test_what_is_no_journal_is_refused(url: str) -> None:
    with pytest.raises(BadRequest, match="sqlite:///PATH"):
        await Journal.open(url)


async def test_a_server_that_is_not_there_is_named_without_its_password() -> None:
    with pytest.raises(JournalUnavailable, match=r"postgresql\+psycopg://herd:\*\*\*@127.0.0.1:1/herd") as told:
        await Journal.open("postgresql://herd:secret@127.0.0.1:1/herd")
    assert "secret" not in str(told.value)


async def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "herd.db").write_bytes(b"nonsense" * 1000)
    with pytest.raises(StoreDamaged, match=r"herd\.db"):
        await Journal.open(f"sqlite:///{tmp_path / 'herd.db'}")
