"""Statements that go past SQLAlchemy to the drivers: the same rows on both databases, one or many."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import Iterator
from decimal import Decimal

import pytest
from sqlalchemy import Connection, select

from canister.herd.journal import Journal, migrations
from canister.herd.journal.databases import Again, clear_errors, connect_to
from canister.herd.journal.statements import MAX_LOOKUP, Lookup, Rows, pipelined
from canister.herd.journal.tables import account, call_log, payment
from tests.herd.journal.parts import new_job
from tests.herd.postgresql import PostgreSQL


@pytest.fixture
def connection(journal_url: str) -> Iterator[Connection]:
    """In a transaction, with all tables."""
    pair = connect_to(journal_url)
    with pair.writers.connect() as connection:
        migrations.bring_up(connection, pair.name)
        connection.commit()
        connection.begin()
        yield connection
    pair.dispose()


def call(n: int) -> dict[str, object]:
    return {
        "canister": "c",
        "caller": f"caller {n} 'quoted' {{braced}}, \\\\ and ü",
        "method": "m",
        "timestamp_ns": n if n % 2 else 2**62,
        "outcome": "ok",
        "instructions": n,
        "cycles": -n,
        "limit": None if n % 3 else n,
        "parts": {"a": n, "b": [1, None]},
    }


@pytest.mark.parametrize("n", [0, 1, 2, 300])
def test_rows_are_inserted_as_they_are(connection: Connection, n: int) -> None:
    rows = [call(number) for number in range(n)]
    Rows(call_log, tuple(call(0))).run(connection, rows)
    found = connection.execute(select(call_log).order_by(call_log.c.id)).mappings().all()
    assert [{name: row[name] for name in call(0)} for row in found] == rows


@pytest.mark.parametrize("n", [1, 2, 50])
def test_rows_are_changed_by_their_key(connection: Connection, n: int) -> None:
    amounts = [10**k for k in range(n)]
    Rows(account, ("name", "free", "held")).run(
        connection, [{"name": f"a{k}", "free": amount, "held": 0} for k, amount in enumerate(amounts)]
    )
    Rows(account, ("free",), key="name", held=7).run(
        connection, [{"of_name": f"a{k}", "free": amount + 1} for k, amount in enumerate(amounts) if k % 2 == 0]
    )
    found = {row.name: (row.free, row.held) for row in connection.execute(select(account))}
    assert found == {f"a{k}": (amount + 1, 7) if k % 2 == 0 else (amount, 0) for k, amount in enumerate(amounts)}
    Rows(account, (), key="name", held=8, free=0).run(connection, [{"of_name": f"a{k}"} for k in range(n)])
    assert {(row.free, row.held) for row in connection.execute(select(account))} == {(0, 8)}


def test_bytes_and_nothing_survive(connection: Connection) -> None:
    columns = ("key", "kind", "source", "target", "amount", "job", "at_ns", "note")
    rows: list[dict[str, object]] = [
        dict(zip(columns, row, strict=True))
        for row in [
            (b"", "mint", None, "t", 1, bytes(range(256)), 2**62, ""),
            (None, "hold", "s", "t", 10**60, None, 1, "a\tnote\nof two lines"),
            (b"\\\\x00", "hold", "NULL", "t", 1, b"NULL", 1, "NULL"),
        ]
    ]
    Rows(payment, columns).run(connection, rows)
    found = connection.execute(select(payment).order_by(payment.c.id)).mappings().all()
    assert [{name: row[name] for name in columns} for row in found] == rows


@pytest.mark.parametrize("n", [0, 1, 3, MAX_LOOKUP + 5])
def test_rows_are_looked_up_by_many_values(connection: Connection, n: int) -> None:
    Rows(account, ("name", "free", "held")).run(
        connection, [{"name": f"a{k}", "free": k, "held": 0} for k in range(MAX_LOOKUP + 10)]
    )
    lookup = Lookup(select(account.c.name, account.c.free).order_by(account.c.name), account.c.name)
    found = lookup.fetch(connection, [*(f"a{k}" for k in range(n)), *["not there"] * bool(n)])
    assert {name: int(free) for name, free in found} == {f"a{k}": k for k in range(n)}
    assert all(isinstance(free, (str, Decimal)) for _, free in found)


def test_an_error_inside_a_pipeline_is_told_as_it_is(connection: Connection) -> None:
    """And not as a database that cannot be reached, which would be tried for ever."""
    rows = Rows(account, ("name", "free", "held"))

    def spoil() -> None:
        with clear_errors("herd"), pipelined(connection):
            for name in ("a", "a", "b"):
                rows.run(connection, [{"name": name, "free": 1, "held": 0}])
            rows.run(connection, [{"name": "c", "free": 1, "held": 0}, {"name": "c", "free": 1, "held": 0}])
            Lookup(select(account.c.name), account.c.name).fetch(connection, ["a"])

    with pytest.raises((Again, sqlite3.IntegrityError), match=r"(?i)unique"):
        spoil()


@pytest.mark.anyio
async def test_doors_may_accept_the_same_jobs_at_the_same_time(journal_url: str) -> None:
    """Two processes insert the same ids: one of them is first, and the other finds the row."""
    doors = [await Journal.open(journal_url) for _ in range(3)]
    await doors[0].mint("payer", 100)
    for start in range(0, 40, 8):
        asked = [(n, door.accept(new_job(n, hold=1, payer="payer"))) for n in range(start, start + 8) for door in doors]
        accepted = await asyncio.gather(*(work for _, work in asked))
        for n in range(start, start + 8):
            of_job = [one for (number, _), one in zip(asked, accepted, strict=True) if number == n]
            assert sum(one.is_new for one in of_job) == 1
            assert len({one.job.seq for one in of_job}) == 1
    balance = await doors[0].balance("payer")
    assert (balance.free, balance.held) == (60, 40)
    for door in doors:
        await door.close()


@pytest.mark.anyio
async def test_who_comes_second_waits_for_the_first_and_finds_its_job(
    postgresql: PostgreSQL, postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first look has not seen the job, and its row is refused: it looks again."""
    first, second = await Journal.open(postgresql_url), await Journal.open(postgresql_url)
    commit = first._writer._commit
    inserted, released = threading.Event(), threading.Event()

    def late(connection: Connection) -> None:
        inserted.set()
        assert released.wait(60)
        commit(connection)

    monkeypatch.setattr(first._writer, "_commit", late)
    accepting = asyncio.ensure_future(first.accept(new_job(1)))
    assert await asyncio.to_thread(inserted.wait, 60)
    known = asyncio.ensure_future(second.accept(new_job(1)))
    await asyncio.to_thread(wait_for, postgresql, "wait_event_type = 'Lock'")
    released.set()
    assert (await accepting).is_new
    assert not (await known).is_new
    await first.close()
    await second.close()


def wait_for(server: PostgreSQL, what: str) -> None:
    end = time.monotonic() + 45  # less than the first one waits
    while not server.query(f"SELECT 1 FROM pg_stat_activity WHERE {what}"):
        assert time.monotonic() < end, server.query(
            "SELECT datname, state, wait_event_type, query FROM pg_stat_activity"
        )
        time.sleep(0.01)
