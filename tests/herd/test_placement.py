"""Placement by seconds: what it promises for any loads, and the waits that it leads to in a simulated herd."""

from __future__ import annotations

import heapq
from collections import deque
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from canister.herd.placement import SPARE_JOBS, Load, Rates, choose, moving_seconds

LOADS = st.lists(st.tuples(st.integers(0, 12), st.integers(1, 8), st.floats(0.01, 100)), min_size=0, max_size=8).map(
    lambda rows: [Load(f"w{i}", *row) for i, row in enumerate(rows)]
)


@given(LOADS, st.integers(0, 9), st.floats(0, 50), st.integers(0))
def test_a_worker_with_room_that_is_no_worse_than_the_owner(
    loads: list[Load], owner: int, moving: float, seed: int
) -> None:
    def cost(worker: str) -> float:
        return 0.0 if worker == f"w{owner}" else moving

    chosen = choose(loads, f"w{owner}", cost, Random(seed))
    by_name = {load.worker: load for load in loads}
    free = [load for load in loads if load.jobs < load.slots + SPARE_JOBS]
    if not free:
        assert chosen is None
        return
    assert chosen is not None
    assert by_name[chosen] in free
    if owner < len(loads) and loads[owner] in free:
        own = loads[owner].wait_seconds
        assert by_name[chosen].wait_seconds + cost(chosen) <= own


@given(LOADS.filter(lambda loads: 0 < len(loads) <= 2), st.integers(0))
def test_of_two_the_one_that_begins_first(loads: list[Load], seed: int) -> None:
    chosen = choose(loads, None, lambda _: 0.0, Random(seed))
    free = [load for load in loads if load.has_room]
    assert chosen == (min(free, key=lambda load: (load.wait_seconds, load.jobs)).worker if free else None)


def test_a_chat_moves_when_moving_is_cheaper_than_waiting() -> None:
    busy, idle = Load("w1", 8, 8, 2.0), Load("w2", 0, 8, 2.0)

    def of(moving: float) -> str | None:
        return choose([busy, idle], "w1", lambda worker: 0.0 if worker == "w1" else moving, Random(1))

    assert busy.wait_seconds == 0.25
    assert of(0.2) == "w2"
    assert of(0.3) == "w1"


@given(st.integers(0, 10_000), st.integers(0, 10**9))
def test_moving_takes_the_cheaper_way(n_tokens: int, n_bytes: int) -> None:
    rates = Rates()
    both = moving_seconds(n_tokens, n_bytes, rates)
    assert both <= moving_seconds(n_tokens, None, rates)
    assert both <= rates.first_byte_seconds + n_bytes / rates.bytes_per_second


def _simulated(policy: str, n_workers: int = 20, slots: int = 8, seconds: float = 200.0) -> list[float]:
    """Waits, in virtual seconds, of turns of chats in a herd at 0.7 of its capacity. A turn takes 2.2 s of a slot; its
    state comes in 0.15 s from elsewhere.
    """
    random, turn, think, moving = Random(7), 2.2, 20.0, 0.15
    n_chats = int(n_workers * slots * 0.7 / turn * (turn + think))
    jobs = [0] * n_workers
    queues: list[deque[tuple[int, float]]] = [deque() for _ in range(n_workers)]
    owner: dict[int, int] = {}
    waits: list[float] = []
    events = [(random.random() * (turn + think), 0, chat, 0) for chat in range(n_chats)]
    heapq.heapify(events)

    def place(chat: int) -> int:
        if policy == "sticky" and chat in owner:
            return owner[chat]
        loads = [Load(str(i), n, slots, turn) for i, n in enumerate(jobs)]
        own = str(owner[chat]) if chat in owner else None
        chosen = choose(loads, own, lambda worker: 0.0 if worker == own else moving, random)
        return int(chosen) if chosen is not None else min(range(n_workers), key=jobs.__getitem__)

    def begin(worker: int, chat: int, came: float, now: float) -> None:
        cost = 0.0 if owner.get(chat, worker) == worker else moving
        owner[chat] = worker
        if now > seconds / 3:
            waits.append(now - came + cost)
        heapq.heappush(events, (now + cost + turn, 1, chat, worker))

    while events:
        now, kind, chat, worker = heapq.heappop(events)
        if now > seconds:
            break
        if kind == 0:
            worker = place(chat)
            jobs[worker] += 1
            if jobs[worker] <= slots:
                begin(worker, chat, now, now)
            else:
                queues[worker].append((chat, now))
        else:
            jobs[worker] -= 1
            heapq.heappush(events, (now + random.expovariate(1 / think), 0, chat, 0))
            if queues[worker]:
                begin(worker, *queues[worker].popleft(), now)
    return sorted(waits)


def test_waits_in_a_simulated_herd_are_shorter_than_those_of_chats_that_never_move() -> None:
    ours, sticky = _simulated("seconds"), _simulated("sticky")
    assert sum(ours) / len(ours) < 0.5 * sum(sticky) / len(sticky)
    assert ours[int(len(ours) * 0.99)] < 0.5 * sticky[int(len(sticky) * 0.99)]
