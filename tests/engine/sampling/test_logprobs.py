"""Log-probabilities: those of a softmax over all logits, and the likeliest in order."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from canister.engine.sampling.logprobs import logprobs


@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 2, 255, 256, 257, 3000]), st.sampled_from([0, 1, 5, 20, 4000]))
def test_as_a_full_sort_says(seed: int, n_vocab: int, n_top: int) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 4, n_vocab).round(1).astype(np.float32)  # many are equal
    logits[rng.random(n_vocab) < 0.2] = -math.inf
    logits[0] = 1.0
    exact = logits.astype(np.float64)
    expected = exact - (exact.max() + math.log(np.exp(exact - exact.max()).sum()))
    token = int(rng.integers(n_vocab))
    own, top = logprobs(logits, token, n_top)
    assert own == pytest.approx(expected[token], abs=1e-5)
    order = sorted(range(n_vocab), key=lambda at: (-logits[at], at))[:n_top]
    assert [at for at, _ in top] == order
    assert [logprob for _, logprob in top] == pytest.approx([expected[at] for at in order], abs=1e-5)


def test_the_probabilities_are_one_together() -> None:
    logits = np.array([1000.0, 999.0, -1000.0], np.float32)
    _, top = logprobs(logits, 0, 3)
    assert sum(math.exp(logprob) for _, logprob in top) == pytest.approx(1.0)
    assert logprobs(np.array([3.0, -math.inf], np.float32), 1, 0) == (-math.inf, ())
