"""A job goes where it begins first: also to an owner that is full, for which it waits then."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from canister.herd.placement import SPARE_JOBS, Load, aim

LOADS = st.lists(
    st.builds(Load, st.just(""), st.integers(0, 20), st.integers(1, 8), st.floats(0.1, 10), st.integers(0, 50)),
    max_size=8,
).map(lambda loads: [Load(f"w{n}", x.jobs, x.slots, x.call_seconds, x.waiting) for n, x in enumerate(loads)])


def full(worker: str, waiting: int = 0) -> Load:
    return Load(worker, 8 + SPARE_JOBS, 8, 2.0, waiting)


def free(worker: str) -> Load:
    return Load(worker, 0, 8, 2.0)


def test_a_job_waits_for_a_full_owner_while_moving_takes_longer() -> None:
    loads = [full("owner"), free("a"), free("b")]
    found = aim(loads, "owner", lambda worker: 0.0 if worker == "owner" else 9.0, Random(1))
    assert found == full("owner")
    assert found is not None
    assert not found.has_room


def test_and_goes_elsewhere_when_too_many_wait_for_it_already() -> None:
    loads = [full("owner", waiting=100), free("a"), free("b")]
    found = aim(loads, "owner", lambda worker: 0.0 if worker == "owner" else 9.0, Random(1))
    assert found in (free("a"), free("b"))


@given(LOADS, st.integers(0, 9), st.lists(st.floats(0, 10), min_size=10, max_size=10), st.integers(0, 99))
def test_nothing_that_was_looked_at_begins_earlier(
    loads: list[Load], owner: int, costs: list[float], seed: int
) -> None:
    def begins(load: Load) -> float:
        return load.wait_seconds + costs[int(load.worker[1:])]

    found = aim(loads, f"w{owner}", lambda worker: costs[int(worker[1:])], Random(seed))
    if found is None:
        assert not any(load.has_room for load in loads)
        return
    assert found.has_room or found.worker == f"w{owner}"
    for load in loads:
        if load.worker == f"w{owner}":
            assert begins(found) <= begins(load)
    if sum(load.has_room for load in loads) <= 2:
        assert begins(found) <= min(begins(load) for load in loads if load.has_room)
