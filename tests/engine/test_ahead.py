"""Calls that go on with one prompt: what is decoded ahead of them, how time ends them, and what a cancel leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from canister.engine.request import Ahead, GenerateResult
from canister.flags.params import SamplingParams
from tests.engine.driver import Chat, Driver
from tests.engine.test_batch_invariance import some_prompt
from tests.traces import until

Drive = Callable[..., Driver]

DRAWN = SamplingParams(temperature=1.5, ignore_eos=True)
N = 400
NO_TIME = 1e-9


def alone(driver: Driver) -> list[int]:
    """What one call for all of it samples."""
    return driver.run(driver.chat(None, sampling=DRAWN).call(some_prompt(1, N), n_predict=20)).sampled


async def until_idle(driver: Driver) -> None:
    await until(lambda: not driver.engine.stats().n_running + driver.engine.stats().n_waiting)


@pytest.mark.parametrize("model", ["q8_0", "f32"])
def test_what_is_decoded_ahead_is_handed_out_by_the_calls_that_come(drive: Drive, model: str) -> None:
    driver = drive(model, n_slots=2, n_ctx=512)
    expected = alone(driver)
    n_before = driver.engine.stats().n_prompt_tokens
    ahead, chat = Ahead(), driver.chat("k", sampling=DRAWN)

    async def chain() -> list[GenerateResult]:
        results = [await chat.call(some_prompt(1, N), max_decode=50, ahead=ahead)]
        await until_idle(driver)
        while chat.prompt:
            results.append(await chat.call(max_decode=50, ahead=ahead))
        while len(chat.sampled) < 20:
            results.append(await chat.call(max_decode=50, ahead=ahead))
        return results

    results = driver.run(chain())
    assert driver.engine.stats().n_prompt_tokens - n_before == N + 1  # each once, BOS included
    assert [result.n_prompt_decoded for result in results if result.n_prompt_decoded] == [50] * 8 + [1]
    assert all(result.prompt_seconds == 0 for result in results[1:])
    assert chat.sampled[:20] == expected
    copy = chat.copy("l")
    driver.engine.forget("k")
    restored = driver.run(copy.call(n_predict=1, caller="another"))
    assert restored.redecoded <= 1  # all others from the rows that were handed out


def test_nothing_is_decoded_ahead_that_nobody_will_ask_for(drive: Drive) -> None:
    driver = drive("q8_0", n_slots=2, n_ctx=512)

    async def over(ahead: Ahead | None) -> int:
        n_before = driver.engine.stats().n_prompt_tokens
        chat = driver.chat(f"k{n_before}", sampling=DRAWN)
        await chat.call(some_prompt(n_before, N), max_decode=50, ahead=ahead)
        await until_idle(driver)
        return driver.engine.stats().n_prompt_tokens - n_before

    assert driver.run(over(None)) == 50
    assert driver.run(over(Ahead(is_over=True))) == 50
    assert driver.run(over(Ahead())) == N + 1


def test_who_waits_for_a_slot_gets_that_of_what_is_decoded_ahead(drive: Drive) -> None:
    driver = drive("q8_0", n_slots=1, n_ctx=512)

    async def work() -> None:
        chat, other = driver.chat("k", sampling=DRAWN), driver.chat("l", sampling=DRAWN)
        await chat.call(some_prompt(1, N), max_decode=2, ahead=Ahead(), seconds=NO_TIME)
        await other.call(some_prompt(2, 9), n_predict=2)
        await until_idle(driver)

    driver.run(work())


@pytest.mark.parametrize("is_ahead", [False, True])
def test_time_ends_a_call_that_has_done_something(drive: Drive, is_ahead: bool) -> None:
    driver = drive("q8_0", n_slots=2, n_ctx=512)
    expected = alone(driver)
    chat = driver.chat("k", sampling=DRAWN)
    ahead = Ahead() if is_ahead else None
    results: list[GenerateResult] = []
    while len(chat.sampled) < 20:
        results.append(driver.run(chat.call(some_prompt(1, N) if not results else (), seconds=NO_TIME, ahead=ahead)))
        assert results[-1].finish == "time"
        assert results[-1].n_prompt_decoded or results[-1].n_generated
    assert len(results) > 20
    assert chat.sampled[:20] == expected
    assert sum(result.n_prompt_decoded for result in results) == N + 1


class Batches:
    """A budget that lets everything pass, and keeps what of a prompt was decoded."""

    def __init__(self) -> None:
        self.batches: list[tuple[int, int]] = []

    def admit_prompt(self, position: int, n_wanted: int) -> int:
        self.batches.append((position, n_wanted))
        return n_wanted

    def admit_sample(self, position: int) -> bool:
        return True

    def admit_decode(self, position: int) -> bool:
        return True

    def cut_prompt(self, batches: list[tuple[int, int]]) -> None:
        self.batches = batches


def test_of_a_prompt_that_time_cuts_only_what_was_decoded_is_counted(drive: Drive) -> None:
    driver = drive("q8_0", n_slots=2, n_ctx=512, n_batch=100)
    chat, counted = driver.chat("k", sampling=DRAWN), list[tuple[int, int]]()
    while chat.prompt or not chat.tokens:
        budget = Batches()
        n_before = len(chat.tokens)
        result = driver.run(chat.call(() if chat.tokens else some_prompt(1, N), seconds=NO_TIME, budget=budget))
        assert budget.batches[0][0] == n_before
        assert [n for _, n in budget.batches] == result.prompt_chunks
        counted += budget.batches
    assert sum(n for _, n in counted) == N + 1


def test_of_a_cancelled_call_of_a_chain_the_prompt_need_not_be_decoded_again(drive: Drive) -> None:
    driver = drive("q8_0", n_slots=2, n_ctx=512)
    expected = alone(driver)
    chat, ahead = driver.chat("k", sampling=DRAWN), Ahead()

    async def cancelled(chat: Chat) -> None:
        n_before = driver.engine.stats().n_row_steps
        call = asyncio.create_task(chat.call(some_prompt(1, N), ahead=ahead))
        await until(lambda: driver.engine.stats().n_row_steps > n_before)
        call.cancel()
        await asyncio.wait([call])

    driver.run(cancelled(chat))
    n_before = driver.engine.stats().n_prompt_tokens
    chat.prompt = []
    again = driver.run(chat.call(some_prompt(1, N), n_predict=20))
    assert again.sampled == expected
    assert again.n_prompt_decoded == N + 1
    assert driver.engine.stats().n_prompt_tokens - n_before <= 1
