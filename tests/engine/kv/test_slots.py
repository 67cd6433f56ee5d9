"""Slots: whose they are, and who loses one."""

from __future__ import annotations

from math import inf

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from canister.engine.kv.slots import ParkedState, Slot, SlotTable, StateCache
from canister.engine.request import Flags


def flags(n: int) -> tuple[Flags, Flags]:
    """Which of n tokens were generated, and with which a decode began: none."""
    return np.zeros(n, np.bool_), np.zeros(n, np.bool_)


def use(slot_table: SlotTable, key: str | None, n_tokens: int = 3) -> Slot:
    slot = slot_table.take(key)
    assert slot is not None
    slot.hold(np.arange(n_tokens, dtype=np.int32), *flags(n_tokens), None, 0)
    slot_table.give_back(slot)
    return slot


def test_a_conversation_keeps_its_slot() -> None:
    slot_table = SlotTable(2)
    slot = use(slot_table, "a")
    use(slot_table, "b")
    again = slot_table.take("a")
    assert again is slot
    assert len(slot.tokens) == 3


def test_free_slots_come_first_then_the_least_recently_used() -> None:
    slot_table = SlotTable(2)
    a, b = use(slot_table, "a"), use(slot_table, "b")
    assert a is not b
    use(slot_table, "a")
    taken = slot_table.take("c")
    assert taken is b
    assert (b.key, len(b.tokens)) == ("c", 0)


def test_busy_slots_are_never_taken() -> None:
    slot_table = SlotTable(1)
    slot = slot_table.take("a")
    assert slot is not None
    assert slot_table.take("a") is None
    assert slot_table.take("b") is None
    slot_table.give_back(slot)
    assert slot_table.take("b") is slot


def test_nameless_calls_leave_nothing() -> None:
    slot_table = SlotTable(1)
    slot = use(slot_table, None)
    assert (slot.key, len(slot.tokens)) == (None, 0)


def test_forgetting() -> None:
    slot_table = SlotTable(2)
    slot = use(slot_table, "a")
    slot_table.forget("a")
    slot_table.forget("a")
    assert (slot.key, len(slot.tokens)) == (None, 0)
    busy = slot_table.take("b")
    assert busy is not None
    busy.hold(np.arange(3, dtype=np.int32), *flags(3), None, 0)
    slot_table.forget("b")
    assert len(busy.tokens) == 3  # the call that has it goes on
    slot_table.give_back(busy)
    assert (busy.key, len(busy.tokens)) == (None, 0)


def parked(key: str, n_bytes: int, caller: str = "me", *, fresh: bool = False) -> ParkedState:
    """A state without tokens."""
    return ParkedState(
        key,
        caller,
        np.empty(0, np.int32),
        *flags(0),
        None,
        0,
        np.empty(n_bytes, np.uint8),
        fresh,
        inf if fresh else 0.0,
    )


def of_me(state_cache: StateCache) -> list[ParkedState]:
    """Least recently used first."""
    return [each for each in reversed(state_cache.newest()) if each.caller == "me"]


def test_all_that_is_parked_counts() -> None:
    """Logits of a large vocabulary weigh as much as a short chat's state."""
    tokens, logits = np.zeros(10, np.int32), np.zeros(100, np.float32)
    state_cache = StateCache(1020)
    for n, key in enumerate("ab", 1):
        state_cache.put(ParkedState(key, "me", tokens, *flags(10), logits, 0, np.empty(50, np.uint8)))
        assert (len(state_cache), state_cache.n_bytes) == (n, n * (40 + 10 + 10 + 400 + 50))
    state_cache.put(ParkedState("c", "me", tokens[:1], *flags(0), None, 0, np.empty(0, np.uint8)))
    assert [parked.key for parked in of_me(state_cache)] == ["b", "c"]


def test_a_slot_that_is_taken_is_shown_with_what_it_held() -> None:
    slot_table = SlotTable(1)
    use(slot_table, "a")
    shown: list[tuple[str | None, int]] = []
    slot_table.take("b", park=lambda slot: shown.append((slot.key, len(slot.tokens))))
    assert shown == [("a", 3)]


def test_conversations_that_calls_wait_for_are_taken_last() -> None:
    slot_table = SlotTable(3)
    slots = {key: use(slot_table, key) for key in "abc"}
    assert slot_table.take("d", waiting=lambda: ["a", "b", None]) is slots["c"]
    assert slot_table.take("e", waiting=lambda: ["a", "b"]) is slots["a"]


