"""Named locks and the gate: exclusion, fairness, and no place lost to a cancelled waiter."""

from __future__ import annotations

import asyncio

import pytest

from canister.runtime.locks import Gate, NamedLocks
from tests.runtime.held import held

pytestmark = pytest.mark.anyio


async def test_a_named_lock_excludes_and_is_gone_when_free() -> None:
    locks = NamedLocks()
    order: list[str] = []

    async def work(name: str, label: str) -> None:
        async with held(locks.acquire(name)):
            order.append(f"{label}+")
            await asyncio.sleep(0)
            order.append(f"{label}-")

    await asyncio.gather(work("a", "1"), work("a", "2"), work("b", "3"))
    assert order.index("1-") < order.index("2+")
    assert order.index("3+") < order.index("1-")
    assert not locks.is_held("a")
    assert not locks.is_held("b")


async def test_a_cancelled_waiter_leaves_the_lock_usable() -> None:
    locks = NamedLocks()
    async with held(locks.acquire("a")):
        waiter = asyncio.create_task(_hold_once(locks))
        await asyncio.sleep(0)
        waiter.cancel()
        await asyncio.gather(waiter, return_exceptions=True)
        assert locks.is_held("a")
    assert not locks.is_held("a")


async def _hold_once(locks: NamedLocks) -> None:
    async with held(locks.acquire("a")):
        pass


async def test_sharers_run_together_and_who_wants_it_alone_holds_later_ones_back() -> None:
    gate = Gate()
    inside: set[str] = set()
    seen: dict[str, set[str]] = {}

    async def shared(label: str, gone: asyncio.Event) -> None:
        async with held(gate.enter()):
            inside.add(label)
            await gone.wait()
            inside.discard(label)

    async def alone() -> None:
        async with held(gate.enter(alone=True)):
            seen["alone"] = set(inside)

    first_gone, later_gone = asyncio.Event(), asyncio.Event()
    first = [asyncio.create_task(shared(label, first_gone)) for label in "ab"]
    await asyncio.sleep(0)
    assert inside == {"a", "b"}
    only = asyncio.create_task(alone())
    await asyncio.sleep(0)
    later = asyncio.create_task(shared("c", later_gone))
    for _ in range(3):
        await asyncio.sleep(0)
    assert inside == {"a", "b"}
    assert not only.done()
    first_gone.set()
    await asyncio.gather(*first, only)
    assert seen["alone"] == set()
    later_gone.set()
    await later


@pytest.mark.parametrize("victim", ["alone", "shared"])
async def test_a_cancelled_waiter_lets_the_next_one_in(victim: str) -> None:
    gate = Gate()
    entered = asyncio.Event()

    async def enter(alone: bool) -> None:
        async with held(gate.enter(alone=alone)):
            entered.set()

    async with held(gate.enter(alone=True)):
        waiting = asyncio.create_task(enter(victim == "alone"))
        await asyncio.sleep(0)
        behind = asyncio.create_task(enter(True))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert not entered.is_set()
    await asyncio.wait_for(behind, 60)
    assert entered.is_set()


async def test_a_waiter_cancelled_in_the_moment_it_is_let_in_gives_its_place_back() -> None:
    gate = Gate()
    leave = asyncio.Event()

    async def hold() -> None:
        async with held(gate.enter(alone=True)):
            await leave.wait()

    async def enter() -> None:
        async with held(gate.enter(alone=True)):
            pass

    holder = asyncio.create_task(hold())
    await asyncio.sleep(0)
    waiting = asyncio.create_task(enter())
    await asyncio.sleep(0)
    leave.set()
    await holder  # the place is given to `waiting`, which has not run yet
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    async with asyncio.timeout(60), held(gate.enter()):
        pass
