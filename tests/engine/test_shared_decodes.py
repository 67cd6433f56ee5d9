"""Prompts of several chats in one decode, and rows beside each other: no chat's bits change."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from canister.engine import chunk_decodes
from canister.engine.batch_invariance import CHUNK_RULES, PLAIN, ChunkRule, Kernels, Policy, joins_prompts
from canister.engine.llama import Context
from canister.engine.llama_types import DecodeAborted
from canister.engine.schedule.scheduler import Scheduler, Step
from canister.engine.task import Task
from canister.flags.params import SamplingParams
from tests.engine.driver import Chat, Driver
from tests.engine.test_batch_invariance import some_prompt, state_of
from tests.traces import until

Drive = Callable[..., Driver]

ENDLESS = SamplingParams(temperature=1.5, ignore_eos=True)
N_ANSWER = 12


@pytest.fixture
def decodes(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The streams of the rows of each decode."""
    found: list[list[int]] = []
    decode = Context.decode

    def noted(self: Context, streams: Sequence[int], *rest: Sequence[int]) -> None:
        found.append([*streams])
        decode(self, streams, *rest)

    monkeypatch.setattr(Context, "decode", noted)
    return found


def together(driver: Driver, chats: Sequence[Chat], prompts: Sequence[list[int]], n: int = N_ANSWER) -> list[list[int]]:
    """They come before a step is made."""
    return driver.together(*(chat.answer(prompt, n) for chat, prompt in zip(chats, prompts, strict=True)))


@pytest.mark.parametrize("model", ["q8_0", "chat", "f32"])
def test_prompts_that_share_decodes_give_the_bits_of_each_alone(drive: Drive, model: str) -> None:
    driver = drive(model, n_slots=4, n_ctx=200, exact="on")

    @settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(st.integers(1, 90), min_size=2, max_size=4))
    def check(sizes: list[int]) -> None:
        prompts = [some_prompt(seed, size) for seed, size in enumerate(sizes)]

        def chats(kind: str) -> list[Chat]:
            return [driver.chat(f"{kind} {n}", sampling=ENDLESS, seed=n) for n in range(len(sizes))]

        alone, beside = chats("alone"), chats("beside")
        expected = [driver.run(chat.answer(prompt, N_ANSWER)) for chat, prompt in zip(alone, prompts, strict=True)]
        assert together(driver, beside, prompts) == expected
        for one, other in zip(alone, beside, strict=True):
            assert state_of(driver, other) == state_of(driver, one)
            for chat in (one, other):
                driver.engine.forget(chat.key or "")

    check()


def test_a_stream_between_two_rows_gets_a_row(drive: Drive, decodes: list[list[int]]) -> None:
    """A gap would be another pass over the weights. What is put there is taken back."""
    driver = drive("q8_0", n_slots=4, n_ctx=300)
    chats = [driver.chat(f"k{n}", sampling=ENDLESS, seed=n) for n in range(4)]
    prompts = [some_prompt(n, 10 + n) for n in range(4)]
    expected = [driver.run(driver.chat(None, sampling=ENDLESS, seed=n).answer(prompts[n], 60)) for n in range(4)]
    decodes.clear()
    driver.together(*(chat.answer(prompts[n], 30 if n == 1 else 60) for n, chat in enumerate(chats)))
    at = {stream for streams in decodes for stream in streams}
    assert at == {0, 1, 2, 3}
    rows = [streams for streams in decodes if len(set(streams)) == len(streams) >= 3]
    assert rows
    assert all(streams == [*range(min(streams), max(streams) + 1)] for streams in rows)
    driver.run(chats[1].answer((), 30))
    assert [chat.sampled for chat in chats] == expected


def test_a_long_chat_between_two_short_ones_is_left_out(drive: Drive, decodes: list[list[int]]) -> None:
    driver = drive("q8_0", n_slots=3, n_ctx=700)
    long = driver.chat("long")
    chats = [driver.chat(f"k{n}", sampling=ENDLESS) for n in range(2)]
    driver.run(chats[0].call(some_prompt(0, 9), n_predict=0))
    driver.run(long.call(some_prompt(1, 400), n_predict=0))
    driver.run(chats[1].call(some_prompt(2, 9), n_predict=0))
    decodes.clear()
    driver.together(*(chat.answer((), 9) for chat in chats))
    assert {len(streams) for streams in decodes} <= {1, 2}


RULED = Kernels(((1, 2, 3),), CHUNK_RULES[0], ((1,), (2,)), True, side_by_side=True)


@pytest.mark.parametrize(
    ("policy", "kernels", "expected"),
    [
        (Policy(True, "", False, chunk=CHUNK_RULES[0]), RULED, True),
        (Policy(False, "", False, chunk=CHUNK_RULES[0]), RULED, True),
        (Policy(True, "", False, chunk=CHUNK_RULES[0]), None, False),
        (Policy(False, "", True, repeats_cut=True), RULED, False),
        (Policy(True, "", False, chunk=ChunkRule(1, 3)), RULED, False),
        (Policy(True, "", False, chunk=PLAIN), RULED, False),
        (Policy(True, "", False, chunk=CHUNK_RULES[0]), Kernels(((1, 2),), CHUNK_RULES[0], (), True), False),
    ],
)
def test_who_may_share(policy: Policy, kernels: Kernels | None, expected: bool) -> None:
    assert joins_prompts(policy, kernels) == expected


