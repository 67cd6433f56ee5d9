"""Every method that changes something, broken at every operation of the disk: the state is the old or the new one.

An operation is whatever changes the data folder, SQLite's own writes and syncs included (`disk.py`). For power cuts and
kills one run is watched, and the folder rebuilt as the disk may hold it after each of its operations (`images.py`); for
errors the call runs once for each of its operations, which fails. The figures are printed with `-s`.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import pytest

from canister.api import management
from canister.errors import CanisterError, Trap
from canister.ic import principal as principals
from tests.crash.disk import Disk, Fault
from tests.crash.images import Log, Policy
from tests.crash.rig import State, read, reopened, running, steady
from tests.crash.scenarios import MODEL, MUTATING, SCENARIOS, Scenario, furnish
from tests.harness import needs_story_model

pytestmark = needs_story_model

often = [pytest.param("some", id="some"), pytest.param("all", id="all", marks=pytest.mark.nightly)]
scenarios = pytest.mark.parametrize("name", SCENARIOS)
N_CRASHES, N_FAILURES = 8, 3  # places in each method, when not all are tried
POLICIES: tuple[Policy, ...] = get_args(Policy)
FAULTS: tuple[Fault, ...] = get_args(Fault)


@pytest.fixture(scope="module")
def fast_disk() -> Iterator[Path]:
    """An empty folder, in memory where the machine has such a disk."""
    fast = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="crash-", dir=fast) as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def furnished(fast_disk: Path) -> dict[bool, Path]:
    """Data folders to begin with, by whether a model is loaded."""
    for loaded in (False, True):
        asyncio.run(furnish(fast_disk / f"furnished-{loaded}", loaded=loaded))
    return {loaded: fast_disk / f"furnished-{loaded}" for loaded in (False, True)}


@dataclass
class Counts:
    """What was tried in this session."""

    images: int = 0
    failures: int = 0


@pytest.fixture(scope="module")
def counts() -> Iterator[Counts]:
    counts = Counts()
    yield counts
    print(f"\n{counts.images} crashes and {counts.failures} failing operations tried, no state between two found")


@pytest.fixture
def folder(fast_disk: Path, furnished: dict[bool, Path], name: str) -> Iterator[Path]:
    """A furnished data folder, in a folder of the test's own."""
    with tempfile.TemporaryDirectory(dir=fast_disk) as own:
        path = Path(own, "data")
        shutil.copytree(furnished[SCENARIOS[name].needs_model], path)
        yield path


def test_every_mutating_method_has_its_scenario() -> None:
    assert set(SCENARIOS) == MUTATING


@dataclass
class Watched:
    """One run of a scenario. n_before, n_acked: operations before the call, and before its answer."""

    log: Log
    n_before: int
    n_acked: int


def watch(scenario: Scenario, folder: Path) -> Watched:
    async def run(disk: Disk) -> Watched:
        async with running(folder) as rig:
            n_before = len(disk.log.changes)
            reply = await scenario.act(rig)
            assert reply.error is None, str(reply.error)
            n_acked = len(disk.log.changes)
        return Watched(disk.log, n_before, n_acked)

    with Disk(folder).watched() as disk:
        return asyncio.run(run(disk))


def evenly(first: int, end: int, n_wanted: int | None) -> list[int]:
    """Numbers from first to end, both included: all, or so many of them."""
    if n_wanted is None or end - first < n_wanted:
        return list(range(first, end + 1))
    return sorted({first + round(step * (end - first) / (n_wanted - 1)) for step in range(n_wanted)})


@pytest.mark.parametrize("share", often)
@scenarios
def test_after_a_crash_a_call_has_happened_or_not_and_an_answered_one_has(
    name: str, share: str, folder: Path, counts: Counts
) -> None:
    old = read(folder)
    watched = watch(SCENARIOS[name], folder)
    new = read(folder)
    image = folder.with_name("image")
    places = evenly(watched.n_before, len(watched.log.changes), None if share == "all" else N_CRASHES)
    for number, at in enumerate(places):
        for policy in POLICIES if share == "all" else (POLICIES[number % 2], POLICIES[2 + number % 2]):
            watched.log.at(at, policy, seed=at).write_to(image)
            state = reopened(image)
            expected = [new] if at >= watched.n_acked else [old, new, *halfway(name, old, new)]
            assert state in expected, (at, policy, differences(state, old, new))
            shutil.rmtree(image)
            counts.images += 1


@pytest.mark.parametrize("share", often)
@scenarios
def test_a_disk_that_fails_once_leaves_the_old_or_the_new_state(
    name: str, share: str, folder: Path, counts: Counts
) -> None:
    scenario = SCENARIOS[name]
    old = steady(read(folder))
    first = folder.with_name("first")
    shutil.copytree(folder, first)
    watched = watch(scenario, folder)
    new = steady(read(folder))

    async def fail(disk: Disk, at: int, fault: Fault) -> bool:
        """Was the call answered? Whatever became of it, the server goes on reading."""
        is_answered = False
        async with running(folder) as rig:
            disk.arm(at, fault)
            with suppress(CanisterError, Trap):
                is_answered = (await scenario.act(rig)).error is None
            assert rig.canister.stable.read(MODEL, 0, 4) == b"GGUF"
        return is_answered

    places = evenly(1, watched.n_acked - watched.n_before, None if share == "all" else N_FAILURES)
    for number, at in enumerate(places):
        for fault in FAULTS if share == "all" else (FAULTS[number % 2],):
            shutil.rmtree(folder)
            shutil.copytree(first, folder)
            with Disk(folder).watched() as disk:
                is_answered = asyncio.run(fail(disk, at, fault))
            assert disk.struck
            state = steady(reopened(folder))
            if is_answered:
                assert state == new, (at, fault, differences(state, old, new))
            else:
                expected = [unpaid(one) for one in (old, new, *halfway(name, old, new))]
                assert unpaid(state) in expected, (at, fault, differences(state, old, new))
            counts.failures += 1


def halfway(name: str, old: State, new: State) -> list[State]:
    """Making and deleting a canister changes the server's database, then that of the canister which runs the call.

    Between the two it has happened without its answer, which the same message gets when it comes again.
    """
    if not any(row.is_of_server for row in management.METHODS if row.name == name):
        return []
    runs_it = principals.canister_id(0)
    return [{**new, runs_it: old[runs_it]}]


OF_ITS_END = ("ledger", "call_log", "requests", "receipts", "receipt_terms")


def unpaid(state: State) -> State:
    """A state without what a call that failed costs, and the answer that it got."""
    return {
        place: {table: rows for table, rows in tables.items() if table not in OF_ITS_END}
        for place, tables in state.items()
    }


def differences(state: State, old: State, new: State) -> dict[str, Any]:
    """What is neither as before nor as after, for the message of a test that fails."""
    found: dict[str, Any] = {}
    for place in sorted({*state, *old, *new}):
        for table in sorted({*state.get(place, {}), *old.get(place, {}), *new.get(place, {})}):
            was, now, will = (one.get(place, {}).get(table) for one in (old, state, new))
            if now != was or now != will:
                found[f"{place}.{table}"] = {"old": was == now, "new": will == now}
    return found
