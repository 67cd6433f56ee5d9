"""Estimates: one call, a conversation, and whether a model fits."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from canister.defaults import QUERY_LIMIT, UPDATE_LIMIT
from canister.errors import BadRequest
from canister.flags.parse import parse
from canister.metering import fees
from canister.metering.cost_model import CostContext, CostModel, Work
from canister.metering.estimate import HEAP_LIMIT_BYTES, context_of, estimate_call, estimate_conversation, estimate_fit
from tests.shapes import Q8_0, QWEN3_06B, QWEN3_17B, SMOLLM2_135M, q4_k_m, shape_of

SMALL = CostModel(shape_of(SMOLLM2_135M, Q8_0), CostContext(2048, 16, 16, "q8_0", "q8_0"))
QWEN = CostModel(shape_of(QWEN3_06B, Q8_0), CostContext(16_384, 64, 64, "q8_0", "q8_0"))
BIG = CostModel(shape_of(QWEN3_17B, q4_k_m), CostContext(16_384, 8, 8, "q8_0", "q8_0"))


def test_the_context_that_flags_make() -> None:
    shape = shape_of(QWEN3_06B, Q8_0)
    assert context_of(parse([]), shape) == CostContext(40_960)
    args = parse(["-c", "4096", "-b", "8", "-ub", "4", "-ctk", "q8_0", "-ctv", "f32", "--swa-full"])
    assert context_of(args, shape) == CostContext(4096, 8, 4, "q8_0", "f32", swa_full=True)
    assert context_of(parse(["-c", "4096", "-b", "8"]), shape) == CostContext(4096, 8, 8)
    assert context_of(parse(["-c", "100"]), shape) == CostContext(100, 100, 100)
    with pytest.raises(BadRequest, match="--ctx-size"):
        context_of(parse([]), replace(shape, n_ctx_train=0))


def test_one_call() -> None:
    found = estimate_call(BIG, prompt_tokens=10, cached_tokens=4, generate=2, request_bytes=100)
    work = Work(loaded=4, reused=4, prompt=6, generated=2, sampled=2, saves=2)
    assert found.cost == BIG.cost(work)
    assert found.instructions == found.cost.total
    assert found.cycles == fees.update_cycles(found.instructions, 100)
    assert found.limit == UPDATE_LIMIT
    assert not found.fits
    assert found.max_generate == 0


def test_saves_and_sessions_follow_from_the_counts() -> None:
    assert estimate_call(QWEN, prompt_tokens=5, cached_tokens=5, generate=1).cost.save == QWEN.save(1, 6)
    assert estimate_call(QWEN, prompt_tokens=5, generate=1).cost.save == QWEN.save(2, 6)
    assert estimate_call(QWEN, prompt_tokens=5, generate=1, saves=0).cost.save == 0
    assert estimate_call(QWEN, prompt_tokens=5).cost.session == 0


@given(st.integers(1, 2048), st.integers(0, 2048), st.integers(10**9, 10**11))
def test_max_generate_is_the_most_that_fits(prompt: int, cached: int, limit: int) -> None:
    cached = min(prompt, cached)

    def total(generate: int) -> int:
        return estimate_call(SMALL, prompt_tokens=prompt, cached_tokens=cached, generate=generate).instructions

    found = estimate_call(SMALL, prompt_tokens=prompt, cached_tokens=cached, limit=limit)
    assert 0 <= found.max_generate <= 2048 - prompt
    assert found.fits == (total(0) <= limit)
    if found.fits:
        assert total(found.max_generate) <= limit
    if found.max_generate < 2048 - prompt:
        assert total(found.max_generate + 1) > limit


@pytest.mark.parametrize(
    "counts",
    [
        {"prompt_tokens": 4, "cached_tokens": 5},
        {"prompt_tokens": 4, "cached_tokens": -1},
        {"prompt_tokens": 4, "generate": -1},
        {"prompt_tokens": 4, "saves": -1},
        {"prompt_tokens": 2048, "generate": 1},
        {"prompt_tokens": 2049},
    ],
)
def test_counts_that_cannot_be(counts: dict[str, int]) -> None:
    with pytest.raises(BadRequest):
        estimate_call(SMALL, **counts)  # type: ignore[arg-type]


@given(st.integers(1, 300), st.integers(0, 200), st.integers(0, 20), st.integers(25 * 10**8, 5 * 10**10))
@settings(max_examples=50)
def test_a_conversation_is_cut_into_calls_that_fit(prompt: int, answer: int, max_tokens: int, limit: int) -> None:
    found = estimate_conversation(SMALL, prompt_tokens=prompt, answer_tokens=answer, max_tokens=max_tokens, limit=limit)
    assert sum(step.prompt for step in found.steps) == prompt
    assert sum(step.generated for step in found.steps) == answer
    position = 0
    for step in found.steps:
        assert step.position == position
        assert 0 < step.instructions <= limit
        assert 0 < step.prompt + step.generated <= (max_tokens or prompt + answer)
        position += step.prompt + step.generated
    assert found.n_calls == len(found.steps)
    assert found.instructions == sum(step.instructions for step in found.steps)
    assert found.cycles == sum(step.cycles for step in found.steps)
    assert found.tokens_per_call_last <= found.tokens_per_call_first


def test_each_call_of_a_conversation_costs_what_estimate_call_says() -> None:
    found = estimate_conversation(QWEN, prompt_tokens=20, answer_tokens=100)
    for step in found.steps:
        reached = step.position + step.prompt
        alone = estimate_call(QWEN, prompt_tokens=reached, cached_tokens=step.position, generate=step.generated)
        assert alone.instructions == step.instructions
        if step is not found.steps[-1]:
            assert alone.max_generate == step.generated
    assert found.usd == pytest.approx(found.cycles / 1e12 * 1.366)
    assert found.seconds == pytest.approx(found.instructions / 2e9 * 0.43)


def test_a_conversation_that_cannot_be() -> None:
    with pytest.raises(BadRequest, match="does not fit a context of 2048"):
        estimate_conversation(SMALL, prompt_tokens=2000, answer_tokens=49)
    with pytest.raises(BadRequest, match="No token fits into this call"):
        estimate_conversation(SMALL, prompt_tokens=10, answer_tokens=5, limit=10**6)
    with pytest.raises(BadRequest):
        estimate_conversation(SMALL, prompt_tokens=0, answer_tokens=5)


def test_a_query_costs_less_than_its_limit_or_nothing_fits() -> None:
    found = estimate_call(SMALL, prompt_tokens=10, cached_tokens=10, saves=0, limit=QUERY_LIMIT)
    assert found.max_generate > 0


def test_the_models_that_are_known_to_load() -> None:
    q4 = estimate_fit(shape_of(QWEN3_17B, q4_k_m), CostContext(16_384, 8, 8, "q8_0", "q8_0"))
    q8 = estimate_fit(shape_of(QWEN3_17B, Q8_0), CostContext(16_384, 8, 8, "q8_0", "q8_0"))
    assert (q4.loads, q8.loads) == ("yes", "no")
    assert q4.heap_fits


def test_the_largest_context_is_the_largest() -> None:
    shape, context = shape_of(QWEN3_17B, q4_k_m), CostContext(4096, 8, 8, "q8_0", "q8_0")
    fit = estimate_fit(shape, context)
    assert fit.n_ctx == min(fit.n_ctx_heap, fit.n_ctx_calls) <= shape.n_ctx_train

    def heap(n_ctx: int) -> int:
        return CostModel(shape, replace(context, n_ctx=n_ctx)).heap_bytes

    def last_call(n_ctx: int) -> int:
        model = CostModel(shape, replace(context, n_ctx=n_ctx))
        return estimate_call(model, prompt_tokens=n_ctx - 1, cached_tokens=n_ctx - 1, generate=1).instructions

    assert heap(fit.n_ctx_heap) <= HEAP_LIMIT_BYTES
    assert fit.n_ctx_heap == shape.n_ctx_train or heap(fit.n_ctx_heap + 256) > HEAP_LIMIT_BYTES
    assert last_call(fit.n_ctx_calls) <= UPDATE_LIMIT < last_call(fit.n_ctx_calls + 256)


def test_a_model_with_a_short_context() -> None:
    shape = replace(shape_of(SMOLLM2_135M, Q8_0), n_ctx_train=100)
    fit = estimate_fit(shape, CostContext(100, 8, 8, "q8_0", "q8_0"))
    assert fit.n_ctx == 100
