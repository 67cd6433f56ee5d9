"""Calls are counted, limited, charged and logged; what is estimated is what a run then takes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from canister import dispatch
from canister.api.records import RunOutputRecord
from canister.errors import InstructionLimit, OutOfCycles
from canister.store import tables
from tests.harness import CONTROLLER, GREEDY, STORY_MODEL, Harness, canister_in, needs_story_model, someone

pytestmark = [pytest.mark.anyio, needs_story_model]

PROMPT = "Once upon a time there was a little dog"
CACHE = ("--prompt-cache", "c")


@pytest.fixture
async def story(tmp_path: Path) -> AsyncIterator[Harness]:
    async with canister_in(tmp_path) as harness:
        await harness.load(STORY_MODEL)
        yield harness


async def run(harness: Harness, *args: str, caller: str = CONTROLLER) -> dispatch.Reply:
    return await harness.reply("run_update", {"args": [*CACHE, *GREEDY, *args]}, caller)


def charged(reply: dispatch.Reply) -> int:
    assert reply.charge is not None
    return reply.charge.instructions


def limited(harness: Harness, limit: int | None, **more: Any) -> None:
    """Change a canister's settings as a restart with other ones would."""
    canister = harness.canister
    canister.settings = canister.settings.model_copy(update={"instruction_limit": limit, **more})


async def fixed_and_token(harness: Harness) -> tuple[int, int]:
    """Instructions of a call that decodes nothing, and about those of one more token at the end of the context."""
    model = harness.canister.model.cost_model
    assert model is not None
    fixed = model.clear + model.session(model.context.n_ctx) + model.pagein + model.base
    step = (model.decode(model.context.n_ctx - 1, 1)) // 10**7 + model.sample(penalized=True) + 1
    return fixed + model.save(2, model.context.n_ctx), step


async def test_the_breakdown_is_in_the_reply_and_in_the_log(story: Harness) -> None:
    before = story.canister.ledger.cycles
    reply = await run(story, "-p", PROMPT, "-n", "4")
    assert reply.charge is not None
    assert sum(reply.charge.parts.values()) == reply.charge.instructions
    assert reply.charge.limit == 40_000_000_000
    assert story.canister.ledger.cycles == before - reply.charge.cycles
    entry = (await story.call("get_call_log", {"max_entries": 1}))[0]
    assert (entry.method, entry.outcome, entry.caller) == ("run_update", "ok", CONTROLLER)
    assert entry.instructions == sum(part.instructions for part in entry.parts) == reply.charge.instructions
    assert {part.part for part in entry.parts} >= {"clear", "session", "pagein", "sampling", "save"}
    told = (entry.n_prompt_tokens_decoded, entry.n_tokens_generated)
    assert told == (reply.value.n_prompt_tokens_decoded, reply.value.n_tokens_generated)
    assert all(n is not None and n > 0 for n in told)
    await story.call("set_max_tokens", {"max_tokens_update": 0, "max_tokens_query": 0})
    entry = (await story.call("get_call_log", {"max_entries": 1}))[0]
    assert (entry.n_prompt_tokens_decoded, entry.n_tokens_generated) == (None, None)


async def test_callers_see_their_own_calls_and_admins_all(story: Harness) -> None:
    await story.call("set_access", {"level": 1})
    await run(story, "-p", PROMPT, "-n", "1", caller=someone(5))
    await run(story, "-p", PROMPT, "-n", "1", caller=someone(6))
    own = await story.call("get_call_log", {}, caller=someone(5))
    assert [entry.caller for entry in own] == [someone(5)]
    everything = await story.call("get_call_log", {})
    assert {entry.caller for entry in everything} == {CONTROLLER, someone(5), someone(6)}
    ids = [entry.id for entry in everything]
    assert ids == sorted(ids, reverse=True)
    rest = await story.call("get_call_log", {"before_id": ids[1]})
    assert [entry.id for entry in rest] == ids[2:]


async def test_queries_are_free_and_denied_calls_are_not_charged(story: Harness) -> None:
    before = story.canister.ledger.cycles
    reply = await story.reply("run_query", {"args": [*GREEDY, "-p", PROMPT, "-n", "2"]})
    assert reply.charge is not None
    assert (reply.charge.cycles, reply.charge.limit) == (0, 5_000_000_000)
    assert charged(reply) > 0
    denied = await run(story, "-p", PROMPT, caller=someone(9))
    assert (denied.error is not None, denied.charge) == (True, None)
    assert story.canister.ledger.cycles == before


