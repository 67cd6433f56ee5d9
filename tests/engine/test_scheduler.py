"""Who is in the next step, with calls that are only names."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from canister.engine.residency import Residency, Slot
from canister.engine.scheduler import ALONE, BESIDE_PROMPTS, BESIDE_ROWS, Scheduler

N_SLOTS = 3


@dataclass(eq=False)
class Call:
    caller: str
    key: str | None = None
    n_prompt: int = 0
    n_rows: int = 3
    slot: Slot | None = None

    @property
    def wants_row(self) -> bool:
        return self.n_prompt == 0


def scheduler_of(*calls: Call, max_chunk: int = 1000) -> Scheduler[Call]:
    scheduler: Scheduler[Call] = Scheduler(max_chunk)
    for call in calls:
        scheduler.add(call)
    scheduler.admit(lambda call: True)
    return scheduler


def test_all_rows_then_one_chunk() -> None:
    rows = [Call("a"), Call("b"), Call("a")]
    prompt = Call("c", n_prompt=100)
    step = scheduler_of(rows[0], prompt, *rows[1:]).schedule()
    assert (step.rows, step.chunk, step.n_chunk) == (rows, prompt, BESIDE_ROWS)


def test_chunk_sizes() -> None:
    one, other = Call("a", n_prompt=9), Call("b", n_prompt=9)
    assert scheduler_of(one).schedule().n_chunk == ALONE
    assert scheduler_of(one, other).schedule().n_chunk == BESIDE_PROMPTS
    assert scheduler_of(one, max_chunk=7).schedule().n_chunk == 7
    assert scheduler_of(Call("a")).schedule().chunk is None


def test_turns_go_by_callers_first() -> None:
    greedy = [Call("greedy", n_prompt=9) for _ in range(3)]
    modest = Call("modest", n_prompt=9)
    scheduler = scheduler_of(*greedy, modest)
    order = [scheduler.schedule().chunk for _ in range(6)]
    assert order == [greedy[0], modest, greedy[1], modest, greedy[2], modest]


def test_calls_on_one_conversation_wait_for_each_other() -> None:
    first, second, third, other = Call("a", "k"), Call("a", "k"), Call("a", "k"), Call("b", "l")
    scheduler = scheduler_of(first, second, other, third)
    assert scheduler.running == [first, other]
    assert scheduler.waiting == [second, third]
    scheduler.remove(first)
    assert scheduler.admit(lambda call: True) == [second]


def test_first_come_first_served() -> None:
    calls = [Call("a", str(i)) for i in range(5)]
    scheduler: Scheduler[Call] = Scheduler(10)
    for call in calls:
        scheduler.add(call)
    places = [True, True, False]
    assert scheduler.admit(lambda call: places.pop(0)) == calls[:2]
    assert scheduler.waiting == calls[2:]
    scheduler.remove(calls[3])
    assert scheduler.waiting == [calls[2], calls[4]]


@given(st.lists(st.integers(1, 4), min_size=1, max_size=6))
def test_no_prompt_starves(n_calls: list[int]) -> None:
    """However many calls each caller has, a caller's turn comes once in as many steps as there are callers."""
    scheduler = scheduler_of(*(Call(str(i), n_prompt=9) for i, n in enumerate(n_calls) for _ in range(n)))
    n_steps = len(n_calls) * max(n_calls)
    turns = [scheduler.schedule().chunk for _ in range(n_steps)]
    assert {call for call in turns if call} == set(scheduler.running)
    for start in range(0, n_steps, len(n_calls)):
        callers = [call.caller for call in turns[start : start + len(n_calls)] if call]
        assert len(set(callers)) == len(n_calls)


class Life(RuleBasedStateMachine):
    """Scheduler and residency together, as the engine uses them: calls come, run, are cancelled and end."""

    def __init__(self) -> None:
        super().__init__()
        self.scheduler: Scheduler[Call] = Scheduler(100)
        self.residency = Residency(N_SLOTS)
        self.n_steps = 0

    @rule(
        caller=st.sampled_from("abc"),
        key=st.sampled_from([None, *"klmno"]),
        n_prompt=st.integers(0, 300),
        n_rows=st.integers(1, 4),
    )
    def submit(self, caller: str, key: str | None, n_prompt: int, n_rows: int) -> None:
        self.scheduler.add(Call(caller, key, n_prompt, n_rows))

    @rule()
    def step(self) -> None:
        self.scheduler.admit(self._place)
        step = self.scheduler.schedule()
        assert step.rows == [call for call in self.scheduler.running if call.wants_row]
        if step.chunk is not None:
            step.chunk.n_prompt = max(0, step.chunk.n_prompt - step.n_chunk)
        for call in step.rows:
            call.n_rows -= 1
            if call.n_rows == 0:
                self._end(call)

    @precondition(lambda self: self.scheduler.running or self.scheduler.waiting)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        self._end(data.draw(st.sampled_from(self.scheduler.running + self.scheduler.waiting)))

    @rule(key=st.sampled_from("klmno"))
    def forget(self, key: str) -> None:
        self.residency.forget(key)

    @invariant()
    def slots_are_used_once(self) -> None:
        taken = [call.slot for call in self.scheduler.running if call.slot]
        assert len({slot.stream for slot in taken}) == len(taken) == len(self.scheduler.running)
        assert all(slot.busy == (slot in taken) for slot in self.residency.slots)
        keys = [call.key for call in self.scheduler.running if call.key]
        assert len(set(keys)) == len(keys)
        resident = [slot.key for slot in self.residency.slots if slot.key]
        assert len(set(resident)) == len(resident)
        assert all(call.slot is None for call in self.scheduler.waiting)

    def teardown(self) -> None:
        """Nothing is left waiting for ever."""
        for _ in range(10_000):
            if not self.scheduler.running and not self.scheduler.waiting:
                return
            self.step()
        raise AssertionError("calls that never end")

    def _place(self, call: Call) -> bool:
        call.slot = self.residency.take(call.key)
        return call.slot is not None

    def _end(self, call: Call) -> None:
        self.scheduler.remove(call)
        if call.slot:
            self.residency.give_back(call.slot)
            call.slot = None


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
