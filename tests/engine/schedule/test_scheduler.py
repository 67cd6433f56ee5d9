"""Who is in the next step, with calls that are only numbers and a clock that only steps move on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from canister.engine.kv.slots import Slot, SlotTable
from canister.engine.schedule.chunk_size import HEADROOM, MIN_CHUNK_SHARE
from canister.engine.schedule.fair_share import MAX_LEAD
from canister.engine.schedule.scheduler import ADVANCE, ALONE, BESIDE_PROMPTS, MAX_PASSED, Scheduler
from tests.engine.virtual import Answer, Call, Costs, World, pauses

N_SLOTS = 3


def scheduler_of(
    *calls: Call, max_chunk: int = 1000, max_rows: int | None = None, min_shared: int = 0
) -> Scheduler[Call]:
    scheduler: Scheduler[Call] = Scheduler(max_chunk, max_rows=max_rows, min_shared=min_shared, clock=lambda: 0.0)
    for call in calls:
        scheduler.add(call)
    scheduler.admit(lambda call: True)
    return scheduler


def names(calls: Iterable[Call]) -> str:
    return "".join(call.caller for call in calls)


# -- steps


def test_all_rows_then_one_chunk() -> None:
    rows = [Call("a"), Call("b"), Call("a")]
    prompt = Call("c", n_prompt=100, position=7)
    scheduler = scheduler_of(rows[0], prompt, *rows[1:])
    step = scheduler.schedule()
    assert set(step.rows) == set(rows)
    assert (step.chunks, step.position) == ((prompt,), 7)


def test_chunks_that_hold_nobody_up() -> None:
    one, other = Call("a", n_prompt=9), Call("b", n_prompt=9)
    assert scheduler_of(one).schedule().n_chunk == ALONE
    assert scheduler_of(one, other).schedule().n_chunk == BESIDE_PROMPTS
    assert scheduler_of(one, Call("a", n_prompt=9)).schedule().n_chunk == ALONE
    assert scheduler_of(one, max_chunk=7).schedule().n_chunk == 7
    assert scheduler_of(Call("a")).schedule().chunks == ()


def test_chunks_beside_rows_grow_from_the_smallest_to_what_the_pause_allows() -> None:
    costs = Costs(rows=0.0, row=0.020, chunk=0.0, token=0.005)
    chat = Call("a", n_rows=1000)
    world = World(2, chat, Call("b", n_prompt=5000), costs=costs, max_pause_seconds=0.2)
    world.run(40)
    sizes = [n for _, n in world.chunks]
    assert sizes[0] == 2
    assert all(n <= 2 * before for before, n in pairwise(sizes))
    # 0.2 s, less a tenth in hand and a step of both: 28 tokens of 5 ms
    assert sizes[-1] == 28
    assert pauses([chat])[-1] == pytest.approx(0.020 + 28 * 0.005)


def test_chunks_become_smaller_when_the_machine_becomes_slower() -> None:
    chat = Call("a", n_rows=1000)
    world = World(2, chat, Call("b", n_prompt=50_000), costs=Costs(attention=0.0))
    world.run(60)
    before = world.chunks[-1][1]
    world.costs = Costs(rows=0.080, row=0.010, chunk=0.060, token=0.008)
    world.run(60)
    assert world.chunks[-1][1] < before / 2
    assert pauses([chat])[-1] <= 0.2


def test_a_pause_that_is_nearly_used_up_by_rows_gives_the_smallest_chunks() -> None:
    world = World(2, Call("a", n_rows=1000), Call("b", n_prompt=300), costs=Costs(rows=0.0, row=0.048))
    world.scheduler.chunk_sizer.max_pause_seconds = 0.1
    world.run(60)
    assert {n for _, n in world.chunks} == {2}


def test_where_rows_alone_take_longer_than_the_pause_prompts_have_a_part_of_their_time() -> None:
    world = World(2, Call("a", n_rows=1000), Call("b", n_prompt=3000), costs=Costs(rows=0.6, row=0.0))
    world.run(60)
    assert world.costs.of_chunk(world.chunks[-1][1], 0) == pytest.approx(MIN_CHUNK_SHARE * 0.6, abs=world.costs.token)


def test_a_hiccup_of_the_machine_is_soon_forgotten() -> None:
    world = World(2, Call("a", n_rows=1000), Call("b", n_prompt=50_000))
    world.run(60)
    usual, costs = world.chunks[-1][1], world.costs
    world.costs = Costs(rows=7.0, chunk=7.0)
    world.step()
    world.costs = costs
    world.run(20)
    assert world.chunks[-1][1] >= usual - 1


def test_the_next_call_of_a_chat_is_waited_for_with_small_chunks() -> None:
    """Calls are short: a chat between two of them is held up by a chunk just as one that generates."""
    chat, prompt = Call("a", "chat", n_rows=30), Call("b", "other", n_prompt=5000)
    world = World(2, chat, prompt)
    world.run_until_ended(chat, within=30)
    while world.now - chat.row_ends[-1] < 0.2:
        before = world.now
        world.step()
        assert world.now - before + world.costs.of_rows(1) <= 0.2
    world.step()
    assert world.chunks[-1][1] == ALONE  # it does not seem to come


def test_a_chat_whose_answer_is_over_is_not_waited_for() -> None:
    chat, prompt = Call("a", "chat", n_rows=30, goes_on=False), Call("b", "other", n_prompt=5000)
    world = World(2, chat, prompt)
    world.run_until_ended(chat, within=30)
    world.step()
    assert world.chunks[-1][1] == ALONE


def test_where_the_cut_matters_it_does_not_depend_on_who_was_there_before() -> None:
    chat, prompt = Call("a", "chat", n_rows=30), Call("b", "other", n_prompt=5000)
    world = World(2, chat, cut_matters=True)
    world.run_until_ended(chat, within=30)
    world.add(prompt)
    world.step()
    assert world.chunks == [(prompt, ALONE)]


def test_ones_own_last_call_is_not_waited_for() -> None:
    first, second = Call("a", "chat", n_rows=5), Call("a", "chat", n_prompt=1000)
    world = World(2, first, second)
    world.run_until_ended(first, within=10)
    world.step()
    assert world.chunks == [(second, ALONE)]


# -- turns


def test_prompts_take_turns_by_caller_first() -> None:
    greedy = [Call("g", n_prompt=900) for _ in range(3)]
    modest = Call("m", n_prompt=900)
    world = World(4, *greedy, modest)
    world.run(8)
    assert names(call for call, _ in world.chunks) in ("gmgmgmgm", "mgmgmgmg")
    assert {call for call, _ in world.chunks if call is not modest} == {greedy[0]}


def test_prompts_of_a_caller_go_in_one_after_the_other_and_a_short_one_first() -> None:
    first, second = Call("a", n_prompt=900), Call("a", n_prompt=900)
    world = World(4, first, second, min_shared=MIN_SHARED)
    world.step()
    short = Call("a", n_prompt=40)
    world.add(short)
    world.run_until_ended(first, second, short, within=100)
    ended = list(dict.fromkeys(call for call, _ in reversed(world.chunks)))
    assert ended == [second, first, short]
    assert world.chunks[1][0] is short


def test_short_prompts_that_keep_coming_do_not_hold_up_a_long_one() -> None:
    long, too_late = Call("a", n_prompt=2000), list[Call]()
    world = World(4, long)
    while long.n_prompt:
        short = Call("a", n_prompt=200, n_rows=1)
        if sum(n for _, n in world.chunks) >= 1800:
            too_late.append(short)
        world.add(short)
        world.step()
    assert too_late
    assert all(short.n_prompt == 200 for short in too_late)


def test_calls_that_go_on_with_one_prompt_keep_its_place() -> None:
    first, other = Call("a", "k", n_prompt=40, n_wanted=900, n_rows=0), Call("a", "l", n_prompt=900)
    world = World(2, first, other)
    world.run_until_ended(first, within=3)
    rest = Call("a", "k", n_prompt=860, due=first.due)
    world.add(rest)
    world.step()
    assert world.chunks[-1][0] is rest


def test_calls_on_one_conversation_wait_for_each_other() -> None:
    first, second, third, other = Call("a", "k"), Call("a", "k"), Call("a", "k"), Call("b", "l")
    scheduler = scheduler_of(first, second, other, third)
    assert scheduler.running == [first, other]
    assert scheduler.waiting == [second, third]
    scheduler.remove(first)
    assert scheduler.admit(lambda call: True) == [second]


def test_slots_go_round_among_callers() -> None:
    calls = [Call("a", str(i)) for i in range(5)] + [Call("b"), Call("c"), Call("c")]
    scheduler: Scheduler[Call] = Scheduler(10)
    for call in calls:
        scheduler.add(call)
    places = [True] * 5 + [False]
    assert names(scheduler.admit(lambda call: places.pop(0))) == "abcac"
    assert names(scheduler.running) == "abcac"
    assert scheduler.waiting == calls[2:5]
    scheduler.remove(calls[3])
    assert scheduler.waiting == [calls[2], calls[4]]


def test_resident_conversations_first_but_not_for_ever() -> None:
    cold = Call("a", "cold")
    scheduler: Scheduler[Call] = Scheduler(10)
    scheduler.add(cold)
    overtaken = 0
    while cold in scheduler.waiting:
        warm = Call("a", "warm")
        scheduler.add(warm)
        scheduler.admit(lambda _: not scheduler.running, lambda call: call.key == "warm")
        for call in [*scheduler.running]:
            overtaken += call is warm
            scheduler.remove(call)
        assert overtaken <= MAX_PASSED
        if warm in scheduler.waiting:
            scheduler.remove(warm)
    assert overtaken == MAX_PASSED


def test_a_resident_conversation_does_not_win_against_a_caller_that_had_less() -> None:
    scheduler: Scheduler[Call] = Scheduler(10)
    scheduler.add(Call("a", "first"))
    assert names(scheduler.admit(lambda _: not scheduler.running)) == "a"
    scheduler.add(Call("a", "warm"))
    scheduler.add(Call("b", "cold"))
    places = [True, False]
    assert names(scheduler.admit(lambda _: places.pop(0), lambda call: call.key == "warm")) == "b"


@given(st.lists(st.integers(1, 6), min_size=1, max_size=6), st.integers(1, 8))
def test_capped_rows_take_turns(n_calls: list[int], max_rows: int) -> None:
    """Callers get the same number of rows, as far as they want them; nobody waits longer than a round."""
    calls = [Call(str(i), n_rows=10**6) for i, n in enumerate(n_calls) for _ in range(n)]
    scheduler = scheduler_of(*calls, max_rows=max_rows)
    n_turns = -(-len(n_calls) // max_rows)
    n_each = max(1, max_rows // len(n_calls))
    longest = n_turns * -(-max(n_calls) // n_each)
    last = dict.fromkeys(calls, -1)
    for number in range(4 * longest):
        step = scheduler.schedule()
        scheduler.account(step, 0.01, [], 0.0)
        assert len(step.rows) == min(max_rows, len(calls))
        counts = [sum(call.caller == str(i) for call in step.rows) for i in range(len(n_calls))]
        for a, n_a in enumerate(counts):
            for b, n_b in enumerate(counts):
                assert n_a >= n_b - 1 or n_a == n_calls[a], (a, b, counts)
        for call in step.rows:
            last[call] = number
        assert all(number - before <= longest for before in last.values())


# -- nobody starves


def test_a_thousand_calls_of_one_caller_do_not_delay_another() -> None:
    """A newcomer has the next free slot, and the next chunk but one."""
    crowd = [Call("crowd", n_prompt=200, n_rows=10) for _ in range(1000)]
    world = World(4, *crowd)
    world.run(500)
    newcomer = Call("new", n_prompt=50, n_rows=5)
    world.add(newcomer)
    n_ended = sum(call.ended_at is not None for call in crowd)
    while newcomer.admitted_at is None:
        world.step()
    assert not any(newcomer.added_at <= (call.admitted_at or 0) < newcomer.admitted_at for call in crowd)
    assert sum(call.ended_at is not None for call in crowd) <= n_ended + world.n_slots
    n_chunks = len(world.chunks)
    while not newcomer.row_ends:
        world.step()
    between = [call for call, _ in world.chunks[n_chunks - 1 :]]
    assert sum(call.caller == "crowd" for call in between) <= len([call for call in between if call is newcomer]) + 1


sizes = st.tuples(st.integers(0, 120), st.integers(1, 30))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 4), st.lists(st.tuples(sizes, st.integers(1, 4)), min_size=1, max_size=4), sizes)
def test_every_call_ends_in_time(n_slots: int, others: list[tuple[tuple[int, int], int]], own: tuple[int, int]) -> None:
    """However many calls others go on sending, and however large: the bound depends on what was there before, and on
    how many callers there are."""
    world = World(n_slots)

    def refill() -> None:
        for i, ((n_prompt, n_rows), n_calls) in enumerate(others):
            there = [*world.scheduler.waiting, *world.scheduler.running]
            for _ in range(n_calls - sum(call.caller == str(i) for call in there)):
                world.add(Call(str(i), n_prompt=n_prompt, n_rows=n_rows))

    for _ in range(100):
        refill()
        world.step()
    mine = [Call("mine", n_prompt=own[0], n_rows=own[1]) for _ in range(2)]
    world.add(*mine)
    largest = max(n_prompt + n_rows for (n_prompt, n_rows), _ in [*others, (own, 1)])
    # Until it is this caller's turn each other one is given its lead and a call per slot at most; a step gives
    # somebody a token.
    bound = 2 * (len(others) + 1) * (MAX_LEAD + ADVANCE + n_slots * largest)
    n_before = world.n_steps
    while any(call.ended_at is None for call in mine):
        refill()
        world.step()
        assert world.n_steps - n_before <= bound


@pytest.mark.parametrize("n_slots", [1, 2, 3, 4])
@pytest.mark.parametrize("n_rows", [1, 3, 10])
def test_a_newcomer_is_served_soon_beside_callers_that_come_and_go(n_slots: int, n_rows: int) -> None:
    """There are fewer callers when a call ends than when it began; that is nothing that a waiting one must pay for."""
    world = World(n_slots)

    def others() -> None:
        for caller, n_calls in (("a", 2), ("b", 4)):
            there = [*world.scheduler.waiting, *world.scheduler.running]
            for _ in range(n_calls - sum(call.caller == caller for call in there)):
                world.add(Call(caller, n_rows=n_rows))

    for _ in range(100):
        others()
        world.step()
    mine = Call("mine", n_rows=1)
    world.add(mine)
    for _ in range(2 * n_rows + 2):
        others()
        world.step()
    assert mine.ended_at is not None


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 6), st.lists(st.tuples(sizes, st.integers(2, 12)), min_size=2, max_size=4))
def test_callers_get_even_shares(n_slots: int, callers: list[tuple[tuple[int, int], int]]) -> None:
    """Over any window, callers that always want more are given the same, up to a constant, whatever their calls."""
    world = World(n_slots)
    given: list[list[int]] = []
    for _ in range(600):
        for i, ((n_prompt, n_rows), n_more) in enumerate(callers):
            if sum(call.caller == str(i) for call in world.scheduler.waiting) < n_slots:
                world.add(*(Call(str(i), n_prompt=n_prompt, n_rows=n_rows) for _ in range(n_slots + n_more)))
        world.step()
        given.append([world.given[str(i)] for i in range(len(callers))])
    largest = max(n_prompt + n_rows for (n_prompt, n_rows), _ in callers)
    slack = MAX_LEAD + ADVANCE + 2 * n_slots * largest
    assert widest_drift(given) <= slack


def widest_drift(given: Sequence[Sequence[int]]) -> int:
    """The largest difference, over all windows and pairs of callers, of what they were given in it."""
    widest = 0
    for a in range(len(given[0])):
        for b in range(a):
            differences = [row[a] - row[b] for row in given]
            widest = max(widest, max(differences) - min(differences))
    return widest


def test_a_callers_many_chats_do_not_count_as_many_callers() -> None:
    """Ten chats of one against one chat of the other, two slots."""
    world = World(2)
    for _ in range(2000):
        waiting = world.scheduler.waiting
        if sum(call.caller == "many" for call in waiting) < 10:
            world.add(Call("many", n_rows=20))
        if not any(call.caller == "one" for call in [*waiting, *world.scheduler.running]):
            world.add(Call("one", n_rows=20))
        world.step()
    assert world.given["one"] >= 0.9 * world.given["many"]


# -- pauses

costs = st.builds(
    Costs,
    rows=st.floats(0.001, 0.08),
    row=st.floats(0.0001, 0.004),
    chunk=st.floats(0.0, 0.08),
    token=st.floats(0.0005, 0.02),
    attention=st.sampled_from([0.0, 1e-6, 5e-6]),
)


@settings(max_examples=60, deadline=None)
@given(costs, st.integers(1, 6), st.integers(100, 2000), st.sampled_from([0.1, 0.2, 0.5]))
def test_pauses_stay_below_the_limit(costs: Costs, n_rows: int, n_prompt: int, max_pause_seconds: float) -> None:
    """Once the costs are known, no token of a chat comes later than the limit and one smallest chunk after the last."""
    world = World(n_rows + 2, costs=costs, max_pause_seconds=max_pause_seconds)
    learning = [Call("l", n_prompt=n_prompt, n_rows=1) for _ in range(2)]
    world.add(Call("m", n_rows=10**6), *learning)
    world.run_until_ended(*learning, within=3000)
    for call in [*world.scheduler.running]:
        world.scheduler.remove(call)
    since = world.now

    chats = [Call(str(i), str(i), n_rows=10**6) for i in range(n_rows)]
    prompts = [Call(name, n_prompt=n_prompt, n_rows=5) for name in "xyx"]
    world.add(*chats, *prompts)
    world.run_until_ended(*prompts, within=5000)
    largest_step = costs.of_rows(n_rows + 2)
    limit = max(max_pause_seconds, (1 + MIN_CHUNK_SHARE) * largest_step) + costs.of_chunk(2, n_prompt)
    assert max(pauses([*chats, *prompts], since)) <= limit


@settings(max_examples=60, deadline=None)
@given(costs, st.integers(1, 8), st.integers(2, 12), st.floats(0.0, 0.9), st.sampled_from([0.1, 0.2, 0.5]))
def test_pauses_stay_below_the_limit_between_calls_too(
    costs: Costs, n_chats: int, n_rows: int, between: float, max_pause_seconds: float
) -> None:
    """A token that waits for its call comes within the limit, or with the first step that ends after the call came.

    There is only the smallest chunk in steps for which the limit leaves no time, or a quarter of the usual one.
    """
    world = World(n_chats + 2, costs=costs, max_pause_seconds=max_pause_seconds)
    learning = [Call("l", n_prompt=2000, n_rows=1) for _ in range(2)]
    world.add(*(Call("m", n_rows=10**6) for _ in range(n_chats)), *learning)
    world.run_until_ended(*learning, within=6000)
    for call in [*world.scheduler.running]:
        world.scheduler.remove(call)

    seconds = between * max_pause_seconds
    answers = [Answer(world, str(i), n_rows + i, seconds) for i in range(n_chats)]
    world.add(Call("p", n_prompt=2000, n_rows=1))
    for _ in range(100):
        for answer in answers:
            answer.before_step()
        world.step()
        for answer in answers:
            answer.after_step()
    rows, smallest = costs.of_rows(n_chats), costs.of_chunk(2, 2000)
    smallest = max(smallest, MIN_CHUNK_SHARE * HEADROOM * max_pause_seconds)
    limit = max(max_pause_seconds, (1 + MIN_CHUNK_SHARE) * rows, rows + seconds + rows) + smallest
    assert max(answer.longest_pause for answer in answers) <= limit


@settings(max_examples=30, deadline=None)
@given(costs, st.integers(2, 5), st.integers(1, 5))
def test_chunks_use_the_pause(costs: Costs, n_rows: int, n_prompts: int) -> None:
    """The limit is kept by measuring, not by being timid: what is planned is used to more than half."""
    prompts = [Call("p", n_prompt=10**6) for _ in range(n_prompts)]
    world = World(n_rows + n_prompts, *(Call(str(i), n_rows=10**6) for i in range(n_rows)), *prompts, costs=costs)
    world.run(40 + n_prompts)
    call, n = world.chunks[-1]
    left = HEADROOM * 0.2 - costs.of_rows(n_rows)
    assert n == 256 or costs.of_chunk(n + 1, call.position) >= min(left / 2, 0.1)


# -- life


class Life(RuleBasedStateMachine):
    """Scheduler and slot table together, as the engine uses them: calls come, run, are cancelled and end."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World(N_SLOTS, max_chunk=100)
        self.scheduler = self.world.scheduler
        self.slot_table = SlotTable(N_SLOTS)
        self.slots: dict[Call, Slot] = {}

    @rule(
        caller=st.sampled_from("abc"),
        key=st.sampled_from([None, *"klmno"]),
        n_prompt=st.integers(0, 300),
        n_rows=st.integers(1, 4),
    )
    def submit(self, caller: str, key: str | None, n_prompt: int, n_rows: int) -> None:
        self.world.add(Call(caller, key, n_prompt, n_rows))

    @rule()
    def step(self) -> None:
        self.scheduler.admit(self._place, lambda call: any(slot.key == call.key for slot in self.slot_table.slots))
        self.world.step()
        self._give_back()

    @precondition(lambda self: self.scheduler.running or self.scheduler.waiting)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        call = data.draw(st.sampled_from(self.scheduler.running + self.scheduler.waiting))
        self.scheduler.remove(call)
        self._give_back()

    @rule(key=st.sampled_from("klmno"))
    def forget(self, key: str) -> None:
        self.slot_table.forget(key)

    @invariant()
    def slots_are_used_once(self) -> None:
        taken = list(self.slots.values())
        assert self.slots.keys() == set(self.scheduler.running)
        assert len({slot.stream for slot in taken}) == len(taken)
        assert all(slot.busy == (slot in taken) for slot in self.slot_table.slots)
        keys = [call.key for call in self.scheduler.running if call.key]
        assert len(set(keys)) == len(keys)
        resident = [slot.key for slot in self.slot_table.slots if slot.key]
        assert len(set(resident)) == len(resident)

    def teardown(self) -> None:
        """Nothing is left waiting for ever."""
        for _ in range(10_000):
            if not self.scheduler.running and not self.scheduler.waiting:
                return
            self.step()
        raise AssertionError("calls that never end")

    def _place(self, call: Call) -> bool:
        slot = self.slot_table.take(call.key)
        if slot is not None:
            self.slots[call] = slot
        return slot is not None

    def _give_back(self) -> None:
        for call in [call for call in self.slots if call not in self.scheduler.running]:
            self.slot_table.give_back(self.slots.pop(call))


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