async def test_an_error_reply_is_paid_and_logged(story: Harness) -> None:
    before = story.canister.ledger.cycles
    reply = await run(story, "--no-such-flag")
    assert reply.error is not None
    assert reply.charge is not None
    assert story.canister.ledger.cycles == before - reply.charge.cycles < before
    assert (await story.call("get_call_log", {"max_entries": 1}))[0].outcome == "err"


async def test_the_balance_survives_a_restart(tmp_path: Path) -> None:
    async with canister_in(tmp_path) as harness:
        await harness.load(STORY_MODEL)
        await run(harness, "-p", PROMPT, "-n", "2")
        left = harness.canister.ledger.cycles
    async with canister_in(tmp_path) as harness:
        assert harness.canister.ledger.cycles == left
        await harness.call("cycle_balance_start_timer")
        assert (await harness.call("get_cycle_balance")).cycle_balance == left


async def test_the_same_calls_cost_the_same(tmp_path: Path) -> None:
    counts = []
    for name in ("one", "two"):
        async with canister_in(tmp_path / name) as harness:
            await harness.load(STORY_MODEL)
            replies = [await run(harness, "-p", PROMPT, "-n", "3"), await run(harness, "-p", "", "-n", "9")]
            counts.append([reply.charge for reply in replies])
    assert counts[0] == counts[1]


# -- yield


async def test_yield_cuts_the_chat_into_calls_that_give_the_same_text(story: Harness) -> None:
    fixed, token = await fixed_and_token(story)
    whole = (await story.run(PROMPT, *GREEDY, "-n", "40", cache=None)).conversation
    loop = asyncio.get_running_loop()

    async def check(extra_tokens: int) -> None:
        limited(story, fixed + extra_tokens * token)
        await story.call("remove_prompt_cache", {"args": list(CACHE)})
        text, prompt, n_calls = "", PROMPT, 0
        while len(text) < len(whole):
            reply = await run(story, "-p", prompt)
            assert reply.error is None
            record = reply.value
            assert isinstance(record, RunOutputRecord)
            assert charged(reply) <= fixed + extra_tokens * token
            progress = (record.n_prompt_tokens_decoded or 0) + (record.n_tokens_generated or 0)
            assert progress >= 1
            assert record.generated_eog or progress >= min(extra_tokens, 3) - 1
            text = record.conversation
            prompt = PROMPT if record.n_prompt_tokens_remaining else ""
            n_calls += 1
        assert text.startswith(whole)
        assert n_calls > 1

    @settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.integers(1, 20))
    def check_any(extra_tokens: int) -> None:
        asyncio.run_coroutine_threadsafe(check(extra_tokens), loop).result()

    await asyncio.to_thread(check_any)


async def test_yield_refuses_a_call_that_cannot_decode_a_token_and_says_why(story: Harness) -> None:
    limited(story, 1_000_000)
    reply = await run(story, "-p", PROMPT)
    assert reply.error is not None
    assert reply.value.status_code == 500  # type: ignore[attr-defined]
    for word in ("1000000", "--ctx-size"):
        assert word in str(reply.error)


async def test_max_tokens_keeps_its_meaning(story: Harness) -> None:
    await story.limit(4)
    reply = await run(story, "-p", PROMPT)
    assert reply.value.n_prompt_tokens_decoded == 4  # type: ignore[attr-defined]


# -- trap


async def snapshot(harness: Harness) -> dict[str, Any]:
    """All of the canister but what a trapped call is charged."""
    canister = harness.canister
    with canister.database.read() as connection:
        rows = {
            table.name: connection.execute(table.select()).all()
            for table in tables.canister_metadata.sorted_tables
            if table.name not in ("ledger", "call_log", "redo", "receipts", "receipt_terms")
        }
    files = {
        entry.path: canister.stable.read(entry.path, 0, entry.size)
        for entry in canister.stable.walk("", 0) or []
        if entry.kind == "file"
    }
    return {"rows": rows, "files": files, "state": canister.state}


async def test_trap_leaves_nothing_but_the_charge(story: Harness) -> None:
    begun = await run(story, "-p", PROMPT, "-n", "3")
    fixed, token = await fixed_and_token(story)
    twin = await story.run("", *GREEDY, "-n", "5", cache="c", query=True)
    before, cycles = await snapshot(story), story.canister.ledger.cycles
    limit = fixed + 4 * token
    limited(story, limit, budget_policy="trap")
    with pytest.raises(InstructionLimit) as trapped:
        await run(story, "-p", "")
    assert str(trapped.value) == (
        f"Error from Canister {story.canister.id}: Canister exceeded the limit of {limit} instructions "
        "for single message execution."
    )
    assert (trapped.value.reject_code, trapped.value.error_code) == (5, "IC0522")
    assert await snapshot(story) == before
    assert story.canister.ledger.cycles < cycles
    assert (await story.call("get_call_log", {"max_entries": 1}))[0].outcome == "trap"
    limited(story, None, budget_policy="yield")
    after = await run(story, "-p", "", "-n", "5")
    assert after.value.output == twin.output  # type: ignore[attr-defined]
    assert after.value.n_prompt_tokens_cached == begun.value.n_prompt_tokens + 2  # type: ignore[attr-defined]


