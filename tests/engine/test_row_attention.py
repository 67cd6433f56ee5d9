"""Tokens that are decoded at once, with the attention of single ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from canister.engine.llama import Context, Model
from canister.engine.llama_types import ContextParams, DecodeAborted, EngineFault
from canister.engine.row_attention import RowAttention

N, FIRST = 8, 40
TOKENS = np.random.default_rng(2).integers(3, 500, FIRST + N).astype(np.int32)


@pytest.fixture
def context(model_path: Callable[[str], Path]) -> Iterator[Context]:
    """With the first tokens in stream 1."""
    params = ContextParams(n_streams=2, n_cells=256, n_rows=64, n_threads=1, n_verified=N)
    model = Model(model_path("q8_0"), "tiny")
    made = Context(model, params, model.description)
    made.decode([1] * FIRST, range(FIRST), TOKENS[:FIRST], [])
    yield made
    made.close()  # the model lives until here
    del model


def one_by_one(context: Context) -> tuple[list[list[float]], bytes]:
    logits = []
    for at in range(FIRST, FIRST + N):
        context.decode([1], [at], TOKENS[at : at + 1], [0])
        logits.append(context.logits(0).tolist())
    state = context.state(1).tobytes()
    context.remove(1, FIRST)
    return logits, state


def at_once(context: Context) -> tuple[list[list[float]], bytes]:
    context.decode_verified(1, FIRST, TOKENS[FIRST:])
    logits, state = [context.logits(row).tolist() for row in range(N)], context.state(1).tobytes()
    context.remove(1, FIRST)
    return logits, state


def test_logits_and_rows_are_those_of_single_tokens(context: Context) -> None:
    assert at_once(context) == one_by_one(context) == one_by_one(context) == at_once(context)


def test_a_decode_that_was_aborted_leaves_operations_as_they_were(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = one_by_one(context)
    change = RowAttention._change

    def abort(self: RowAttention, tensor: int) -> bool:
        if self.n_changed == 2:
            context.abort()
        return change(self, tensor)

    with monkeypatch.context() as patched:
        patched.setattr(RowAttention, "_change", abort)
        with pytest.raises(DecodeAborted):
            context.decode_verified(1, FIRST, TOKENS[FIRST:])
    context.rearm()
    context.remove(1, FIRST)
    for _ in range(2):
        assert at_once(context) == expected


@pytest.mark.parametrize("n", [0, 1, N + 1])
def test_other_numbers_of_tokens_are_refused(context: Context, n: int) -> None:
    with pytest.raises(EngineFault, match=f"{n} tokens to verify"):
        context.decode_verified(1, FIRST, [1] * n)
