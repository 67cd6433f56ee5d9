"""The simulation of a herd, short: waits as in the design, with the herd's own placement and in virtual time."""

from __future__ import annotations

import pytest

from tests.bench.herd_sim import STORE_SECONDS, Scenario, Simulation


@pytest.mark.parametrize("n_die", [0, 4])
def test_with_shared_rows_nobody_waits_much_longer_than_they_take(n_die: int) -> None:
    waits = Simulation(Scenario("short", 40, 0.6, 120, shared=True, n_die=n_die)).run()
    assert waits.n_turns > 5000
    assert waits.mean < 0.1
    assert waits.p99 <= STORE_SECONDS * 1.1


def test_without_shared_rows_chats_stay_where_they_are() -> None:
    """A turn waits for its owner when moving takes longer; moved chats would make everybody slow."""
    waits = Simulation(Scenario("short", 40, 0.7, 120, shared=False)).run()
    assert waits.moved < 0.02
    assert waits.mean < 0.3
    assert waits.p99 < 3.0


def test_when_workers_die_only_their_chats_are_decoded_again() -> None:
    waits = Simulation(Scenario("short", 40, 0.6, 120, shared=False, n_die=4)).run()
    assert waits.mean < 0.6
    assert waits.p99 <= 9.5


def test_a_run_depends_on_its_seed_alone() -> None:
    scenario = Scenario("short", 10, 0.7, 60, shared=True)
    assert Simulation(scenario, 7).run() == Simulation(scenario, 7).run() != Simulation(scenario, 8).run()
