"""Transactions that are ready at the same time: one COMMIT, each for itself, nobody told before the disk has it."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, insert, select
from sqlalchemy.exc import IntegrityError

from canister.errors import CanisterError, Conflict, StorageFull, StoreDamaged
from canister.store.database import MAX_GROUP, Database
from canister.store.filesystem import FileLayer
from canister.store.journal import MAX_REDO_BYTES
from canister.store.statements import driver_of
from canister.store.tables import settings as settings_table
from canister.store.transaction import Transaction
from canister.telemetry import metrics
from tests.store.faults import Crash, Faults
from tests.store.home import Home


class Released(Exception):
    """The end of a job that only held the writer up."""


@contextmanager
def held(database: Database) -> Iterator[None]:
    """Keep the writer thread busy, so that all that is submitted meanwhile is one group afterwards."""
    begun, release = threading.Event(), threading.Event()

    def hold() -> None:
        begun.set()
        assert release.wait(60)
        raise Released

    future = database.submit(lambda connection: None, before=hold)
    assert begun.wait(60)
    try:
        yield
    finally:
        release.set()
        assert isinstance(future.exception(), Released)


def commits_of(home: Home, monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """Gets one element for each COMMIT from now on."""
    commits: list[None] = []
    commit = home.database._commit

    def counting(connection: Connection) -> None:
        commits.append(None)
        commit(connection)

    monkeypatch.setattr(home.database, "_commit", counting)
    return commits


def put(key: str, value: object = 1) -> Callable[[Connection], None]:
    return lambda connection: connection.execute(insert(settings_table), {"key": key, "value": value}) and None


def keys(database: Database) -> list[str]:
    with database.read() as connection:
        return list(connection.scalars(select(settings_table.c.key).order_by(settings_table.c.key)))


# -- one commit


def test_what_waits_together_is_committed_together(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    commits = commits_of(home, monkeypatch)
    with held(home.database):
        futures = [home.database.submit(put(f"{n:02}")) for n in range(10)]
    assert [future.result() for future in futures] == [None] * 10
    assert len(commits) == 1
    assert keys(home.database) == [f"{n:02}" for n in range(10)]


def test_a_group_does_not_grow_without_end(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    commits = commits_of(home, monkeypatch)
    with held(home.database):
        futures = [home.database.submit(put(f"{n:03}")) for n in range(MAX_GROUP + 1)]
    for future in futures:
        future.result()
    assert len(commits) == 2


def test_the_size_of_groups_is_measured(home: Home) -> None:
    def counted() -> tuple[float, float]:
        found = (metrics.REGISTRY.get_sample_value(f"canister_group_calls_{name}") for name in ("count", "sum"))
        commits, calls = found
        return commits or 0.0, calls or 0.0

    before = counted()
    with held(home.database):
        futures = [home.database.submit(put(f"{n}")) for n in range(5)]
    for future in futures:
        future.result()
    home.database.close()  # a group is counted after its callers were told
    after = counted()
    assert (after[0] - before[0], after[1] - before[1]) == (1, 5)


# -- each for itself


def test_one_that_fails_takes_nobody_along(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    commits = commits_of(home, monkeypatch)

    def half(connection: Connection) -> None:
        put("half")(connection)
        put("a")(connection)

    with held(home.database):
        first = home.database.submit(put("a"))
        failing = home.database.submit(half)
        unready = home.database.submit(put("b"), before=lambda: (_ for _ in ()).throw(Conflict("not ready")))
        last = home.database.submit(put("half"))
    first.result()
    with pytest.raises(IntegrityError):
        failing.result()
    with pytest.raises(Conflict, match="not ready"):
        unready.result()
    last.result()
    assert keys(home.database) == ["a", "half"]
    assert len(commits) == 1


def test_a_group_of_failures_commits_nothing(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    home.database.submit(put("a")).result()
    commits = commits_of(home, monkeypatch)
    with held(home.database):
        futures = [home.database.submit(put("a")) for _ in range(3)]
    assert [type(future.exception()) for future in futures] == [IntegrityError] * 3
    assert commits == []


def test_when_sqlite_gives_up_the_whole_transaction_the_neighbours_are_done_again(home: Home) -> None:
    """As it may when the disk is full."""

    def lose(connection: Connection) -> None:
        put("lost")(connection)
        driver_of(connection).execute("ROLLBACK")
        raise sqlite3.OperationalError("database or disk is full")

    with held(home.database):
        before = home.database.submit(put("a"))
        losing = home.database.submit(lose)
        after = home.database.submit(put("b"))
    before.result()
    after.result()
    assert isinstance(losing.exception(), sqlite3.OperationalError)
    assert keys(home.database) == ["a", "b"]


def test_who_does_not_fit_on_the_disk_is_told_and_nobody_else(home: Home) -> None:
    home.database.submit(lambda connection: connection.exec_driver_sql("PRAGMA max_page_count = 60").scalar()).result()
    with held(home.database):
        small = home.database.submit(put("a"))
        big = home.database.submit(put("b", "x" * 1_000_000))
        also_small = home.database.submit(put("c"))
    small.result()
    also_small.result()
    with pytest.raises(StorageFull, match="no room on the disk"):
        big.result()
    assert keys(home.database) == ["a", "c"]


def test_when_the_commit_fails_none_has_happened(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    commit, failures = home.database._commit, [True]

    def failing_once(connection: Connection) -> None:
        if failures:
            failures.pop()
            raise OSError(5, "Input/output error")
        commit(connection)

    before = home.state()
    monkeypatch.setattr(home.database, "_commit", failing_once)
    transactions = [home.memory.begin() for _ in range(3)]
    with held(home.database):
        futures = []
        for n, transaction in enumerate(transactions):
            transaction.write_file(f"folder/{n}", b"x")
            futures.append(submitted(transaction))
    for future, transaction in zip(futures, transactions, strict=True):
        with pytest.raises(StoreDamaged, match="Input/output error"):
            future.result()
        transaction.rollback()
    assert home.state() == before
    home.check_disk()
    with home.memory.begin() as transaction:  # and the next ones find nothing of it
        transaction.write_file("folder/1", b"y")
        transaction.commit_sync()
    home.memory.sync()
    home.check_disk()


# -- files


def submitted(transaction: Transaction) -> Future[None]:
    future = transaction.commit_small()
    assert future is not None
    return future


def test_two_make_the_same_folder_and_the_first_fails(home: Home) -> None:
    first, second, third = home.memory.begin(), home.memory.begin(), home.memory.begin()
    first.write_file("new/folder/a", b"a")
    first.execute(insert(settings_table), {"key": "x", "value": 1})
    first.execute(insert(settings_table), {"key": "x", "value": 1})
    second.write_file("new/folder/b", b"b")
    third.write_file("new/c", b"c")
    with held(home.database):
        futures = [submitted(transaction) for transaction in (first, second, third)]
    assert isinstance(futures[0].exception(), IntegrityError)
    first.rollback()
    assert [future.result() for future in futures[1:]] == [None, None]
    infos = home.memory.walk("")
    assert infos is not None
    assert [info.path for info in infos] == ["new", "new/folder", "new/folder/b", "new/c"]
    home.memory.sync()
    home.check_disk()


def test_a_folder_that_a_neighbour_has_just_filled_is_not_removed(home: Home) -> None:
    home.make_folder("folder")
    filling, removing = home.memory.begin(), home.memory.begin()
    filling.write_file("folder/file", b"x")
    removing.remove("folder")
    with held(home.database):
        futures = [submitted(filling), submitted(removing)]
    futures[0].result()
    with pytest.raises(Conflict, match="not empty any more"):
        futures[1].result()
    removing.rollback()


def test_what_is_not_small_or_not_free_is_not_taken(home: Home) -> None:
    with home.memory.begin() as transaction:
        transaction.write_file("source", b"x")
        transaction.commit_sync()
    big, copying, first, second = (home.memory.begin() for _ in range(4))
    big.write_file("big", bytes(MAX_REDO_BYTES + 1))
    copying.copy_file("source", "copy")
    first.write_file("file", b"1")
    second.write_file("file", b"2")
    assert big.commit_small() is None
    assert copying.commit_small() is None
    with held(home.database):
        future = submitted(first)
        assert second.commit_small() is None
    future.result()
    for transaction in (big, copying, second):  # the other way is open to them
        transaction.commit_sync()
    assert home.memory.read("file", 0, 9) == b"2"


# -- any group, against the same one by one

PATHS = ["a", "a/b", "a/b/c", "d", "d/e", "f"]
OPERATIONS = st.one_of(
    st.tuples(st.just("write_file"), st.sampled_from(PATHS), st.sampled_from([b"", b"x", b"small" * 10])),
    st.tuples(st.just("append_file"), st.sampled_from(PATHS), st.sampled_from([b"", b"more"])),
    st.tuples(st.just("remove"), st.sampled_from(PATHS)),
    st.tuples(st.just("put"), st.sampled_from(["k", "l", "m"])),
)
GROUPS = st.lists(st.lists(OPERATIONS, min_size=1, max_size=3), min_size=2, max_size=7)


def begun(home: Home, operations: list[tuple[Any, ...]]) -> Transaction:
    """A transaction of these operations, less those that are refused."""
    transaction = home.memory.begin()
    for name, *arguments in operations:
        with suppress(CanisterError):
            if name == "put":
                transaction.execute(insert(settings_table), {"key": arguments[0], "value": 1})
            else:
                getattr(transaction, name)(*arguments)
    return transaction


def ended(transaction: Transaction, future: Future[None]) -> str:
    error = future.exception(60)
    if error is not None:
        transaction.rollback()
    return type(error).__name__


def first_state(home: Home) -> None:
    with home.memory.begin() as transaction:
        transaction.write_file("d/e", b"there")
        transaction.commit_sync()
    home.make_folder("a/b")


@given(groups=st.lists(GROUPS, min_size=1, max_size=3))
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_group_does_what_its_transactions_do_one_by_one(
    disk: Path, groups: list[list[list[tuple[Any, ...]]]]
) -> None:
    roots = [disk / "together", disk / "alone"]
    try:
        with Home(roots[0]) as together, Home(roots[1]) as alone:
            first_state(together)
            first_state(alone)
            for group in groups:
                transactions = [begun(together, operations) for operations in group]
                taken = []
                with held(together.database):
                    futures = [transaction.commit_small() for transaction in transactions]
                outcomes = []
                for n, (transaction, future) in enumerate(zip(transactions, futures, strict=True)):
                    if future is not None:
                        taken.append(n)
                        outcomes.append(ended(transaction, future))
                expected = []
                transactions = [begun(alone, operations) for operations in group]
                for n in taken:
                    expected.append(ended(transactions[n], submitted(transactions[n])))
                assert outcomes == expected
                assert together.state() == alone.state()
            together.memory.sync()
            together.check_disk()
            state = together.state()
        with Home(roots[0]) as again:
            assert again.state() == state
            again.check_disk()
    finally:
        for root in roots:
            shutil.rmtree(root, ignore_errors=True)


def test_a_crash_leaves_all_of_a_group_or_nothing(disk: Path) -> None:
    """Broken at each operation of the file layer and at the COMMIT in turn, some of what was not synced forgotten."""
    with Home(disk / "first") as home:
        first_state(home)
        before = home.state()
    steps = [
        [("write_file", "a/new", b"new"), ("put", "k")],
        [("append_file", "d/e", b", and more")],
        [("write_file", "a/b/deep/er", b"deep"), ("remove", "f")],
    ]
    n, after = 0, None
    seen: Counter[str] = Counter()
    while True:
        faults = Faults()
        root = Path(shutil.copytree(disk / "first", disk / f"{n}"))
        home = Home(root, faults)
        home.open()
        faults.n_done, faults.at, faults.mode = 0, n, "tear"
        with held(home.database):
            futures = [submitted(begun(home, operations)) for operations in steps]
        errors = [future.exception(60) for future in futures]
        if n == 0:
            assert errors == [None] * 3
            after = home.state()
        else:
            home.crashed(disk / "image", 1)
        struck = faults.struck
        faults.is_dead = True
        home.close()
        if n and not struck:
            break
        if n:
            assert any(isinstance(error, Crash) for error in errors)
            with Home(disk / "image") as again:
                state = again.state()
                assert state in (before, after)
                seen["new" if state == after else "old"] += 1
                again.check_disk()
            shutil.rmtree(disk / "image")
        n += 1
    assert seen["new"]
    assert seen["old"]


# -- nobody is told too early


class Recorder(FileLayer):
    """Notes what is written and synced, by inode, in one list with commits and replies."""

    def __init__(self) -> None:
        self.events: list[tuple[str, object]] = []
        self.lock = threading.Lock()

    def note(self, what: str, of: object) -> None:
        with self.lock:
            self.events.append((what, of))

    def write(self, fd: int, data: bytes, offset: int) -> None:
        super().write(fd, data, offset)
        self.note("write", bytes(data[:4]))

    def fsync(self, fd: int) -> None:
        super().fsync(fd)
        self.note("fsync", None)


class RecordingDatabase(Database):
    recorder: Recorder

    def _commit(self, connection: Connection) -> None:
        driver = driver_of(connection)
        assert driver.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL: COMMIT waits for the disk
        self.recorder.note("commit begins", None)
        super()._commit(connection)
        self.recorder.note("commit ends", None)


N_CALLERS, N_EACH = 20, 5


def test_nobody_is_told_before_the_commit_with_his_changes_has_ended(disk: Path) -> None:
    home = Home(disk / "home")
    recorder = Recorder()
    home.database = RecordingDatabase(disk / "home" / "canister.db", "canister")
    home.database.recorder = recorder
    home.memory.volume.database, home.memory.volume.layer = home.database, recorder

    async def caller(n: int) -> None:
        for k in range(N_EACH):
            number = n * N_EACH + k
            tag = number.to_bytes(4, "big")
            is_big = number % 7 == 0
            with home.memory.begin() as transaction:
                transaction.write_file(f"{n % 3}/{number}", tag * (MAX_REDO_BYTES // 2 if is_big else 3))
                transaction.execute(insert(settings_table), {"key": str(number), "value": number})
                transaction.on_commit(partial(recorder.note, "seen", tag))
                future = transaction.commit_small()
                assert (future is None) == is_big
                if future is None:
                    await asyncio.to_thread(transaction.prepare)
                    future = transaction.commit()
                await asyncio.wrap_future(future)
            recorder.note("reply", tag)
            assert home.memory.stat(f"{n % 3}/{number}") is not None

    async def callers() -> None:
        await asyncio.gather(*map(caller, range(N_CALLERS)))

    with home:
        recorder.events.clear()
        asyncio.run(callers())
        events = list(recorder.events)
        assert set(keys(home.database)) == {str(n) for n in range(N_CALLERS * N_EACH)}
    place = {event: at for at, event in enumerate(events)}
    commits = [at for at, (what, _) in enumerate(events) if what == "commit begins"]
    assert len(commits) < N_CALLERS * N_EACH  # they were committed in groups
    for number in range(N_CALLERS * N_EACH):
        tag = number.to_bytes(4, "big")
        written, seen, replied = place["write", tag], place["seen", tag], place["reply", tag]
        whole = [at for at in commits if written < at and events.index(("commit ends", None), at) < seen]
        assert whole, f"{number} was seen before a commit after its write had ended"
        assert seen < replied
        if number % 7 == 0:
            assert ("fsync", None) in events[written : whole[-1]]
