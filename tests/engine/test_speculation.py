"""Drafts change nothing but time: with them and without, calls have the same tokens, rows, counts and costs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from canister.engine import verifier
from canister.engine.drafting import cost, lookup
from canister.engine.drafting.cost import MOST_ROWS
from canister.engine.drafting.habit import Habit
from canister.engine.drafting.lookup import CallerTexts
from canister.engine.load.loaded import LoadParams
from canister.engine.request import Ahead, GenerateResult, Sampled, Tokens
from canister.flags.params import SamplingParams
from tests.engine import tiny_models
from tests.engine.driver import GREEDY, Chat, Driver, Turnstile, cancel
from tests.engine.test_batch_invariance import some_prompt

N_CTX = 192
SAMPLERS = (
    GREEDY,
    SamplingParams(temperature=0.3),
    SamplingParams(temperature=1.2, ignore_eos=True),
    SamplingParams(temperature=0.6, repeat_penalty=1.3, presence_penalty=0.2, frequency_penalty=0.1),
    SamplingParams(temperature=0.6, dry_multiplier=0.8, repeat_last_n=-1, repeat_penalty=1.1),
    SamplingParams(temperature=0.9, xtc_probability=0.5, xtc_threshold=0.05),
    SamplingParams(temperature=0.8, mirostat=1),
    SamplingParams(temperature=0.8, mirostat=2),
    SamplingParams(temperature=0.7, dynatemp_range=0.5, typical_p=0.9, top_n_sigma=1.5),
    SamplingParams(temperature=0.8, samplers=("top_k", "temperature", "adaptive_p"), adaptive_target=0.4),
    SamplingParams(temperature=0.5, logit_bias=((300, 4.0), (301, float("-inf")))),
    SamplingParams(temperature=0.9, grammar='root ::= ("the cat " | "a dog " | "the sun ")*'),
    SamplingParams(temperature=0.9, json_schema='{"type": "array", "items": {"enum": ["one", "two"]}, "minItems": 5}'),
)


@pytest.fixture(autouse=True)
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that may follow is drafted, whatever it costs, so that drafts of every kind come to be."""
    monkeypatch.setattr(lookup, "MATCH", 1)
    monkeypatch.setattr(lookup, "MATCH_ELSEWHERE", 2)
    monkeypatch.setattr(cost, "WORTH", 0.0)
    monkeypatch.setattr(Habit, "settle", lambda *_: None)
    monkeypatch.setattr(Habit, "spend", lambda *_: None)
    monkeypatch.setattr(verifier, "CREDIT", 1e9)


# A model, and where its drafts come from: a text, a model that guesses right, one that guesses wrong, or both.
WAYS = [
    ("chat", "ngram-simple", ""),
    ("story", "ngram-simple", ""),
    ("q4_0", "ngram-simple", ""),
    ("q8_0", "ngram-simple", "other"),
    ("chat", "draft-simple", "chat"),
    ("q8_0", "draft-simple", "other"),
]


def draft_of(path: Path, **changes: Any) -> LoadParams:
    return LoadParams(path, name="draft", n_ctx=N_CTX, exact="off", flash_attn="off", **changes)


