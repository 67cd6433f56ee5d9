"""Whatever breaks, and wherever: the state is the old one or the new one, never between, and nothing is left over.

Every scenario is a few transactions and syncs on the same first state. It is broken at operation 1, 2, 3, … until it
comes through; an operation is a call of the file layer or a COMMIT (see `faults.py`). The broken transaction may have
happened or not; those before it must have.
"""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from sqlalchemy import insert, update

from canister.errors import CanisterError, StorageFull, StoreDamaged
from canister.store.recovery import Recovery
from canister.store.tables import settings as settings_table
from canister.store.transaction import Transaction
from tests.store.faults import Crash, Faults, FaultyLayer, Mode
from tests.store.home import Home

Step = Callable[[Transaction], None]

BIG = bytes(range(250)) * 300  # more than redo rows take


def write_first_state(home: Home) -> None:
    with home.memory.begin() as transaction:
        transaction.write_file("models/a.gguf", b"old model " * 10)
        transaction.set_upload("models/a.gguf", 100, "00" * 32, 0)
        transaction.write_file("models/big.gguf", BIG)
        transaction.write_file("cache/user/chat", b"chat" * 5)
        transaction.write_file("cache/user/chat.icppfmt", b"format\nmodel\n")
        transaction.execute(insert(settings_table), {"key": "level", "value": 0})
        transaction.commit_sync()
    home.make_folder("empty/deep")
    with home.memory.begin() as transaction:
        transaction.append_file("cache/user/chat", b" and more")
        transaction.commit_sync()


def write_new(transaction: Transaction) -> None:
    transaction.write_file("new", b"something new")


def write_new_big(transaction: Transaction) -> None:
    transaction.write_file("models/new", BIG)


def write_new_deep(transaction: Transaction) -> None:
    transaction.write_file("some/where/deep/down", b"something new")
    transaction.write_file("some/where/else", BIG)


def write_nothing(transaction: Transaction) -> None:
    transaction.write_file("new", b"")
    transaction.append_file("cache/user/chat", b"")


def replace(transaction: Transaction) -> None:
    transaction.write_file("models/a.gguf", b"new model")
    transaction.set_upload("models/a.gguf", 9, "11" * 32, 0)


def replace_big(transaction: Transaction) -> None:
    transaction.write_file("models/a.gguf", BIG)
    transaction.write_file("models/big.gguf", b"small")


def append(transaction: Transaction) -> None:
    transaction.append_file("cache/user/chat", b"something new at the end")


def append_twice(transaction: Transaction) -> None:
    transaction.append_file("models/a.gguf", BIG)
    transaction.set_upload("models/a.gguf", 100 + len(BIG), "22" * 32, 100)
    transaction.append_file("models/a.gguf", b"and again")
    transaction.append_file("models/big.gguf", b"x")


def copy(transaction: Transaction) -> None:
    transaction.copy_file("cache/user/chat", "cache/user/copies/chat")
    transaction.copy_file("models/big.gguf", "models/a.gguf")


def copy_what_changes(transaction: Transaction) -> None:
    transaction.append_file("cache/user/chat", b"!")
    transaction.copy_file("cache/user/chat", "copy")
    transaction.append_file("copy", b"?")
    transaction.remove("cache/user/chat")


def remove_file(transaction: Transaction) -> None:
    transaction.remove("models/a.gguf")


def remove_folders(transaction: Transaction) -> None:
    transaction.remove("empty/deep")
    transaction.remove("empty")
    transaction.remove("cache/user/chat")
    transaction.remove("cache/user/chat.icppfmt")
    transaction.remove("cache/user/")


def file_becomes_folder(transaction: Transaction) -> None:
    transaction.remove("models/a.gguf")
    transaction.write_file("models/a.gguf/part", b"inside")


def folder_becomes_file(transaction: Transaction) -> None:
    transaction.remove("empty/deep")
    transaction.write_file("empty/deep", b"a file now")


def removed_and_written_again(transaction: Transaction) -> None:
    transaction.remove("cache/user/chat")
    transaction.write_file("cache/user/chat", b"another chat")
    transaction.write_file("passing", b"never seen")
    transaction.remove("passing")