# -- prompts that share a decode

MIN_SHARED = 4


def sharing(*sizes: int, n_rows: int = 0, max_chunk: int = 256) -> list[int]:
    """What is decoded in a step of the prompts of these sizes, in order."""
    rows = [Call(f"row {n}") for n in range(n_rows)]
    prompts = [Call(str(n), n_prompt=size, due=(0, n)) for n, size in enumerate(sizes)]
    scheduler: Scheduler[Call] = Scheduler(max_chunk, min_shared=MIN_SHARED, clock=lambda: 0.0)
    for call in (*rows, *prompts):
        scheduler.add(call)
    scheduler.admit(lambda call: True)
    step = scheduler.schedule()
    return [min(step.n_chunk, call.n_prompt) if call in step.chunks else 0 for call in prompts]


def test_which_prompts_share_a_decode() -> None:
    assert sharing(30, 30, 30) == [30, 30, 30]
    assert sharing(1000) == [256]
    assert sharing(1000, 1000) == [256, 0]
    assert sharing(100, 1000, 1000) == [100, 0, 0]
    assert sharing(50, 1000, 1000) == [50, 85, 85]
    one, other = Call("a", n_prompt=40, n_wanted=1000), Call("a", n_prompt=40, n_wanted=1000)
    assert scheduler_of(one, other, min_shared=MIN_SHARED).schedule().chunks == (one,)  # more will follow
    assert sharing(*[30] * 32) == [8] * 32  # none begins to generate while others still wait
    assert sharing(200, 5) == [200, 0]  # as many rows for the other would be too many
    assert sum(sharing(5, 200, 200, 200)) > 128  # the first in turn comes along in any case
    assert sharing(5, 200, 200, 200)[0] == 5
    assert sharing(*[30] * 6, 9, 9) == [*[30] * 6, 9, 9]  # they would go in slowly beside the others' answers
    assert sharing(30, 30, n_rows=1) == [2, 0]  # nothing is known yet of what a chunk costs


@given(st.lists(st.integers(1, 400), min_size=1, max_size=40), st.integers(16, 300))
def test_whoever_shares_a_decode_it_has_no_more_rows_than_it_may(sizes: list[int], max_chunk: int) -> None:
    found = sharing(*sizes, max_chunk=max_chunk)
    n_calls = sum(n > 0 for n in found)
    assert found[0]
    assert n_calls * max(found) <= min(max_chunk, ALONE)
    assert n_calls == 1 or max(found) >= min(MIN_SHARED, max(sizes))


def test_prompts_that_share_decodes_do_not_lengthen_pauses() -> None:
    chats, prompts = [Call("a", n_rows=10**6)], [Call("b", n_prompt=300) for _ in range(4)]
    world = World(5, *chats, *prompts, min_shared=MIN_SHARED)
    world.run_until_ended(*prompts, within=200)
    assert max(pauses([*chats, *prompts], 1.0)) <= 0.2
    assert world.n_steps < 100
