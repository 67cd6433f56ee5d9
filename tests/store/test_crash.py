"""Whatever breaks, and wherever: the state is the old one or the new one, never between, and nothing is left over.

Every scenario is one transaction on the same first state. It is broken at operation 1, 2, 3, … until it comes through;
an operation is a call of the file layer or a COMMIT (see `faults.py`).
"""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert, update

from canister.errors import CanisterError, StorageFull, StoreDamaged
from canister.store.tables import settings
from canister.store.transaction import Transaction
from tests.store.faults import Crash, Faults, Mode
from tests.store.home import Home

Scenario = Callable[[Transaction], None]

BIG = bytes(range(256)) * 1024  # more than a redo row takes


def write_first_state(home: Home) -> None:
    with home.memory.begin() as transaction:
        transaction.write_file("models/a.gguf", b"old model " * 10)
        transaction.set_upload("models/a.gguf", 100, "00" * 32, 0)
        transaction.write_file("models/big.gguf", BIG)
        transaction.write_file("cache/user/chat", b"chat" * 5)
        transaction.write_file("cache/user/chat.icppfmt", b"format\nmodel\n")
        transaction.make_folder("empty/deep")
        transaction.execute(insert(settings), {"key": "level", "value": 0})
        transaction.commit_sync()
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


def make_folders(transaction: Transaction) -> None:
    transaction.make_folder("a/b/c")
    transaction.make_folder("empty/deep/er")


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
    transaction.execute(update(settings).values(value=1))


def everything(transaction: Transaction) -> None:
    transaction.write_file("logs/run", b"log")
    transaction.append_file("cache/user/chat", b"something new at the end")
    transaction.write_file("cache/user/chat.icppfmt", BIG)
    transaction.remove("models/a.gguf")
    transaction.copy_file("models/big.gguf", "models/b.gguf")
    transaction.remove("empty/deep")
    transaction.execute(insert(settings), {"key": "max_tokens", "value": 7})
    transaction.execute(update(settings).where(settings.c.key == "level").values(value=1))


SCENARIOS: list[Scenario] = [
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
    make_folders,
    remove_file,
    remove_folders,
    file_becomes_folder,
    folder_becomes_file,
    removed_and_written_again,
    only_sql,
    everything,
]
scenarios = pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)


class Bench:
    """First states to break, and what they should become."""

    def __init__(self, disk: Path, scenario: Scenario) -> None:
        self.disk = disk
        self.scenario = scenario
        self.numbers = itertools.count()
        with Home(disk / "first") as home:
            write_first_state(home)
        with self.start() as home:
            self.old = home.state()
            self.run(home)
            self.new = home.state()
        assert self.old != self.new

    def start(self, faults: Faults | None = None) -> Home:
        return Home(Path(shutil.copytree(self.disk / "first", self.disk / str(next(self.numbers)))), faults)

    def run(self, home: Home) -> None:
        with home.memory.begin() as transaction:
            self.scenario(transaction)
            transaction.commit_sync()

    def broken(self, mode: Mode) -> Iterator[tuple[Home, BaseException | None]]:
        """The scenario broken at each operation in turn: what is left of it, and what it raised."""
        for n in itertools.count(1):
            faults = Faults()
            home = self.start(faults)
            home.open()
            faults.n_done, faults.at, faults.mode = 0, n, mode
            error: BaseException | None = None
            try:
                self.run(home)
            except (Crash, CanisterError) as raised:
                error = raised
            try:
                if faults.struck:
                    yield home, error
            finally:
                home.close()
                shutil.rmtree(home.root)
            if not faults.struck:
                return

    def check_reopened(self, root: Path, expected: list[dict[str, Any]]) -> None:
        """Twice, for the second start finds nothing to do."""
        with Home(root) as home:
            state = home.state()
            assert state in expected
            home.check_disk()
            assert home.n_redo_rows() == 0
        home = Home(root)
        recovery = home.open()
        try:
            assert (recovery.n_moves, recovery.n_leftovers) == (0, 0)
            assert (recovery.truncated, recovery.damaged) == ((), ())
            assert home.state() == state
        finally:
            home.close()
            shutil.rmtree(root)


@pytest.fixture
def bench(disk: Path, scenario: Scenario) -> Bench:
    return Bench(disk, scenario)


@scenarios
@pytest.mark.parametrize("forgotten", [0, 0.5, 1])
@pytest.mark.parametrize("mode", ["crash", "tear"])
def test_after_a_crash_the_state_is_the_old_or_the_new_one(bench: Bench, mode: Mode, forgotten: float) -> None:
    """Also when the disk forgets some or all of what was not synced."""
    outcomes = []
    for home, error in bench.broken(mode):
        image = home.crashed(bench.disk / "image", forgotten)
        # Whoever got a reply may rely on it.
        bench.check_reopened(image, [bench.new] if error is None else [bench.old, bench.new])
        outcomes.append(error)
    assert outcomes


@scenarios
@pytest.mark.parametrize("mode", ["fail", "full", "torn"])
def test_a_failing_disk_leaves_the_running_instance_in_the_old_or_new_state(bench: Bench, mode: Mode) -> None:
    for home, error in bench.broken(mode):
        assert not isinstance(error, Crash)
        if mode == "full" and error is not None:
            assert isinstance(error, StorageFull | StoreDamaged)
        expected = bench.old if error is not None else bench.new
        assert home.state() == expected
        image = home.crashed(bench.disk / "image")
        bench.check_reopened(image, [expected])
        if error is not None:  # the disk works again
            bench.run(home)
        else:
            with home.memory.begin() as transaction:
                transaction.execute(update(settings).values(value=settings.c.value))
                transaction.commit_sync()
        with home.database.read():
            state = home.state()
        assert state["contents"] == bench.new["contents"]
        home.check_disk()


@pytest.mark.parametrize("scenario", [everything, folder_becomes_file, append_twice])
@pytest.mark.parametrize("forgotten", [0, 1])
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
                second = again.crashed(bench.disk / "second-image", forgotten)
                bench.check_reopened(second, [bench.old, bench.new])
            finally:
                again.close()
                shutil.rmtree(root)
            if not faults.struck:
                break
        shutil.rmtree(image)


@pytest.mark.parametrize("scenario", [everything])
def test_when_no_commit_works_any_more_writing_stops_and_the_next_start_decides(bench: Bench) -> None:
    faults = Faults()
    home = bench.start(faults)
    home.open()
    try:
        commit = home.database._commit

        def failing(connection: object) -> None:
            raise OSError(5, os.strerror(5))

        home.database._commit = failing  # type: ignore[method-assign, assignment]
        with pytest.raises(StoreDamaged, match="Input/output error"):
            bench.run(home)
        home.database._commit = commit  # type: ignore[method-assign]
        with pytest.raises(StoreDamaged, match="restart the server"):
            bench.run(home)
        assert home.state() == bench.old
        bench.check_reopened(home.crashed(bench.disk / "image"), [bench.old])
    finally:
        home.close()
