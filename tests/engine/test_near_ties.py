"""Near ties: of likeliest tokens it is plain arithmetic; a token that slightly other logits draw is one."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from canister.engine.llama import Logits
from canister.engine.near_ties import is_near_tie

BOUND = 0.25


def likeliest(logits: Logits) -> int:
    return int(logits.argmax())


def drawn(logits: Logits, number: float, *, is_sorted: bool) -> int:
    """By the probabilities, over tokens in the order of their logits, or of their numbers."""
    order = np.argsort(-logits, kind="stable") if is_sorted else np.arange(len(logits))
    shares = np.exp((logits - logits.max()).astype(np.float64))[order].cumsum()
    return int(order[np.searchsorted(shares, number * shares[-1])])


@given(st.lists(st.floats(-8, 8, width=32), min_size=2, max_size=40), st.data())
def test_that_the_likeliest_may_change_places_with_who_is_near(values: list[float], data: st.DataObject) -> None:
    logits = np.array(values, np.float32)
    said = data.draw(st.integers(0, len(values) - 1))
    missing = float(logits.max() - logits[said])
    if abs(missing - 2 * BOUND) > 1e-3:
        assert is_near_tie(likeliest, logits, said, BOUND) == (missing < 2 * BOUND)


def test_that_what_slightly_other_logits_draw_is_found() -> None:
    random = np.random.default_rng(7)
    n_found = n_lies = 0
    for number in range(600):
        is_sorted, point = number % 2 == 0, random.random()
        logits = random.normal(0, 2, 200).astype(np.float32)

        def draw(changed: Logits, point: float = point, is_sorted: bool = is_sorted) -> int:
            return drawn(changed, point, is_sorted=is_sorted)

        said = draw((logits + random.uniform(-BOUND, BOUND, 200)).astype(np.float32))
        n_found += said == draw(logits) or is_near_tie(draw, logits, said, BOUND)
        n_lies += is_near_tie(draw, logits, int(logits.argmin()), BOUND)
    assert n_found >= 590
    assert n_lies <= 30