async def test_trap_lets_a_call_through_that_fits(story: Harness) -> None:
    fixed, token = await fixed_and_token(story)
    limited(story, fixed + 40 * token, budget_policy="trap")
    await story.limit(5)
    assert (await run(story, "-p", PROMPT)).error is None


async def test_trap_rejects_a_call_whose_fixed_part_does_not_fit(story: Harness) -> None:
    before = await snapshot(story)
    limited(story, 1_000_000, budget_policy="trap")
    with pytest.raises(InstructionLimit):
        await run(story, "-p", PROMPT)
    assert await snapshot(story) == before


async def test_a_method_without_tokens_is_rejected_over_the_limit(story: Harness) -> None:
    limited(story, 5_000_000)
    with pytest.raises(InstructionLimit):
        await story.reply("file_upload_chunk", {"filename": "f", "chunk": b"x", "chunksize": 1, "offset": 0})
    assert story.canister.stable.stat("f") is None


async def test_without_cycles_updates_are_refused_when_the_balance_is_enforced(story: Harness) -> None:
    canister = story.canister
    limited(story, 40_000_000_000, balance_policy="enforce")
    await run(story, "-p", PROMPT, "-n", "1")
    canister.ledger.committed(-canister.ledger.cycles + 1_000_000_000)
    with pytest.raises(OutOfCycles) as refused:
        await run(story, "-p", PROMPT, "-n", "1")
    assert refused.value.error_code == "IC0207"
    assert f"Canister {canister.id} is out of cycles: please top up the canister with at least " in str(refused.value)
    assert (await story.reply("run_query", {"args": ["-p", PROMPT, "-n", "1"]})).error is None
    limited(story, 40_000_000_000, balance_policy="track")
    assert (await run(story, "-p", PROMPT, "-n", "1")).error is None


# -- estimates


@pytest.mark.parametrize("n_predict", ["1", "7", "-1"])
async def test_an_estimate_is_what_the_run_then_takes(story: Harness, n_predict: str) -> None:
    await story.limit(12)
    for prompt in (PROMPT, PROMPT, "", ""):
        args = [*CACHE, *GREEDY, "-p", prompt, "-n", n_predict]
        estimate = await story.call("estimate_run", {"args": args, "answer_tokens": 60})
        reply = await story.reply("run_update", {"args": args})
        assert reply.charge is not None
        assert estimate.instructions == reply.charge.instructions
        assert estimate.cycles == reply.charge.cycles
        assert {part.part: part.instructions for part in estimate.parts} == dict(reply.charge.parts)


async def test_an_answer_that_has_no_room_is_told(story: Harness) -> None:
    asked = {"args": ["-p", "Once upon a time"], "answer_tokens": 999_999}
    estimate = await story.call("estimate_run", asked)
    (told,) = [guess for guess in estimate.estimated if "999999" in guess]
    n_room = 128 - estimate.n_prompt_tokens
    assert told == (
        f"The answer is counted as {n_room} tokens, not 999999: the context of 128 has no room for more behind a "
        f"prompt of {estimate.n_prompt_tokens}."
    )
    without = await story.call("estimate_run", {**asked, "answer_tokens": None})
    assert not [guess for guess in without.estimated if "no room" in guess]


async def test_an_estimated_conversation_is_what_its_calls_take_together(story: Harness) -> None:
    fixed, token = await fixed_and_token(story)
    limited(story, fixed + 6 * token)
    args = [*CACHE, *GREEDY, "-p", PROMPT]
    estimate = await story.call("estimate_run", {"args": args, "answer_tokens": 30})
    total, n_calls, prompt, generated = 0, 0, PROMPT, 0
    while generated < 30:
        await story.limit(30 - generated if not prompt else 0)
        reply = await run(story, "-p", prompt)
        record = reply.value
        assert isinstance(record, RunOutputRecord)
        prompt = PROMPT if record.n_prompt_tokens_remaining else ""
        generated += record.n_tokens_generated or 0
        total, n_calls = total + charged(reply), n_calls + 1
    assert (estimate.calls, estimate.total_instructions) == (n_calls, total)