def test_busy_slots_are_neighbours() -> None:
    slot_table = SlotTable(6)
    slots = [use(slot_table, str(i)) for i in range(6)]
    assert [slot.stream for slot in slots] == [0, 1, 2, 3, 4, 5]
    assert slot_table.take("4") is slots[4]
    near = slot_table.take("new")  # of the three that were used longest ago, the one beside stream 4
    assert near is slots[2]


def test_the_parked_states_of_a_caller() -> None:
    state_cache = StateCache(100)
    state_cache.put(parked("a", 30))
    state_cache.put(parked("b", 30, "you"))
    assert [each.key for each in of_me(state_cache)] == ["a"]
    assert state_cache.take("a") is not None
    assert state_cache.take("a") is None
    assert (of_me(state_cache), state_cache.n_bytes, len(state_cache)) == ([], 30, 1)


def test_states_that_were_read_for_a_call_do_not_drive_each_other_out() -> None:
    state_cache = StateCache(100)
    state_cache.put(parked("old", 50))
    for key in ("a", "b", "c"):
        state_cache.put(parked(key, 40, fresh=True))
    assert [each.key for each in of_me(state_cache)] == ["a", "b"]
    assert not state_cache.has_room(30)
    for state in of_me(state_cache):
        state_cache.use(state)
    assert state_cache.has_room(100)
    state_cache.put(parked("c", 40, fresh=True))
    assert [each.key for each in of_me(state_cache)] == ["b", "c"]


keys = st.sampled_from("abcdefgh")
acts = st.lists(
    st.one_of(
        st.tuples(st.just("take"), keys),
        st.tuples(st.just("give back"), keys),
        st.tuples(st.just("forget"), keys),
    ),
    max_size=60,
)


@given(n_slots=st.integers(1, 5), play=acts, waiting=st.sets(keys))
def test_a_conversation_is_in_one_place_and_a_victim_is_never_busy_or_wanted_without_need(
    n_slots: int, play: list[tuple[str, str]], waiting: set[str]
) -> None:
    slot_table = SlotTable(n_slots, 1000)
    busy: dict[str, Slot] = {}

    def park(slot: Slot) -> None:
        assert not slot.busy
        assert slot.key is not None
        idle = [other.key for other in slot_table.slots if not other.busy]
        assert None not in idle  # free ones come first
        assert slot.key not in waiting or waiting.issuperset(idle)
        slot_table.state_cache.put(parked(slot.key, 300))

    for act, key in play:
        if act == "take":
            n_busy = sum(slot.busy for slot in slot_table.slots)
            slot = slot_table.take(key, "me", waiting=lambda: waiting, park=park)
            assert (slot is None) == (key in busy or (n_busy == n_slots and slot_table.slot_of(key) is None))
            if slot is not None:
                slot_table.state_cache.take(key)
                assert (slot.key, slot.busy) == (key, True)
                assert slot not in busy.values()
                busy[key] = slot
        elif act == "give back" and key in busy:
            slot = busy.pop(key)
            slot.hold(np.arange(2, dtype=np.int32), *flags(2), None, 0)
            slot_table.give_back(slot)
        elif act == "forget":
            slot_table.forget(key)
            if key in busy:  # its call ends, and leaves nothing
                slot = busy.pop(key)
                slot_table.give_back(slot)
                assert (slot.key, len(slot.tokens)) == (None, 0)
        held = [slot.key for slot in slot_table.slots if slot.key is not None]
        assert len(held) == len(set(held))
        assert not {parked.key for parked in of_me(slot_table.state_cache)} & set(held)
        assert slot_table.state_cache.n_bytes <= 1000
        assert all(slot_table.slot_of(key) in slot_table.slots for key in held)


@given(
    max_bytes=st.integers(0, 300),
    puts=st.lists(st.tuples(keys, st.integers(0, 200), st.booleans()), max_size=40),
)
def test_parking_never_exceeds_its_bytes_and_drops_the_least_recent(
    max_bytes: int, puts: list[tuple[str, int, bool]]
) -> None:
    state_cache = StateCache(max_bytes)
    expected: dict[str, int] = {}  # least recent first
    for key, n_bytes, take in puts:
        if take:
            taken = state_cache.take(key)
            assert (None if taken is None else taken.n_bytes) == expected.pop(key, None)
            continue
        state_cache.put(parked(key, n_bytes))
        expected.pop(key, None)
        if n_bytes <= max_bytes:
            expected[key] = n_bytes
        while sum(expected.values()) > max_bytes:
            del expected[next(iter(expected))]
        assert {each.key: each.n_bytes for each in of_me(state_cache)} == expected
        assert state_cache.n_bytes == sum(expected.values()) <= max_bytes
