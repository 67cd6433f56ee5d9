"""How many workers a herd gets: more for work that waits, fewer only after a calm."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from canister.herd.autoscale import Autoscaler, HerdLoad, ScalePolicy

POLICY = ScalePolicy(least=1, most=20, wait_seconds=5.0, calm_seconds=300.0)
SLOTS = 8


def load(n_workers: int, waiting_seconds: float, n_running: int = 0) -> HerdLoad:
    return HerdLoad(n_workers, SLOTS, waiting_seconds, n_running)


def test_work_that_waits_longer_than_it_may_gets_workers() -> None:
    scaler = Autoscaler(POLICY)
    assert scaler.wanted(load(2, 2 * SLOTS * 5.0), 0.0) == 2
    assert scaler.wanted(load(2, 3 * SLOTS * 5.0), 1.0) == 3
    assert scaler.wanted(load(2, 1e6), 2.0) == 4  # not all at once: what waits may be gone before they are there
    assert scaler.wanted(load(19, 1e6), 3.0) == 20


def test_full_slots_alone_get_none() -> None:
    assert Autoscaler(POLICY).wanted(load(2, 0.0, 2 * SLOTS), 0.0) == 2


def test_workers_leave_one_by_one_after_a_calm() -> None:
    scaler = Autoscaler(POLICY)
    n, left = 4, []
    for second in range(0, 2000, 10):
        wanted = scaler.wanted(load(n, 0.0), float(second))
        if wanted < n:
            left.append(second)
        n = wanted
    assert n == 1
    assert left == [300, 600, 900]


def test_a_worker_stays_that_was_needed_in_the_calm() -> None:
    scaler = Autoscaler(POLICY)
    for second in range(0, 3000, 10):
        n_running = 2 * SLOTS if second % 250 == 0 else 0  # now and then
        assert scaler.wanted(load(3, 0.0, n_running), float(second)) == 3


def test_work_that_waits_ends_the_calm() -> None:
    scaler = Autoscaler(POLICY)
    for second in range(0, 3000, 10):
        assert scaler.wanted(load(3, 0.1 if second % 290 == 0 else 0.0), float(second)) == 3


def test_a_flood_comes_and_goes() -> None:
    """In virtual time: work of 40 slots for ten minutes, then none. Nothing swings to and fro."""
    scaler = Autoscaler(POLICY)
    n, waiting, counts = 1, 0.0, [1]
    for second in range(10_000):
        arrives = 40.0 if second < 600 else 0.0
        waiting = max(waiting + arrives - n * SLOTS, 0.0)
        if second % 5 == 0:
            n_running = int(min(arrives, n * SLOTS))
            n = scaler.wanted(load(n, waiting, n_running), float(second))
            if n != counts[-1]:
                counts.append(n)
    most = max(counts)
    assert 5 <= most <= 10
    peak = counts.index(most)
    assert counts[:peak] == sorted(counts[:peak])
    assert counts[peak:] == sorted(counts[peak:], reverse=True)
    assert n == 1


@given(
    st.integers(0, 100),
    st.floats(0, 1e6),
    st.integers(0, 1000),
    st.lists(st.tuples(st.integers(0, 40), st.floats(0, 1e4), st.integers(0, 99)), max_size=20),
)
def test_there_are_never_too_few_or_too_many(
    n_workers: int, waiting: float, n_running: int, before: list[tuple[int, float, int]]
) -> None:
    one, other = Autoscaler(POLICY), Autoscaler(POLICY)
    for second, (n, seconds, running) in enumerate(before):
        for scaler in (one, other):
            assert 1 <= scaler.wanted(load(n, seconds, running), float(second)) <= 20
    wanted = one.wanted(load(n_workers, waiting, n_running), 100.0)
    assert 1 <= wanted <= 20
    assert other.wanted(load(n_workers, waiting + 1, n_running), 100.0) >= wanted  # more work, no fewer workers


@pytest.mark.parametrize(("least", "most"), [(0, 1), (3, 2)])
def test_bounds_that_make_no_sense_are_refused(least: int, most: int) -> None:
    with pytest.raises(ValueError, match="workers"):
        ScalePolicy(least, most)