def only_sql(transaction: Transaction) -> None:
    transaction.execute(update(settings_table).values(value=1))


def everything(transaction: Transaction) -> None:
    transaction.write_file("logs/run", b"log")
    transaction.append_file("cache/user/chat", b"something new at the end")
    transaction.write_file("cache/user/chat.icppfmt", BIG)
    transaction.remove("models/a.gguf")
    transaction.copy_file("models/big.gguf", "models/b.gguf")
    transaction.remove("empty/deep")
    transaction.execute(insert(settings_table), {"key": "max_tokens", "value": 7})
    transaction.execute(update(settings_table).where(settings_table.c.key == "level").values(value=1))


def append_big(transaction: Transaction) -> None:
    transaction.append_file("cache/user/chat", BIG)
    transaction.append_file("new", BIG)


def append_small(transaction: Transaction) -> None:
    transaction.append_file("cache/user/chat", b", and a little more")
    transaction.append_file("new", b", and more")


def write_small_over(transaction: Transaction) -> None:
    transaction.write_file("cache/user/chat", b"chat")  # what the old one begins with
    transaction.write_file("new", b"newer")


def write_more_over(transaction: Transaction) -> None:
    transaction.write_file("cache/user/chat", b"a chat that is longer than the other one was " * 3)


def remove_new(transaction: Transaction) -> None:
    transaction.remove("new")


def sync(transaction: Transaction) -> None:
    """No transaction, but the time between two: everything is brought to the disk."""
    transaction._volume.sync()


ALONE: tuple[Step, ...] = (
    write_new,
    write_new_big,
    write_new_deep,
    write_nothing,
    replace,
    replace_big,
    append,
    append_twice,
    copy,
    copy_what_changes,
    remove_file,
    remove_folders,
    file_becomes_folder,
    folder_becomes_file,
    removed_and_written_again,
    only_sql,
    everything,
)
SCENARIOS: dict[str, list[Step]] = {step.__name__: [step, sync] for step in ALONE} | {
    "small, then big at its end": [write_new, append, append_big, append_small],
    "small, synced, then big at its end": [write_new, append, sync, append_big, append_small, sync, only_sql],
    "big at the end of what was just written over": [write_new, write_small_over, append_big, sync],
    "appended, then written over by more": [append, write_more_over, sync],
    "removed and written again": [write_new, remove_new, write_new, append_small, sync, remove_new, write_new],
    "redo rows of before and after a sync": [write_new, sync, append_small, replace, only_sql, remove_new],
    "redo rows of several transactions": [write_new, append, write_small_over, append_small, only_sql],
}


class Bench:
    """First states to break, and what they should become."""

    def __init__(self, disk: Path, steps: list[Step], *, start_empty: bool = False) -> None:
        self.disk = disk
        self.steps = steps
        self.numbers = itertools.count()
        with Home(disk / "first") as home:
            if not start_empty:
                write_first_state(home)
        faults = Faults()
        with self.start(faults) as home:
            faults.n_done = 0
            self.states = [home.state()]
            for n in range(len(steps)):
                self.run(home, n, n + 1)
                self.states.append(home.state())
            self.n_operations = faults.n_done

    def start(self, faults: Faults | None = None) -> Home:
        return Home(Path(shutil.copytree(self.disk / "first", self.disk / str(next(self.numbers)))), faults)

    def run(self, home: Home, first: int = 0, end: int | None = None) -> None:
        """Take these steps; where one breaks, its number is `n_done`."""
        self.n_done = first
        for step in self.steps[first:end]:
            try:
                with home.memory.begin() as transaction:
                    step(transaction)
                    transaction.commit_sync()
            except OSError as error:
                assert step is sync
                raise StorageFull from error  # as an error of ours
            self.n_done += 1

    def broken(self, mode: Mode) -> Iterator[tuple[Home, BaseException | None]]:
        """The scenario broken at each operation in turn: what is left of it, and what it raised."""
        for n in range(1, self.n_operations + 1):
            home = self.break_at(n, mode)
            try:
                yield home, self.error
            finally:
                home.close()
                shutil.rmtree(home.root)

    def break_at(self, n: int, mode: Mode) -> Home:
        faults = Faults()
        home = self.start(faults)
        home.open()
        faults.n_done, faults.at, faults.mode = 0, n, mode
        self.error: BaseException | None = None
        try:
            self.run(home)
        except (Crash, CanisterError) as error:
            self.error = error
        assert faults.struck
        return home

    @property
    def possible(self) -> list[dict[str, Any]]:
        """The states that may be found after the last run: before and after the step that broke."""
        return self.states[self.n_done : self.n_done + 2]

    def check_reopened(self, root: Path, expected: list[dict[str, Any]], twice: bool = False) -> None:
        """twice: a second start finds nothing to do."""
        with Home(root) as home:
            state = home.state()
            assert state in expected
            home.check_disk()
            assert home.n_redo_rows() == 0
        if twice:
            home = Home(root)
            recovery = home.open()
            try:
                assert recovery == Recovery()
                assert home.state() == state
            finally:
                home.close()
        shutil.rmtree(root)


