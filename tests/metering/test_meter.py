"""The meter of a call: what it admits is what it counts, what it counts is the closed formula, and within its limit."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from canister.defaults import UPDATE_LIMIT
from canister.engine.request import Budget
from canister.errors import BadRequest
from canister.metering.cost_model import CostContext, CostModel
from canister.metering.meter import CallMeter, Policy
from tests.shapes import Q8_0, QWEN3_06B, SMOLLM2_135M, shape_of

SMALL = CostModel(shape_of(SMOLLM2_135M, Q8_0), CostContext(1024, 16, 16, "q8_0", "q8_0"))
QWEN = CostModel(shape_of(QWEN3_06B, Q8_0), CostContext(16_384, 64, 64, "q8_0", "q8_0"))


def run(meter: CallMeter, reused: int, prompt: int, generate: int, n_batch: int = 16) -> tuple[int, int]:
    """What the engine asks: the prompt in batches, then sample and decode. Tokens decoded of each."""
    done = 0
    while done < prompt:
        asked = min(n_batch, prompt - done)
        granted = meter.admit_prompt(reused + done, asked)
        assert 0 <= granted <= asked
        done += granted
        if granted < asked:
            return done, 0
    for i in range(generate):
        if not (meter.admit_sample(reused + done + i) and meter.admit_decode(reused + done + i)):
            return done, i
    return done, generate


def test_the_meter_is_a_budget() -> None:
    budget: Budget = CallMeter(SMALL, limit=None)
    assert budget.admit_sample(0)


CALLS = st.tuples(st.integers(0, 500), st.integers(0, 5), st.integers(0, 100), st.integers(0, 60))


@given(CALLS, st.booleans(), st.booleans())
def test_without_a_limit_everything_is_admitted_and_counted(
    call: tuple[int, int, int, int], writes: bool, penalized: bool
) -> None:
    reused, more, prompt, generate = call
    meter = CallMeter(
        SMALL,
        limit=None,
        loaded=reused + more,
        reused=reused,
        prompt=prompt,
        writes=writes,
        penalized=penalized,
    )
    meter.check_first_step()
    assert run(meter, reused, prompt, generate) == (prompt, generate)
    work = meter.work
    assert (work.loaded, work.reused, work.prompt) == (reused + more, reused, prompt)
    assert (work.generated, work.sampled) == (generate, generate)
    assert work.saves == (0 if not writes else 2 if prompt else 1)
    assert meter.cost == SMALL.cost(work)
    assert not meter.exceeded


@given(CALLS, st.integers(0, 10**10), st.sampled_from(["yield", "trap"]), st.booleans())
@settings(max_examples=200)
def test_no_call_exceeds_its_limit(call: tuple[int, int, int, int], extra: int, policy: Policy, writes: bool) -> None:
    reused, more, prompt, generate = call
    free = CallMeter(SMALL, limit=None, loaded=reused + more, reused=reused, prompt=prompt, writes=writes)
    limit = free.cost.total + extra
    meter = CallMeter(
        SMALL, limit=limit, policy=policy, loaded=reused + more, reused=reused, prompt=prompt, writes=writes
    )
    done = run(meter, reused, prompt, generate)
    assert meter.cost.total <= limit
    assert meter.cost == SMALL.cost(meter.work)
    assert meter.exceeded == (done != (prompt, generate))
    if meter.exceeded and policy == "yield":
        assert meter.work.sampled == meter.work.generated


@given(st.integers(0, 400), st.integers(1, 200), st.integers(0, 3 * 10**10))
def test_as_many_prompt_tokens_as_fit(reused: int, prompt: int, limit: int) -> None:
    def meter(wanted: int) -> CallMeter:
        return CallMeter(SMALL, limit=wanted, loaded=reused, reused=reused, prompt=prompt)

    granted = meter(limit).admit_prompt(reused, prompt)
    if granted < prompt:
        one_more = CallMeter(SMALL, limit=None, loaded=reused, reused=reused, prompt=prompt)
        one_more.admit_prompt(reused, granted + 1)
        assert one_more.cost.total > limit


def refusal(meter: CallMeter) -> str:
    try:
        meter.check_first_step()
    except BadRequest as error:
        return str(error)
    return ""


@given(st.integers(0, 400), st.integers(0, 20), st.integers(0, 4 * 10**9))
def test_a_call_is_refused_exactly_when_its_first_token_does_not_fit(reused: int, prompt: int, limit: int) -> None:
    meter = CallMeter(SMALL, limit=limit, loaded=reused, reused=reused, prompt=prompt)
    refused = refusal(meter)
    decoded = sum(run(meter, reused, prompt, 1))
    assert bool(refused) == (decoded == 0)
    if refused:
        assert str(limit) in refused
        assert str(meter.cost.fixed) in refused
        assert "smaller --ctx-size than 1024" in refused


def test_under_trap_a_batch_that_does_not_fit_is_not_begun() -> None:
    limit = SMALL.cost(replace(CallMeter(SMALL, limit=None).work, prompt=20, saves=1)).total
    assert CallMeter(SMALL, limit=limit, prompt=100).admit_prompt(0, 100) > 0
    trap = CallMeter(SMALL, limit=limit, prompt=100, policy="trap")
    assert trap.admit_prompt(0, 100) == 0
    assert trap.exceeded


def test_under_trap_the_last_token_may_be_sampled_without_being_decoded() -> None:
    limit = SMALL.cost(replace(CallMeter(SMALL, limit=None).work, sampled=1, saves=1)).total
    assert CallMeter(SMALL, limit=limit, policy="trap").admit_sample(0)
    assert not CallMeter(SMALL, limit=limit, policy="yield").admit_sample(0)


def test_the_max_tokens_that_was_published_fits() -> None:
    meter = CallMeter(QWEN, limit=UPDATE_LIMIT, loaded=69, reused=69, penalized=True)
    assert run(meter, 69, 0, 20) == (0, 20)
