"""Who works, who waits, who is sent away: limits hold, nobody starves, no place is lost."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from canister.errors import CallerBusy, CanisterBusy, Trap
from canister.runtime.admission import Admission, Place, QueueLimits
from tests.harness import settle

pytestmark = pytest.mark.anyio

LIMITS = QueueLimits(running=2, running_of_caller=2, waiting=10, waiting_of_caller=6)


async def test_a_single_call_passes_a_flood() -> None:
    admission = Admission("c", LIMITS)
    order: list[str] = []

    async def work(caller: str) -> None:
        async with admission.enter(caller):
            order.append(caller)
            await settle()

    await asyncio.gather(*(work("flood") for _ in range(8)), work("other"))
    # Two of the flood were there first; of those that wait, one goes before the other caller's turn.
    assert order.index("other") <= 3
    assert Counter(order) == {"flood": 8, "other": 1}
    assert (admission.n_running, admission.n_waiting) == (0, 0)


async def test_who_is_sent_away_and_why() -> None:
    admission = Admission("c", QueueLimits(running=1, running_of_caller=1, waiting=3, waiting_of_caller=2))
    places = [admission.enter("a") for _ in range(3)]
    with pytest.raises(CallerBusy, match="max_queue_per_caller = 2"):
        admission.enter("a")
    places.append(admission.enter("b"))
    with pytest.raises(CanisterBusy, match="max_queue = 3"):
        admission.enter("c")
    for place in places:
        place.leave()
    assert admission.has_room("a")


async def test_work_that_does_not_wait() -> None:
    streams = QueueLimits(2, 1, 0, 0, "streams", "max_streams", "max_streams_per_caller")
    admission = Admission("c", streams)
    admission.enter("a")
    with pytest.raises(CallerBusy, match="max_streams_per_caller = 1"):
        admission.enter("a")
    admission.enter("b")
    with pytest.raises(CanisterBusy, match="max_streams = 2"):
        admission.enter("c")


async def test_free_places_are_for_whoever_may_use_them() -> None:
    admission = Admission("c", QueueLimits(running=4, running_of_caller=1, waiting=2, waiting_of_caller=2))
    own = [admission.enter("a") for _ in range(3)]
    assert [place.is_granted for place in own] == [True, False, False]
    # The queue is full of calls that wait for their own caller: they are in nobody's way.
    assert admission.enter("b").is_granted
    own[0].leave()
    assert [place.is_granted for place in own] == [True, True, False]


async def test_whoever_stops_waiting_gives_its_place_to_the_next() -> None:
    admission = Admission("c", QueueLimits(running=1, running_of_caller=1, waiting=5, waiting_of_caller=5))
    first = admission.enter("a")

    async def wait() -> None:
        async with admission.enter("b"):
            raise AssertionError("was cancelled before its turn")

    waiting = asyncio.create_task(wait())
    await settle()
    last = admission.enter("b")
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert admission.n_waiting == 1
    first.leave()
    assert last.is_granted
    last.leave()
    last.leave()  # harmless
    assert (admission.n_running, admission.n_waiting) == (0, 0)


@settings(max_examples=200)
@given(
    st.builds(QueueLimits, st.integers(1, 4), st.integers(1, 4), st.integers(0, 6), st.integers(0, 6)),
    st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=60),
)
def test_limits_hold_and_turns_are_fair(limits: QueueLimits, steps: list[tuple[str, bool]]) -> None:
    """Random callers come (True) or finish the oldest piece of their work (False)."""

    async def play() -> None:
        admission = Admission("c", limits)
        places: list[Place] = []
        passed: dict[Place, Counter[str]] = {}  # whom others were granted while this one waited
        for caller, comes in steps:
            before = {place for place in places if place.is_granted}
            if comes:
                try:
                    places.append(admission.enter(caller))
                except Trap:
                    continue
                if not places[-1].is_granted:
                    passed[places[-1]] = Counter()
            else:
                own = next((place for place in places if place.caller == caller and place.is_granted), None)
                if own is None:
                    continue
                own.leave()
                places.remove(own)
            running = Counter(place.caller for place in places if place.is_granted)
            waiting = [place for place in places if not place.is_granted]
            assert admission.n_running == sum(running.values()) <= limits.running
            assert max(running.values(), default=0) <= limits.running_of_caller
            assert admission.n_waiting == len(waiting) <= limits.waiting
            # No place stays empty while somebody may take it.
            if running.total() < limits.running:
                assert all(running[place.caller] >= limits.running_of_caller for place in waiting)
            for place in places:
                if place.is_granted and place not in before:
                    heads = {waiter.caller: waiter for waiter in reversed(waiting)}
                    for head in heads.values():
                        if head.caller != place.caller and running[head.caller] < limits.running_of_caller:
                            passed[head][place.caller] += 1
                            assert passed[head][place.caller] <= 2, "another caller went before it again and again"
        for place in list(places):
            place.leave()
        assert (admission.n_running, admission.n_waiting) == (0, 0)

    asyncio.run(play())