@pytest.fixture
def bench(disk: Path, scenario: str) -> Bench:
    return Bench(disk, SCENARIOS[scenario])


scenarios = pytest.mark.parametrize("scenario", SCENARIOS)


@scenarios
@pytest.mark.parametrize(
    ("mode", "forgotten"),
    [
        ("tear", 0),
        ("tear", 1),
        pytest.param("tear", 0.5, marks=pytest.mark.nightly),
        pytest.param("crash", 0, marks=pytest.mark.nightly),
        pytest.param("crash", 1, marks=pytest.mark.nightly),
    ],
)
def test_after_a_crash_the_state_is_the_old_or_the_new_one(bench: Bench, mode: Mode, forgotten: float) -> None:
    """Also when the disk forgets some or all of what was not synced."""
    for home, _ in bench.broken(mode):
        image = home.crashed(bench.disk / "image", forgotten)
        bench.check_reopened(image, bench.possible, twice=forgotten == 1)


@scenarios
@pytest.mark.parametrize("mode", ["full", pytest.param("torn", marks=pytest.mark.nightly)])
def test_a_failing_disk_leaves_the_running_instance_in_the_old_or_the_new_state(bench: Bench, mode: Mode) -> None:
    for home, error in bench.broken(mode):
        assert not isinstance(error, Crash)
        state = home.state()
        assert state == bench.possible[0]
        bench.check_reopened(home.crashed(bench.disk / "image"), [state])
        if home.memory.volume.sync_error is not None:
            with pytest.raises(OSError, match="restart the server"):  # an fsync that failed stays failed
                home.memory.sync()
            continue
        if error is not None:  # the disk works again
            bench.run(home, bench.n_done)
        home.memory.sync()
        assert home.state()["contents"] == bench.states[-1]["contents"]
        home.check_disk()


@pytest.mark.parametrize(
    ("scenario", "forgotten"),
    [
        ("folder_becomes_file", 0),
        ("redo rows of several transactions", 1),
        pytest.param("redo rows of several transactions", 0, marks=pytest.mark.nightly),
        pytest.param("everything", 0, marks=pytest.mark.nightly),
        pytest.param("everything", 1, marks=pytest.mark.nightly),
    ],
)
def test_a_crash_while_recovering_does_no_harm(bench: Bench, forgotten: float) -> None:
    for home, _ in bench.broken("tear"):
        image = home.crashed(bench.disk / "image", forgotten)
        for n in itertools.count(1):
            root = Path(shutil.copytree(image, bench.disk / "second"))
            faults = Faults()
            again = Home(root, faults)
            again.database.open()
            faults.n_done, faults.at, faults.mode = 0, n, "tear"
            try:
                again.memory.recover()
            except Crash:
                bench.check_reopened(again.crashed(bench.disk / "second-image", forgotten), bench.possible)
            finally:
                again.close()
                shutil.rmtree(root)
            if not faults.struck:
                break
        shutil.rmtree(image)


