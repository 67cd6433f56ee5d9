"""Slots: whose they are, and who loses one."""

from __future__ import annotations

import numpy as np

from canister.engine.residency import Residency, Slot


def use(residency: Residency, key: str | None, n_tokens: int = 3) -> Slot:
    slot = residency.take(key)
    assert slot is not None
    slot.hold(np.arange(n_tokens, dtype=np.int32), np.zeros(n_tokens, np.bool_), None, 0)
    residency.give_back(slot)
    return slot


def test_a_conversation_keeps_its_slot() -> None:
    residency = Residency(2)
    slot = use(residency, "a")
    use(residency, "b")
    again = residency.take("a")
    assert again is slot
    assert len(slot.tokens) == 3


def test_free_slots_come_first_then_the_least_recently_used() -> None:
    residency = Residency(2)
    a, b = use(residency, "a"), use(residency, "b")
    assert a is not b
    use(residency, "a")
    taken = residency.take("c")
    assert taken is b
    assert (b.key, len(b.tokens)) == ("c", 0)


def test_busy_slots_are_never_taken() -> None:
    residency = Residency(1)
    slot = residency.take("a")
    assert slot is not None
    assert residency.take("a") is None
    assert residency.take("b") is None
    residency.give_back(slot)
    assert residency.take("b") is slot


def test_nameless_calls_leave_nothing() -> None:
    residency = Residency(1)
    slot = use(residency, None)
    assert (slot.key, len(slot.tokens)) == (None, 0)


def test_forgetting() -> None:
    residency = Residency(2)
    slot = use(residency, "a")
    residency.forget("a")
    residency.forget("a")
    assert (slot.key, len(slot.tokens)) == (None, 0)
    busy = residency.take("b")
    assert busy is not None
    busy.hold(np.arange(3, dtype=np.int32), np.zeros(3, np.bool_), None, 0)
    residency.forget("b")
    assert len(busy.tokens) == 3  # the call that has it goes on
    residency.give_back(busy)
    assert (busy.key, len(busy.tokens)) == (None, 0)