class Held:
    """The first decode waits until it may go on. found: the streams of each decode; none of one that was broken off."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun, self._go_on = threading.Event(), threading.Event()
        self.found: list[list[int]] = []
        decode = Context.decode

        def held(context: Context, streams: Sequence[int], *rest: Sequence[int]) -> None:
            if not self.begun.is_set():
                self.begun.set()
                assert self._go_on.wait(60)
            try:
                decode(context, streams, *rest)
            except DecodeAborted:
                self.found.append([])
                raise
            self.found.append([*streams])

        monkeypatch.setattr(Context, "decode", held)

    async def together(
        self, driver: Driver, first: tuple[Chat, list[int]], *others: tuple[Chat, list[int]]
    ) -> list[list[int]]:
        """The answers, where the others come while the first prompt is decoded."""
        self.begun.clear()
        self._go_on.clear()
        self.found.clear()
        tasks = [asyncio.create_task(first[0].answer(first[1], N_ANSWER))]
        assert await asyncio.to_thread(self.begun.wait, 60)
        tasks += [asyncio.create_task(chat.answer(prompt, N_ANSWER)) for chat, prompt in others]
        await until(lambda: driver.engine._thread._inbox.qsize() == len(others))  # they are submitted
        self._go_on.set()
        return list(await asyncio.gather(*tasks))


@pytest.fixture
def joined(drive: Drive) -> Driver:
    driver = drive("q8_0", n_slots=4, n_ctx=300)
    if not driver.engine._core.runner._traits.joins_prompts:
        pytest.skip("prompts of several streams have other bits on this processor")
    return driver


def test_equal_prompts_take_as_many_decodes_as_one(joined: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = [some_prompt(n, 40) for n in range(4)]
    expected = [joined.run(joined.chat(None, sampling=ENDLESS).answer(prompt, N_ANSWER)) for prompt in prompts]
    held = Held(monkeypatch)
    monkeypatch.setattr(chunk_decodes, "JOIN_SHARE", 1e9)
    chats = [(joined.chat(f"k{n}", sampling=ENDLESS), prompt) for n, prompt in enumerate(prompts)]
    assert joined.run(held.together(joined, *chats)) == expected
    assert held.found[0] == []  # the first one is begun anew
    assert held.found[1] == [stream for stream in range(4) for _ in prompts[0]]


def test_a_prompt_that_comes_at_once_shares_the_decode_that_has_just_begun(
    joined: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What has begun is broken off, unless it has gone on for a while."""
    prompts = [some_prompt(n, 60) for n in range(2)]
    expected = [joined.run(joined.chat(None, sampling=ENDLESS).answer(prompt, N_ANSWER)) for prompt in prompts]
    held = Held(monkeypatch)

    def two(key: str) -> list[list[int]]:
        chats = [(joined.chat(f"{key} {n}", sampling=ENDLESS), prompt) for n, prompt in enumerate(prompts)]
        return joined.run(held.together(joined, *chats))

    monkeypatch.setattr(chunk_decodes, "JOIN_SHARE", 1e9)
    assert two("at once") == expected
    assert held.found[0] == []
    assert len(set(held.found[1])) == 2
    monkeypatch.setattr(chunk_decodes, "JOIN_SHARE", 0.0)
    assert two("too late") == expected
    assert len(set(held.found[0])) == 1


def test_a_prompt_that_comes_before_the_decode_has_begun_shares_it(
    joined: Driver, monkeypatch: pytest.MonkeyPatch, decodes: list[list[int]]
) -> None:
    """Between the choice of who is in the next decode and its begin."""
    prompts = [some_prompt(n, 50) for n in range(2)]
    expected = [joined.run(joined.chat(None, sampling=ENDLESS).answer(prompt, N_ANSWER)) for prompt in prompts]
    chats = [joined.chat(f"k{n}", sampling=ENDLESS) for n in range(2)]
    is_scheduled, goes_on = threading.Event(), threading.Event()
    schedule = Scheduler.schedule

    def held(scheduler: Scheduler[Task]) -> Step[Task]:
        step = schedule(scheduler)
        if not is_scheduled.is_set():
            is_scheduled.set()
            assert goes_on.wait(60)
        return step

    async def come() -> list[list[int]]:
        first = asyncio.create_task(chats[0].answer(prompts[0], N_ANSWER))
        assert await asyncio.to_thread(is_scheduled.wait, 60)
        second = asyncio.create_task(chats[1].answer(prompts[1], N_ANSWER))
        await until(lambda: joined.engine._thread._inbox.qsize() == 1)  # it is submitted
        goes_on.set()
        return [await first, await second]

    monkeypatch.setattr(chunk_decodes, "JOIN_SHARE", 1e9)
    monkeypatch.setattr(Scheduler, "schedule", held)
    decodes.clear()
    assert joined.run(come()) == expected
    assert (len(set(decodes[0])), len(decodes[0])) == (2, 2 * len(prompts[0]))
