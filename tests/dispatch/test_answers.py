"""Whole answers inside the server: a chain of calls, each one admitted, metered and logged as any other."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import pytest

from canister.dispatch import Answered, Ingested, Piece, Wanted, answers
from canister.engine.llama import Context
from canister.errors import BadRequest, CanisterError, ContextExceeded
from canister.flags.params import SamplingParams
from canister.runtime.canister import Canister
from tests.harness import CHAT_MODEL, CONTROLLER, Harness, canister_in, someone
from tests.server.served import CHAT
from tests.traces import until

pytestmark = pytest.mark.anyio

PROMPT = CHAT.format("Who are you?")
GREEDY = SamplingParams(temperature=0.0)
DRAWN = SamplingParams(temperature=1.5, ignore_eos=True)
TOKENS_OF_A_CALL = 10


@pytest.fixture(scope="module")
async def harness(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Harness]:
    async with canister_in(tmp_path_factory.mktemp("answers")) as found:
        await found.load(CHAT_MODEL)
        await found.limit(TOKENS_OF_A_CALL)
        yield found


@pytest.fixture
def canister(harness: Harness) -> Canister:
    return harness.canister


async def events_of(
    canister: Canister, wanted: Wanted, caller: str = CONTROLLER
) -> tuple[list[Ingested], list[Piece], Answered]:
    events = [event async for event in answers.answer(canister, caller, wanted)]
    answered = events.pop()
    assert isinstance(answered, Answered)
    is_in = [isinstance(event, Piece) for event in events]
    assert is_in == sorted(is_in)  # the prompt first
    ingested = [event for event in events if isinstance(event, Ingested)]
    return ingested, [event for event in events if isinstance(event, Piece)], answered


async def text_of(canister: Canister, wanted: Wanted) -> tuple[str, Answered]:
    _, pieces, answered = await events_of(canister, wanted)
    return "".join(piece.text for piece in pieces), answered


async def test_an_answer_comes_out_of_several_calls_and_is_paid_by_call(canister: Canister) -> None:
    cycles, n_before = canister.ledger.cycles, len(canister.call_log.newest(None, None, 1000))
    ingested, pieces, answered = await events_of(canister, Wanted(PROMPT, GREEDY, max_tokens=25))
    logged = canister.call_log.newest(None, None, 1000)
    calls = [entry for entry in logged[: len(logged) - n_before] if entry.method == "generate"]
    assert answered.n_calls == len(calls) > 3
    assert answered.instructions == sum(entry.charge.instructions for entry in calls)
    assert answered.cycles == sum(entry.charge.cycles for entry in calls)
    assert 0 < answered.cycles <= cycles - canister.ledger.cycles
    assert [event.n_done for event in ingested][-1] == answered.n_prompt > TOKENS_OF_A_CALL
    assert len(pieces) > 5
    tokens = [token for piece in pieces for token in piece.tokens]
    assert len(tokens) == answered.n_generated
    assert b"".join(token.data for token in tokens).decode() == "".join(piece.text for piece in pieces)


async def test_it_says_what_run_update_says(harness: Harness) -> None:
    text, _ = await text_of(harness.canister, Wanted(PROMPT, GREEDY, max_tokens=25))
    record = None
    while record is None or record.n_prompt_tokens_remaining:
        record = await harness.run(PROMPT, "-n", "1", "--temp", "0.0")
    by_hand = (await harness.run("", "--temp", "0.0")).output
    assert by_hand
    assert text.startswith(by_hand)


async def test_however_many_tokens_a_call_may_take_the_answer_is_the_same(harness: Harness) -> None:
    wanted = Wanted(PROMPT, DRAWN, seed=7, max_tokens=40)
    same = []
    for limit in (0, 3, 7, TOKENS_OF_A_CALL):
        await harness.limit(limit)
        _, pieces, answered = await events_of(harness.canister, wanted)
        tokens = [token.id for piece in pieces for token in piece.tokens]
        same.append((tokens, "".join(piece.text for piece in pieces), answered.finish, answered.n_generated))
    assert len(same[0][0]) == 40
    assert same == [same[0]] * 4


async def test_a_stop_string_ends_it_across_the_borders_of_calls(harness: Harness) -> None:
    await harness.limit(0)
    wanted = Wanted(PROMPT, DRAWN, seed=7, max_tokens=40)
    whole, _ = await text_of(harness.canister, wanted)
    at = len(whole) // 2
    stop = whole[at : at + 5]
    for limit in (1, 2, 0, TOKENS_OF_A_CALL):
        await harness.limit(limit)
        text, answered = await text_of(harness.canister, replace(wanted, stops=("never said", stop)))
        assert text == whole[: whole.index(stop)]
        assert (answered.finish, answered.stop) == ("stop", stop)
        assert answered.n_generated < 40


async def test_special_tokens_are_shown_where_they_are_wanted(canister: Canister) -> None:
    engine = canister.model.engine
    assert engine is not None
    end = engine.tokenize("<|im_end|>", add_bos=False)
    bias = SamplingParams(temperature=0.0, logit_bias=((end[0], 1e9),))
    assert (await text_of(canister, Wanted(PROMPT, bias)))[0] == ""
    text, answered = await text_of(canister, Wanted(PROMPT, bias, shown_special=("<|im_end|>",)))
    assert (text, answered.finish, answered.n_generated) == ("<|im_end|>", "stop", 1)


async def test_an_answer_ends_where_the_context_is_full(canister: Canister) -> None:
    engine = canister.model.engine
    assert engine is not None
    n_prompt = engine.info.n_ctx - 5
    _, answered = await text_of(canister, Wanted([1] * n_prompt, DRAWN))
    assert (answered.finish, answered.n_prompt, answered.n_generated) == ("length", n_prompt, 5)


async def test_nothing_stays_of_an_answer_that_reuses_nothing(canister: Canister) -> None:
    await events_of(canister, Wanted(PROMPT, GREEDY, max_tokens=5, reuses=False))
    assert list(canister.folder.glob("stable/.canister_cache/*/sessions/answers/t-*")) == []


async def test_no_token_at_all_may_be_wanted(canister: Canister) -> None:
    ingested, pieces, answered = await events_of(canister, Wanted(PROMPT, GREEDY, max_tokens=0))
    assert (pieces, answered.finish, answered.n_generated) == ([], "length", 0)
    assert ingested[-1].n_done == answered.n_prompt


async def test_who_has_enough_ends_the_call(canister: Canister) -> None:
    engine = canister.model.engine
    assert engine is not None
    async with aclosing(answers.answer(canister, CONTROLLER, Wanted(PROMPT, DRAWN))) as events:
        async for event in events:
            if isinstance(event, Piece):
                break
    await until(lambda: engine.stats().n_running == 0)


async def test_who_gives_up_before_a_call_is_over_finds_what_it_decoded(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing was committed, but the rows stay: a client gets through whose time-out is shorter than a call."""
    await harness.limit(0)
    canister, engine = harness.canister, harness.canister.model.engine
    assert engine is not None
    wanted = Wanted(CHAT.format(" ".join(f"Llama {n} is kind." for n in range(60))), GREEDY, max_tokens=3)
    n_before, decode = engine.stats().n_prompt_tokens, Context.decode
    is_held, go_on = threading.Event(), threading.Event()

    def held(self: Context, *rows: Any) -> None:
        if not is_held.is_set() and engine.stats().n_prompt_tokens - n_before >= 32:
            is_held.set()
            assert go_on.wait(60)
        decode(self, *rows)

    monkeypatch.setattr(Context, "decode", held)
    try_ = asyncio.ensure_future(text_of(canister, wanted))
    assert await asyncio.to_thread(is_held.wait, 60)
    try_.cancel()
    await asyncio.sleep(0)
    go_on.set()
    await asyncio.wait([try_])
    n_in = engine.stats().n_prompt_tokens - n_before
    _, answered = await text_of(canister, wanted)
    await harness.limit(TOKENS_OF_A_CALL)
    assert 32 <= n_in < answered.n_prompt
    assert answered.n_cached == 0  # it pays for what nobody has paid for
    assert engine.stats().n_prompt_tokens - n_before <= answered.n_prompt + 1


