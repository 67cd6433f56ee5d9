"""Databases and processes that die: nothing acknowledged is lost, nothing happens twice, and money stays constant."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection
from sqlalchemy.exc import OperationalError

from canister.errors import Busy, JournalUnavailable, StorageFull
from canister.herd.journal import OPERATOR, Balance, Journal, Supply
from canister.herd.journal.writer import Kind
from tests.herd.journal.parts import CALLER, CANISTER, OK, Talk, job_id, new_job, path_of, settled
from tests.herd.postgresql import NotHere, PostgreSQL, own_server

pytestmark = pytest.mark.anyio


@pytest.fixture
def mortal() -> Iterator[PostgreSQL]:
    """A PostgreSQL that a test may kill."""
    try:
        with own_server() as server:
            yield server
    except NotHere as reason:
        pytest.skip(str(reason))


async def leading(journal: Journal) -> int:
    """The epoch; waits for the lock of a process that has just been killed."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        epoch = await journal.lead("test", "nowhere")
        if epoch is not None:
            return epoch
        await asyncio.sleep(0.02)
    raise AssertionError("the lock of the leader before was not freed")


# -- PostgreSQL is killed


async def test_postgresql_is_killed_under_load(mortal: PostgreSQL) -> None:
    """Chats go on beside payments; the server is killed twice. Every call ends once, and no acknowledged one is
    lost.
    """
    journal = await Journal.open(mortal.url(), patience_seconds=60)
    epoch = await leading(journal)
    await journal.mint("payer", 10_000)
    talks = [Talk(path_of(f"c{n}")) for n in range(8)]
    acknowledged: list[str] = []
    is_over = False

    async def chat(talk: Talk) -> None:
        n = 0
        while not is_over:
            name, n = f"{talk.path} {n}", n + 1
            await journal.accept(new_job(name, hold=1, payer="payer"))
            await journal.assign(job_id(name), "w1", n, epoch)
            outcome = await journal.settle(settled(name, epoch=epoch, fence=n, chats=(talk.change([n], marks=n),)))
            assert outcome.outcome == "done"
            acknowledged.append(name)

    chats = asyncio.gather(*map(chat, talks))
    for _ in range(2):
        before = len(acknowledged)
        while len(acknowledged) < before + 100:
            await asyncio.sleep(0.01)
            assert not chats.done()
        await asyncio.to_thread(mortal.kill)
        await asyncio.to_thread(mortal.start)
    is_over = True
    await chats
    assert len(acknowledged) >= 200
    for talk in talks:
        assert await journal.container(CANISTER, CALLER, talk.path) == (talk.head, talk.container())
    for name in acknowledged:
        found = await journal.find(job_id(name))
        assert found is not None
        assert (found.state, found.answer) == ("done", OK)
    n = len(acknowledged)
    assert await journal.balances() == {OPERATOR: Balance(n, 0), "payer": Balance(10_000 - n, 0)}
    logged = await journal.call_log(CANISTER, None, None, 10_000)
    assert len(logged) == n
    assert await journal.renew(epoch)
    await journal.close()


async def test_while_postgresql_is_away_answers_are_held_and_others_are_told(mortal: PostgreSQL) -> None:
    journal = await Journal.open(mortal.url(), patience_seconds=0.2)
    epoch = await leading(journal)
    await journal.accept(new_job(1))
    await asyncio.to_thread(mortal.stop)
    held = asyncio.ensure_future(journal.settle(settled(1, epoch=epoch, fence=1)))
    for asked in (journal.accept(new_job(2)), journal.mint("a", 1), journal.find(job_id(1)), journal.renew(epoch)):
        with pytest.raises(JournalUnavailable, match="does not answer") as told:
            await asked
        assert told.value.http_status == 503
    assert not held.done()
    await asyncio.to_thread(mortal.start)
    assert (await held).outcome == "done"
    assert (await journal.accept(new_job(2))).is_new
    assert await journal.renew(epoch)
    await journal.close()


