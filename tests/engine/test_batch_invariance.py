"""A chat is the same however it is cut into calls, whoever runs beside it, wherever it was meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from canister.engine.engine import Engine, LoadParams
from canister.engine.kv.rows import decode, merge
from canister.engine.request import GenerateResult
from canister.engine.thread import DecodeThread
from canister.flags.params import SamplingParams
from tests.engine.conftest import MODELS
from tests.engine.driver import GREEDY, NOTHING, Chat, Driver

Drive = Callable[..., Driver]

N_ANSWER = 20
SAMPLED = SamplingParams(temperature=1.0, repeat_penalty=1.1, frequency_penalty=0.1)
ENDLESS = replace(SAMPLED, ignore_eos=True)

samplings = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.0, 0.5, 1.0, 1.7]),
    top_k=st.sampled_from([0, 3, 40]),
    top_p=st.sampled_from([0.3, 0.95, 1.0]),
    min_p=st.sampled_from([0.0, 0.1]),
    typical_p=st.sampled_from([1.0, 0.7]),
    repeat_penalty=st.sampled_from([1.0, 1.2]),
    repeat_last_n=st.sampled_from([-1, 3, 64]),
    presence_penalty=st.sampled_from([0.0, 0.4]),
    dry_multiplier=st.sampled_from([0.0, 0.8]),
    xtc_probability=st.sampled_from([0.0, 0.5]),
    dynatemp_range=st.sampled_from([0.0, 0.5]),
    top_n_sigma=st.sampled_from([-1.0, 1.5]),
)
prompts = st.lists(st.integers(3, 511), min_size=1, max_size=40).map(lambda tokens: [1, *tokens])
cuts = st.lists(st.integers(1, 20), max_size=30)


def some_prompt(seed: int, n: int = 30) -> list[int]:
    return [1, *map(int, np.random.default_rng(seed).integers(3, 500, n))]


@pytest.mark.parametrize("model", MODELS)
def test_cut_calls_equal_one_call(drive: Drive, model: str) -> None:
    driver = drive(model, n_slots=3, n_ctx=200)

    @settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
    @given(prompt=prompts, cuts=cuts, sampling=samplings, seed=st.integers(0, 2**64 - 1))
    def check(prompt: list[int], cuts: list[int], sampling: SamplingParams, seed: int) -> None:
        same = {"sampling": sampling, "seed": seed}
        whole = driver.run(driver.chat(None, **same).answer(prompt, N_ANSWER))
        chat = driver.chat("cut", **same)
        assert driver.run(chat.answer(prompt, N_ANSWER, cuts)) == whole
        driver.engine.forget("cut")

    check()


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_twenty_chats_of_different_callers(drive: Drive, model: str, sampling: SamplingParams) -> None:
    """On fewer slots than chats, so that all of them are spilled and restored again and again."""
    driver = drive(model, n_slots=5, n_ctx=200)
    seeds = range(20)

    def chat(seed: int, key: str | None) -> Chat:
        return driver.chat(key, sampling=sampling, seed=seed)

    alone = [driver.run(chat(seed, None).answer(some_prompt(seed, 5 + seed), N_ANSWER)) for seed in seeds]
    rng = np.random.default_rng(0)
    chats = [chat(seed, f"caller {seed}") for seed in seeds]
    together = driver.together(
        *(
            each.answer(some_prompt(seed, 5 + seed), N_ANSWER, rng.integers(1, 9, 99).tolist(), use_rows=seed % 2 == 0)
            for seed, each in zip(seeds, chats, strict=True)
        )
    )
    assert together == alone


@pytest.mark.parametrize("model", ["story", "chat", "f32", "f16", "q8_0", "q4_0", "q4_k_m"])
def test_rows_are_the_same_bits_however_they_came_about(drive: Drive, model: str) -> None:
    """Whole, cut, beside others, rebuilt from tokens: KV rows agree bit for bit, not only tokens."""
    driver = drive(model, n_slots=3, n_ctx=200, exact="on")
    prompt = some_prompt(7, 33)
    whole, cut, noise = driver.chat("whole"), driver.chat("cut"), driver.chat("noise", seed=3)
    driver.run(whole.answer(prompt, N_ANSWER))

    async def beside() -> None:
        task = asyncio.create_task(noise.answer(some_prompt(9, 60), 100))
        await cut.answer(prompt, N_ANSWER, [1, 1, 2, 3, 29, 1, 5, 1, 1])
        await task

    driver.run(beside())
    rebuilt = whole.copy("rebuilt")
    result = driver.run(rebuilt.call(prompt, use_rows=False, n_predict=0))
    assert result.redecoded == len(whole.tokens)
    driver.run(whole.call(prompt, n_predict=0))
    driver.run(cut.call(prompt, n_predict=0))

    assert cut.tokens == whole.tokens == rebuilt.tokens
    assert cut.generated == whole.generated == rebuilt.generated
    assert len(cut.segments) > len(whole.segments) > len(rebuilt.segments) == 1
    assert state_of(driver, cut) == state_of(driver, whole) == state_of(driver, rebuilt)


def state_of(driver: Driver, chat: Chat) -> bytes:
    """The KV rows that were handed out for a chat, put together."""
    layout = driver.engine._core.runner._traits.layout
    assert layout is not None
    pieces = [decode(layout, each.rows).cut(layout, each.first, each.first + each.count) for each in chat.segments]
    return merge(layout, pieces, 1).tobytes()


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("use_rows", [True, False], ids=["rows", "tokens"])
def test_spilled_between_all_calls(drive: Drive, model: str, use_rows: bool) -> None:
    driver = drive(model, n_slots=1, n_ctx=200)
    prompt = some_prompt(3)
    whole = driver.run(driver.chat(None, sampling=ENDLESS).answer(prompt, N_ANSWER))
    chats = [driver.chat(name, sampling=ENDLESS) for name in "ab"]
    for chat in chats:
        chat.prompt = list(prompt)
    n_redecoded = 0
    while len(chats[0].sampled) < N_ANSWER:
        for chat in chats:  # one slot: each call throws the other chat out
            limit = min(7, len(chat.prompt) + N_ANSWER - len(chat.sampled))
            result = driver.run(chat.call(max_decode=limit, use_rows=use_rows))
            n_redecoded += result.redecoded
    assert [chat.sampled for chat in chats] == [whole, whole]
    assert (n_redecoded == 0) == use_rows


# -- random lives: calls side by side, cancelled ones, spills, restarts with other threads


@dataclass
class Life:
    """Chats on an engine that may be loaded again at any time, as after a restart."""

    path: Path
    params: dict[str, Any]
    thread: DecodeThread
    engine: Engine | None = None

    async def restart(self, n_threads: int, n_slots: int) -> None:
        if self.engine is not None:
            await self.engine.close()
        params = LoadParams(self.path, n_threads=n_threads, n_slots=n_slots, **self.params)
        self.engine = await Engine.load(params, self.thread)

    async def act(self, chat: Chat, action: str, n: int) -> None:
        assert self.engine is not None
        chat.engine = self.engine
        left = len(chat.prompt) + N_ANSWER - len(chat.sampled)
        if action == "forget":
            self.engine.forget(chat.key or "")
        elif left > 0:
            begun = asyncio.Event()
            if action == "cancel":
                await self._cut_short(asyncio.create_task(chat.call(on_tokens=lambda _: begun.set())), begun)
            else:
                limit = min(n, left)
                await chat.call(max_decode=limit, use_rows=action != "call from tokens")

    async def _cut_short(self, task: asyncio.Task[GenerateResult], begun: asyncio.Event) -> None:
        """At its first token, unless it is over by then: that is as good."""
        first = asyncio.create_task(begun.wait())
        await asyncio.wait({task, first}, return_when=asyncio.FIRST_COMPLETED)
        for each in (task, first):
            each.cancel()
        await asyncio.gather(task, first, return_exceptions=True)


ACTIONS = ("call", "call", "call", "call from tokens", "cancel", "forget")
rounds = st.lists(
    st.dictionaries(st.integers(0, 3), st.tuples(st.sampled_from(ACTIONS), st.integers(1, 25)), min_size=1)
    | st.tuples(st.integers(1, 2), st.integers(1, 4)),
    max_size=12,
)


@pytest.mark.parametrize("model", [*MODELS, "q4_k_m"])
def test_whatever_happens_to_a_chat(model_path: Callable[[str], Path], tmp_path: Path, model: str) -> None:
    """Its tokens are those that it gets alone in one call, on one thread."""
    thread = DecodeThread()
    # An id, so that what was measured is known from the second time on.
    params = {"n_ctx": 200, "model_id": model.encode(), "calibration_file": tmp_path / "engine.json", "exact": "on"}
    life = Life(model_path(model), params, thread)

    @settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
    @given(
        prompts=st.lists(prompts, min_size=4, max_size=4),
        sampling=st.just(ENDLESS) | samplings,
        rounds=rounds,
    )
    def check(prompts: list[list[int]], sampling: SamplingParams, rounds: list[Any]) -> None:
        async def play() -> None:
            sampling_ = replace(sampling, ignore_eos=True)
            await life.restart(1, 1)
            chats, alone = [], []
            for n, prompt in enumerate(prompts):
                assert life.engine is not None
                defaults = replace(NOTHING, sampling=sampling_, seed=n, caller=f"caller {n}")
                alone.append(await Chat(life.engine, None, defaults).answer(prompt, N_ANSWER))
                chats.append(Chat(life.engine, f"chat {n}", defaults, prompt=[*prompt]))
            for each in rounds:
                if isinstance(each, dict):
                    await asyncio.gather(*(life.act(chats[n], action, many) for n, (action, many) in each.items()))
                else:
                    await life.restart(*each)
            await asyncio.gather(*(life.act(chat, "call", 10**6) for chat in chats))
            assert [chat.sampled[:N_ANSWER] for chat in chats] == alone

        async def play_and_close() -> None:
            try:
                await play()
            finally:
                assert life.engine is not None
                await life.engine.close()
                life.engine = None

        asyncio.run(play_and_close())

    check()
    thread.close()


@pytest.mark.parametrize("model", ["f16", "q4_0", "q4_k_m"])
def test_eight_side_by_side_where_rows_are_capped(drive: Drive, model: str) -> None:
    driver = drive(model, n_slots=8, n_ctx=200, exact="on")

    def chat(seed: int, key: str | None) -> Chat:
        return driver.chat(key, sampling=ENDLESS, seed=seed)

    alone = [driver.run(chat(seed, None).answer(some_prompt(seed, 3 + 5 * seed), N_ANSWER)) for seed in range(8)]
    together = driver.together(
        *(chat(seed, f"k{seed}").answer(some_prompt(seed, 3 + 5 * seed), N_ANSWER, [seed + 1] * 9) for seed in range(8))
    )
    assert together == alone


def test_the_number_of_threads_changes_no_bits(drive: Drive) -> None:
    found = []
    for n_threads in (1, 2):
        driver = drive("q8_0", n_slots=2, n_ctx=200, n_threads=n_threads)
        chat = driver.chat("k", sampling=ENDLESS)
        driver.run(chat.answer(some_prompt(1, 100), N_ANSWER, [50, 21, 3]))
        found.append((chat.sampled, state_of(driver, chat)))
    assert found[0] == found[1]


@pytest.mark.nightly
@pytest.mark.parametrize("model", MODELS)
def test_cut_calls_equal_one_call_at_length(drive: Drive, model: str) -> None:
    driver = drive(model, n_slots=4, n_ctx=400)

    @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
    @given(
        turns=st.lists(st.tuples(prompts, st.lists(st.integers(1, 20), max_size=40)), min_size=2, max_size=4),
        sampling=samplings,
        seed=st.integers(0, 2**64 - 1),
        use_rows=st.booleans(),
    )
    def check(turns: list[tuple[list[int], list[int]]], sampling: SamplingParams, seed: int, use_rows: bool) -> None:
        same = {"sampling": sampling, "seed": seed}
        whole, cut, noise = driver.chat("whole", **same), driver.chat("cut", **same), driver.chat("noise")

        async def play() -> None:
            for prompt, cuts in turns:
                other = asyncio.create_task(noise.answer(prompt[::-1], 30))
                answers = await asyncio.gather(
                    whole.answer(prompt, N_ANSWER), cut.answer(prompt, N_ANSWER, cuts, use_rows=use_rows)
                )
                assert answers[0] == answers[1]
                await other
                driver.engine.forget("cut")

        driver.run(play())
        for key in ("whole", "cut", "noise"):
            driver.engine.forget(key)

    check()