async def test_what_cannot_be_answered_is_refused(canister: Canister) -> None:
    for wanted, refusal, words in (
        (Wanted([1] * 100_000), ContextExceeded, r"request \(100000 tokens\) exceeds the available context size"),
        (Wanted([-1]), BadRequest, "-1 is no token"),
        (Wanted([]), BadRequest, "prompt is empty"),
        (Wanted(PROMPT, stops=("x" * 100_000,)), BadRequest, "stop string"),
    ):
        with pytest.raises(refusal, match=words):
            await events_of(canister, wanted)
    with pytest.raises(CanisterError, match="Access Denied"):
        await events_of(canister, Wanted(PROMPT), caller=someone(9))


async def test_several_answers_to_one_prompt_are_made_side_by_side(harness: Harness) -> None:
    canister = harness.canister
    await harness.limit(TOKENS_OF_A_CALL)
    wanted = [Wanted(PROMPT, DRAWN, seed=40 + n, max_tokens=30, reuses=False) for n in range(3)]
    alone = [await text_of(canister, each) for each in wanted]
    texts, ends, order = ["", "", ""], dict[int, Answered](), list[int]()
    async for number, event in answers.answer_choices(canister, CONTROLLER, wanted):
        if isinstance(event, Piece):
            texts[number] += event.text
            order.append(number)
        elif isinstance(event, Answered):
            ends[number] = event
    assert texts == [text for text, _ in alone]
    assert len(set(texts)) == 3
    assert len(set(order[: len(order) // 2])) == 3  # none waits for the others
    n_prompt = ends[0].n_prompt
    assert [ends[n].n_cached for n in range(3)] == [0, n_prompt - 1, n_prompt - 1]
    in_all = sum(end.instructions for end in ends.values())
    assert in_all < sum(answered.instructions for _, answered in alone)
    assert list(canister.folder.glob("stable/.canister_cache/*/sessions/answers/t-*")) == []


async def test_tokens_and_texts_may_be_mixed(canister: Canister) -> None:
    engine = canister.model.engine
    assert engine is not None
    whole = engine.tokenize(PROMPT, add_bos=True)
    found = await answers.prompt_tokens_of(canister, CONTROLLER, [*whole[:3], engine.piece(whole[3], True).decode()])
    assert found == whole[:4]