async def test_at_the_end_nobody_waits_for_a_database_that_is_gone(mortal: PostgreSQL) -> None:
    journal = await Journal.open(mortal.url())
    epoch = await leading(journal)
    await asyncio.to_thread(mortal.kill)
    held = asyncio.ensure_future(journal.settle(settled(1, epoch=epoch, fence=1, new=new_job(1))))
    await asyncio.sleep(0.1)
    await journal.close()
    with pytest.raises(JournalUnavailable):
        await held
    for asked in (journal.accept(new_job(2)), journal.find(job_id(1)), journal.renew(epoch)):
        with pytest.raises(JournalUnavailable, match="closed"):
            await asked


# -- a COMMIT of which nobody knows whether it holds


@pytest.mark.parametrize("holds", [True, False])
async def test_the_outcome_of_a_lost_commit_is_looked_up(
    postgresql: PostgreSQL, postgresql_url: str, monkeypatch: pytest.MonkeyPatch, holds: bool
) -> None:
    journal = await Journal.open(postgresql_url)
    epoch = await leading(journal)
    commit = journal._writer._commit
    lost: list[int] = []

    def lose(connection: Connection) -> None:
        if lost:
            return commit(connection)
        pid = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
        lost.append(pid)
        if holds:
            commit(connection)
        postgresql.query(f"SELECT pg_terminate_backend({pid}, 10000)")
        connection.exec_driver_sql("SELECT 1")
        raise AssertionError("the connection was not lost")

    monkeypatch.setattr(journal._writer, "_commit", lose)
    talk = Talk(path_of("a"))
    results = await asyncio.gather(
        journal.mint("a", 100),
        journal.accept(new_job(1)),
        journal.append_control(epoch, CANISTER, CALLER, "set_access", b"", 1),
        journal.settle(settled(2, epoch=epoch, fence=1, new=new_job(2), chats=(talk.change([1]),))),
    )
    assert lost
    minted, accepted, rev, outcome = results
    assert (minted, accepted.is_new, rev, outcome.outcome) == (True, True, 1, "done")
    assert await journal.supply() == Supply(100, 100, 0)
    assert await journal.control_rev(CANISTER) == 1
    assert await journal.container(CANISTER, CALLER, talk.path) == (talk.head, talk.container())
    await journal.close()


