"""How long the chunks of calls that have their time take, and what becomes of it when clients go."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from canister.engine import chunk_decodes
from canister.engine.chunk_decodes import JOIN_SHARE, MIN_TIMELY, MOST_IMPATIENT, ChunkDecodes
from canister.engine.request import Ahead
from canister.engine.schedule.scheduler import ALONE, Scheduler, Step

TOKEN_SECONDS = 0.01
SLICE_SECONDS = 1.0


class Clock:
    """Takes the place of perf_counter."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(chunk_decodes, "perf_counter", made)
    return made


def make(*, joins_begun: bool) -> ChunkDecodes:
    """Of a model that takes TOKEN_SECONDS for each token of a prompt."""
    scheduler: Scheduler[Any] = Scheduler(ALONE, min_shared=4 if joins_begun else 0)
    for n in (16, 64, 256):
        scheduler.chunk_sizer.chunks.measured(n, 0, TOKEN_SECONDS * n)
    runner: Any = SimpleNamespace(rearm=lambda: None, abort=lambda: None)
    return ChunkDecodes(runner, scheduler, joins_begun=joins_begun, cut_matters=False)


@pytest.fixture
def chunks() -> ChunkDecodes:
    return make(joins_begun=False)


class Call(SimpleNamespace):
    __hash__ = object.__hash__


def call(ahead: Ahead | None, caller: str = "alice", n_prompt: int = 1000) -> Any:
    request = SimpleNamespace(seconds=SLICE_SECONDS, ahead=ahead, prompt=np.zeros(n_prompt, np.int32))
    place = SimpleNamespace(position=0)
    task = Call(request=request, caller=caller, sequence=place, n_prompt=n_prompt, n_wanted=n_prompt)
    task.is_cancelled = task.is_alone = False
    return task


def decode(chunks: ChunkDecodes, clock: Clock, task: Any, patience: float = 1e9) -> int:
    """One chunk of a call whose client goes after so many seconds. How many tokens came in."""
    step: Step[Any] = Step([], (task,), ALONE, 0)
    with chunks.of(step) as running:
        n = min(chunks.timely(running, ALONE), task.n_prompt)
        seconds = TOKEN_SECONDS * n
        clock.now += min(seconds, patience)
        if seconds > patience:
            task.is_cancelled, n = True, 0
    task.n_prompt -= n
    chunks.ended(step, [n])
    return n


def test_a_chunk_takes_as_long_as_its_call_may(chunks: ChunkDecodes, clock: Clock) -> None:
    assert decode(chunks, clock, call(Ahead())) == pytest.approx(SLICE_SECONDS / TOKEN_SECONDS, abs=1)
    assert chunks.timely([call(Ahead()), call(Ahead())], 32) == 32


@pytest.mark.parametrize("patience", [0.9, 0.5, 0.3])
def test_whoever_goes_too_early_and_asks_again_gets_in(chunks: ChunkDecodes, clock: Clock, patience: float) -> None:
    """Each try is a chain of calls of its own."""
    n_left, tries = 1000, list[int]()
    while n_left:
        n_of_try, left, ahead = 0, patience, Ahead()
        while n_left:
            task = call(ahead, n_prompt=n_left)
            n = decode(chunks, clock, task, left)
            left, n_left, n_of_try = left - TOKEN_SECONDS * n, n_left - n, n_of_try + n
            if not n:
                break
        tries.append(n_of_try)
    assert tries[0] == 0
    assert all(tries[1:])
    assert decode(chunks, clock, call(Ahead())) == pytest.approx(SLICE_SECONDS / TOKEN_SECONDS, abs=1)  # forgotten


def test_who_got_something_in_loses_nothing_by_going(chunks: ChunkDecodes, clock: Clock) -> None:
    ahead = Ahead()
    whole = decode(chunks, clock, call(ahead))
    assert decode(chunks, clock, call(ahead), patience=0.01) == 0
    assert decode(chunks, clock, call(Ahead())) == whole
    assert decode(chunks, clock, call(Ahead()), patience=0.2) == 0
    assert decode(chunks, clock, call(Ahead(), caller="bob")) == whole  # another caller
    assert MIN_TIMELY <= decode(chunks, clock, call(Ahead())) < whole


def test_only_so_many_callers_are_remembered(chunks: ChunkDecodes, clock: Clock) -> None:
    for n in range(MOST_IMPATIENT + 1):
        decode(chunks, clock, call(Ahead(), caller=f"caller {n}"), patience=0.5)
    first, last = (decode(chunks, clock, call(Ahead(), caller=f"caller {n}")) for n in (0, MOST_IMPATIENT))
    assert first == pytest.approx(SLICE_SECONDS / TOKEN_SECONDS, abs=1)
    assert last < first


def test_a_decode_waits_for_a_short_prompt_that_comes_but_not_for_ever(clock: Clock) -> None:
    chunks, first, second, long = make(joins_begun=True), *(call(Ahead(), n_prompt=n) for n in (40, 40, 400))
    step: Step[Any] = Step([], (first,), ALONE, 0)

    def decodes() -> bool:
        with chunks.of(step) as running:
            return running == [first]

    with chunks.coming(long):
        assert decodes()
    chunks = make(joins_begun=True)
    with chunks.coming(second):
        assert not decodes()
    assert not decodes()
    chunks.arrived(second)
    assert decodes()
    with chunks.coming(second):
        assert not decodes()
        clock.now += 1.01 * JOIN_SHARE * TOKEN_SECONDS * first.n_prompt
        assert decodes()