@pytest.fixture(scope="module", params=WAYS, ids=" ".join)
def drivers(
    request: pytest.FixtureRequest, model_path: Callable[[str], Path], other: Path
) -> Iterator[tuple[Driver, Driver]]:
    """Of one model: without drafts, and with them."""
    model, spec_type, guesses = request.param
    shape = {"n_slots": 3, "n_ctx": N_CTX, "n_threads": 1}
    path = model_path(model)
    draft = draft_of(other if guesses == "other" else model_path(guesses)) if guesses else None
    with Driver(path, **shape) as plain, Driver(path, **shape, spec_type=spec_type, draft=draft) as drafting_one:
        assert drafting_one.engine.info.n_verified >= 2
        yield plain, drafting_one


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of the same vocabulary with other weights."""
    return tiny_models.llama_model(tmp_path_factory.mktemp("other") / "other.gguf", "q8_0", seed=7)


@dataclass
class Purse:
    """A budget of so many steps, which notes what it is asked."""

    left: int
    asked: list[tuple[str, int, int]] = field(default_factory=list)

    def admit_prompt(self, position: int, n_wanted: int) -> int:
        self.asked.append(("prompt", position, n_wanted))
        return n_wanted

    def admit_sample(self, position: int) -> bool:
        self.asked.append(("sample", position, 1))
        return self.left > 0

    def admit_decode(self, position: int) -> bool:
        self.asked.append(("decode", position, 1))
        self.left -= 1
        return self.left >= 0

    def cut_prompt(self, batches: Sequence[tuple[int, int]]) -> None:
        self.asked += [("cut", *batch) for batch in batches]


@dataclass(frozen=True)
class Plan:
    """A chat: its prompt, and of each call the tokens that it may decode and its budget."""

    prompt: list[int]
    sampling: SamplingParams
    seed: int
    calls: list[tuple[int, int]]
    n_logprobs: int | None
    is_ahead: bool


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    words = draw(st.lists(st.integers(260, 500), min_size=1, max_size=6))
    prompt = (words * 12)[: draw(st.integers(4, 40))]
    return Plan(
        prompt,
        draw(st.sampled_from(SAMPLERS)),
        draw(st.integers(0, 1 << 32)),
        draw(st.lists(st.tuples(st.integers(1, 50), st.integers(1, 40)), min_size=1, max_size=4)),
        draw(st.sampled_from((None, 0, 3))),
        draw(st.booleans()),
    )


Told = tuple[GenerateResult, list[tuple[str, int, int]], list[Sampled]]


async def run(chat: Chat, plan: Plan) -> list[Told]:
    """The calls of a chat, one after the other: what each gave, what its budget was asked, what was told meanwhile."""
    told: list[Told] = []
    ahead = Ahead() if plan.is_ahead else None
    for n, (max_decode, left) in enumerate(plan.calls):
        purse, heard = Purse(left), list[Sampled]()
        result = await chat.call(
            plan.prompt if n == 0 else (),
            sampling=plan.sampling,
            seed=plan.seed,
            max_decode=max_decode,
            budget=purse,
            n_logprobs=plan.n_logprobs,
            on_tokens=heard.extend,
            ahead=ahead,
        )
        told.append((result, purse.asked, heard))
        if result.finish == "stop":
            break
    if ahead is not None:
        ahead.is_over = True
    return told


def same(plain: Told, drafted: Told) -> None:
    (a, asked_a, heard_a), (b, asked_b, heard_b) = plain, drafted
    assert (b.sampled, b.finish) == (a.sampled, a.finish)
    assert (b.prompt_chunks, b.n_generated, b.redrawn, b.n_draws, b.eog, b.shifted) == (
        *(a.prompt_chunks, a.n_generated, a.redrawn, a.n_draws, a.eog, a.shifted),
    )
    assert b.details == a.details
    assert (b.rows_first, b.rows) == (a.rows_first, a.rows)
    assert asked_b == asked_a
    assert heard_b == heard_a


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(chats=st.lists(plans(), min_size=1, max_size=3))
def test_calls_are_the_same_with_drafts_and_without(drivers: tuple[Driver, Driver], chats: list[Plan]) -> None:
    told: list[list[list[Told]]] = []
    for driver in drivers:
        names = [driver.chat(f"chat {n}") for n in range(len(chats))]
        told.append(driver.together(*(run(chat, plan) for chat, plan in zip(names, chats, strict=True))))
        for chat in names:
            driver.engine.forget(chat.key or "")
    for plain, drafted in zip(*told, strict=True):
        assert len(plain) == len(drafted)
        for a, b in zip(plain, drafted, strict=True):
            same(a, b)


def looping(driver: Driver, key: str, **changes: object) -> Chat:
    return driver.chat(key, sampling=SamplingParams(temperature=0.0, ignore_eos=True), **changes)


def test_drafts_are_decoded_and_told_in_order(drivers: tuple[Driver, Driver]) -> None:
    plain, drafted = drivers
    texts = [driver.run(looping(driver, "order").answer(some_prompt(3, 12) * 3, 120)) for driver in drivers]
    assert texts[0] == texts[1]
    stats = drafted.engine.stats()
    assert stats.n_drafted > 0
    is_bad = drafted.engine.info.draft_model and drafted.engine.info.spec_type == "draft-simple"
    assert is_bad or stats.n_drafted >= stats.n_accepted > 0
    assert plain.engine.stats().n_drafted == 0


def test_a_context_shift_comes_at_the_same_token(drivers: tuple[Driver, Driver]) -> None:
    """Also behind a draft some of whose rows lie beyond the end of the context."""

    async def shifted(driver: Driver) -> list[GenerateResult]:
        chats = [looping(driver, f"shift {n}", context_shift=True, want_rows=False) for n in range(4)]
        return [await chat.call(some_prompt(5, 30 + n), n_predict=N_CTX) for n, chat in enumerate(chats)]

    plain, drafted = (driver.run(shifted(driver)) for driver in drivers)
    assert all(result.shifted for result in (*plain, *drafted))
    assert [result.sampled for result in plain] == [result.sampled for result in drafted]


def test_a_cancelled_call_leaves_no_row_of_a_draft(drivers: tuple[Driver, Driver]) -> None:
    prompt = some_prompt(4, 10) * 3

    async def cancelled(driver: Driver) -> list[int]:
        chat = looping(driver, "cancelled")
        await chat.call(prompt, n_predict=4)
        with Turnstile(driver.engine, 4) as turnstile:
            call = asyncio.ensure_future(chat.call(n_predict=100))
            await turnstile.reached()
            await cancel(call)
        with pytest.raises(asyncio.CancelledError):
            await call
        return await chat.answer((), 60)

    plain, drafted = (driver.run(cancelled(driver)) for driver in drivers)
    assert plain == drafted


def test_an_answer_goes_on_after_a_restart_as_it_would_have(
    drivers: tuple[Driver, Driver], model_path: Callable[[str], Path]
) -> None:
    prompt = some_prompt(6, 8) * 4
    expected = drivers[0].run(looping(drivers[0], "whole").answer(prompt, 90))
    for use_rows in (True, False):
        chat = looping(drivers[1], f"killed {use_rows}")
        begun = drivers[1].run(chat.answer(prompt, 40))
        drivers[1].engine.forget(chat.key or "")
        again = chat.copy("again")
        assert begun + drivers[1].run(again.answer((), 50, use_rows=use_rows)) == expected
        drivers[1].engine.forget("again")


def test_what_another_chat_of_the_caller_says_is_drafted(
    drive: Callable[..., Driver], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cost.DraftCost, "measured", lambda *_: None)  # on a busy machine it is short drafts that pay
    driver = drive("q8_0", n_slots=2, n_ctx=N_CTX, n_threads=1, spec_type="ngram-simple")
    prompt = some_prompt(11, 40)
    answers, accepted = [], []
    for key in ("first", "second"):
        chat = driver.chat(key, caller="me", sampling=SamplingParams(temperature=0.8, ignore_eos=True))
        answers.append(driver.run(chat.answer(prompt, 60)))
        accepted.append(driver.engine.stats().n_accepted)
    assert answers[0] == answers[1]
    assert accepted[1] - accepted[0] > 40


def test_no_callers_text_is_looked_up_for_another(
    drive: Callable[..., Driver], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    of = CallerTexts.of

    def watched(self: CallerTexts, caller: str) -> Tokens:
        asked.append(caller)
        return of(self, caller)

    monkeypatch.setattr(CallerTexts, "of", watched)
    driver = drive("q8_0", n_slots=2, n_ctx=N_CTX, n_threads=1, spec_type="ngram-simple")
    texts = driver.engine._core._verifier._texts
    for caller in ("one", "another"):
        asked.clear()
        chat = driver.chat(f"chat of {caller}", caller=caller, sampling=SAMPLERS[2])
        driver.run(chat.answer(some_prompt(11, 40), 30))
        assert set(asked) == {caller}
        assert texts.of(caller).tolist() == [*chat.tokens, -1]
        driver.run(chat.call(n_predict=5, keep=False))
        driver.engine.forget(chat.key or "")
        driver.run(driver.chat(None).call(some_prompt(1, 4), n_predict=1))  # behind it
        assert len(texts.of(caller)) == 0


@pytest.mark.parametrize("model", ["gemma", "mamba", "lfm2"])
def test_no_drafts_where_rows_cannot_be_taken_back(drive: Callable[..., Driver], model: str) -> None:
    driver = drive(model, n_slots=1, n_ctx=64, n_threads=1, spec_type="ngram-simple")
    assert driver.engine.info.n_verified == 0
    driver.run(looping(driver, "k").answer(some_prompt(1, 8) * 2, 30))
    assert driver.engine.stats().n_drafted == 0


def test_flash_attention_forbids_drafts(drive: Callable[..., Driver]) -> None:
    driver = drive("q8_0", n_slots=1, n_ctx=64, n_threads=1, spec_type="ngram-simple", exact="off")
    assert driver.engine.info.n_verified == 0


def test_the_number_of_rows_is_bounded_by_the_setting(drive: Callable[..., Driver]) -> None:
    driver = drive("q8_0", n_slots=1, n_ctx=128, n_threads=1, spec_type="ngram-simple", spec_draft_n_max=3)
    assert driver.engine.info.n_verified == 4 < MOST_ROWS
    driver.run(looping(driver, "k").answer(some_prompt(1, 8) * 3, 60))
    assert np.isfinite(driver.engine.stats().n_drafted)