async def test_an_old_transaction_that_is_still_there_is_waited_for(
    postgresql: PostgreSQL, postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection is lost for the client, while the server has not noticed and will commit."""
    import psycopg

    journal = await Journal.open(postgresql_url)
    writer = journal._writer
    commit, undo = writer._commit, writer._undo
    left: list[Connection] = []
    is_lost = threading.Event()

    def lose(connection: Connection) -> None:
        if left:
            return commit(connection)
        left.append(connection)
        writer._connection = None
        is_lost.set()
        raise OperationalError("COMMIT", None, psycopg.OperationalError("the network is gone"))

    monkeypatch.setattr(writer, "_commit", lose)
    monkeypatch.setattr(writer, "_undo", lambda connection: None if connection in left else undo(connection))
    minting = asyncio.ensure_future(journal.mint("a", 100))
    assert await asyncio.to_thread(is_lost.wait, 60)
    await asyncio.to_thread(wait_for_a_lock, postgresql)  # the row of the writer
    assert not minting.done()
    await asyncio.to_thread(left[0].commit)
    assert await minting
    assert await journal.supply() == Supply(100, 100, 0)
    left[0].close()
    await journal.close()


def wait_for_a_lock(server: PostgreSQL) -> None:
    while not server.query("SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"):
        time.sleep(0.01)


async def test_what_fails_in_a_group_fails_alone(journal: Journal) -> None:
    """An error of the database itself undoes the transaction; the others are done again without it."""

    def broken(connection: Connection, values: Any) -> list[Any]:
        connection.exec_driver_sql("INSERT INTO leader VALUES (2, 'x', 'x', 1, 1)")
        return [None]

    bad: Kind[None, None] = Kind("bad", 15, broken)
    results = await asyncio.gather(
        journal.mint("a", 1),
        journal._do(bad, None),
        journal.mint("b", 2),
        journal.accept(new_job(1)),
        return_exceptions=True,
    )
    assert [type(result).__name__ for result in results] == ["bool", "IntegrityError", "bool", "Accepted"]
    assert (await journal.supply()).minted == 3


async def test_a_full_disk_is_told_and_loses_nothing(tmp_path: Path) -> None:
    journal = await Journal.open(f"sqlite:///{tmp_path / 'herd.db'}")
    epoch = await leading(journal)
    await journal.accept(new_job(1))

    def pages(connection: Connection, values: Any) -> list[int]:
        return [connection.exec_driver_sql(f"PRAGMA max_page_count = {value}").scalar_one() for value in values]

    bound: Kind[int, int] = Kind("bound", 0, pages)
    await journal._do(bound, 1)  # as many as there are

    async def fill() -> None:
        for n in range(2, 300):
            await journal.accept(new_job(n, arg=bytes(10_000)))

    with pytest.raises(StorageFull, match="make room"):
        await fill()
    await journal._do(bound, 1_000_000)
    assert (await journal.settle(settled(1, epoch=epoch, fence=1))).outcome == "done"
    assert (await journal.accept(new_job(999))).is_new
    await journal.close()


async def test_another_process_that_writes_for_too_long_is_told_to_all_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("canister.store.connections.BUSY_SECONDS", 0.5)
    journal = await Journal.open(f"sqlite:///{tmp_path / 'herd.db'}")
    tries: list[None] = []
    transact = journal._writer._transact
    monkeypatch.setattr(journal._writer, "_transact", lambda group: tries.append(None) or transact(group))
    with closing(sqlite3.connect(tmp_path / "herd.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        asked = [journal.accept(new_job(n)) for n in range(20)]
        told = await asyncio.gather(*asked, return_exceptions=True)
        other.execute("COMMIT")
    assert {type(error) for error in told} == {Busy}
    assert len(tries) <= 2
    assert (await journal.accept(new_job(1))).is_new
    await journal.close()


# -- the process is killed

_UNTIL_T3 = """
import asyncio, sys
from canister.herd.journal import Journal
from tests.herd.journal.parts import *

async def main():
    journal = await Journal.open(sys.argv[1])
    epoch = await journal.lead("first", "nowhere")
    await journal.mint("payer", 100)
    for n in range(3):
        await journal.accept(new_job(n, hold=12, payer="payer"))
    await journal.assign(job_id(0), "w1", (epoch << 32) | 1, epoch)
    await journal.assign(job_id(1), "w1", (epoch << 32) | 2, epoch)
    await journal.settle(settled(0, epoch=epoch, fence=(epoch << 32) | 1))
    print(epoch, flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


@pytest.fixture
def first_leader(journal_url: str) -> Iterator[subprocess.Popen[str]]:
    """A process that leads, has settled job 0, runs job 1 and has job 2 waiting; it has told its epoch."""
    with subprocess.Popen([sys.executable, "-c", _UNTIL_T3, journal_url], stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


async def test_the_leader_is_killed_between_accepting_and_settling(
    journal_url: str, first_leader: subprocess.Popen[str]
) -> None:
    assert first_leader.stdout is not None
    old = int(first_leader.stdout.readline())
    journal = await Journal.open(journal_url)
    assert await journal.lead("test", "nowhere") is None
    first_leader.kill()
    first_leader.wait()
    epoch = await leading(journal)
    assert epoch == old + 1
    assert [(job.id, job.state, job.tries) for job in await journal.waiting()] == [
        (job_id(1), "running", 1),
        (job_id(2), "queued", 0),
    ]
    assert await journal.balance("payer") == Balance(64, 24)
    # The worker's reply comes after all: to a new leader, who gives the job a fence of its own.
    assert (await journal.settle(settled(1, epoch=old, fence=old << 32 | 2))).why == "epoch"
    assert (await journal.settle(settled(1, epoch=epoch, fence=epoch << 32 | 1))).outcome == "done"
    assert await journal.refuse(job_id(2), epoch, OK)
    assert await journal.balances() == {OPERATOR: Balance(24, 0), "payer": Balance(76, 0)}
    assert [(await journal.accept(new_job(n, hold=12, payer="payer"))).is_new for n in range(3)] == [False] * 3
    await journal.close()