def test_a_power_cut_after_a_crash_and_a_start_does_no_harm(disk: Path) -> None:
    """The process dies alone, so all it wrote can be read, and the next one must not take that for synced."""
    bench = Bench(disk, SCENARIOS["redo rows of several transactions"] + SCENARIOS["write_new_deep"])
    for home, _ in bench.broken("crash"):
        assert isinstance(home.layer, FaultyLayer)
        home.memory.volume.close()
        home.database.close()
        faults = Faults()
        again = Home(home.root, faults, unsynced=home.layer.unsynced)
        again.open()
        try:
            bench.check_reopened(again.crashed(bench.disk / "image", 1), bench.possible)
        finally:
            faults.is_dead = True
            again.close()


PATHS = ["a", "a/b", "a/b/c", "d", "d/e", "f"]
CONTENTS = st.sampled_from([b"", b"x", b"small" * 10, b"small" * 11, BIG, BIG + b"!"])
OPERATIONS = st.one_of(
    st.tuples(st.just("write_file"), st.sampled_from(PATHS), CONTENTS),
    st.tuples(st.just("append_file"), st.sampled_from(PATHS), CONTENTS),
    st.tuples(st.just("copy_file"), st.sampled_from(PATHS), st.sampled_from(PATHS)),
    st.tuples(st.just("remove"), st.sampled_from(PATHS)),
)


def step_of(operations: list[tuple[Any, ...]]) -> Step:
    """A transaction of these operations, less those that are refused; or a sync."""

    def step(transaction: Transaction) -> None:
        for name, *arguments in operations:
            with suppress(CanisterError):
                getattr(transaction, name)(*arguments)

    return step


BREAKS = given(
    transactions=st.lists(st.one_of(st.just([]), st.lists(OPERATIONS, min_size=1, max_size=4)), min_size=2, max_size=7),
    when=st.floats(0, 1),
    mode=st.sampled_from(["crash", "tear"]),
    forgotten=st.sampled_from([0, 0.3, 0.6, 1]),
)


def break_and_check(
    disk: Path, transactions: list[list[tuple[Any, ...]]], when: float, mode: Mode, forgotten: float
) -> None:
    """transactions: their operations; none for a sync."""
    with tempfile.TemporaryDirectory(dir=disk) as folder:
        steps = [step_of(operations) if operations else sync for operations in transactions]
        bench = Bench(Path(folder), steps, start_empty=True)
        assume(bench.n_operations)
        home = bench.break_at(1 + int(when * (bench.n_operations - 1)), mode)
        try:
            bench.check_reopened(home.crashed(bench.disk / "image", forgotten), bench.possible)
        finally:
            home.close()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@BREAKS
def test_whatever_was_done_before(disk: Path, **drawn: Any) -> None:
    break_and_check(disk, **drawn)


@pytest.mark.nightly
@settings(max_examples=1500, deadline=None, suppress_health_check=list(HealthCheck))
@BREAKS
def test_whatever_was_done_before_often(disk: Path, **drawn: Any) -> None:
    break_and_check(disk, **drawn)


@pytest.mark.parametrize("scenario", ["everything"])
def test_while_no_commit_works_nothing_is_written(bench: Bench) -> None:
    home = bench.start(Faults())
    home.open()
    try:
        commit = home.database._commit

        def failing(connection: object) -> None:
            raise OSError(5, os.strerror(5))

        home.database._commit = failing  # type: ignore[method-assign]
        with pytest.raises(StoreDamaged, match="Input/output error"):
            bench.run(home)
        n_staged = len(os.listdir(home.root / "staging"))
        with pytest.raises(StoreDamaged, match="every call tries again"):
            bench.run(home)
        assert home.state() == bench.states[0]
        assert len(os.listdir(home.root / "staging")) == n_staged > 0  # the next start would know whether they count
        bench.check_reopened(home.crashed(bench.disk / "image"), bench.states[:1])
        home.database._commit = commit  # type: ignore[method-assign]
        bench.run(home)
        assert home.state()["contents"] == bench.states[-1]["contents"]
    finally:
        home.close()
