"""Calls that go on with one prompt: what is decoded ahead of them, how time ends them, and what a cancel leaves."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import pytest

from canister.engine.ahead import n_lookahead
from canister.engine.llama import Context
from canister.engine.request import Ahead, GenerateResult
from canister.flags.params import SamplingParams
from tests.engine.driver import PATIENCE_SECONDS, Chat, Driver, Turnstile, cancel
from tests.engine.test_batch_invariance import some_prompt
from tests.traces import until

Drive = Callable[..., Driver]

Turn = Callable[[Driver, Chat], Awaitable[list[int]]]

DRAWN = SamplingParams(temperature=1.5, ignore_eos=True)
PENALIZED = SamplingParams(temperature=1.5, ignore_eos=True, repeat_penalty=1.2, dry_multiplier=0.8)
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


@pytest.mark.parametrize("of", ["the same prompt", "another"])
def test_rows_that_are_there_are_handed_out_beside_a_decode(
    drive: Drive, monkeypatch: pytest.MonkeyPatch, of: str
) -> None:
    """Calls get what was decoded ahead of them while the decode thread is held up in a decode."""
    driver = drive("q8_0", n_slots=2, n_ctx=512)
    if not driver.engine._core.runner.reads_rows:  # type: ignore[union-attr]
        pytest.skip("KV rows cannot be read in place here")
    expected = alone(driver)
    n_before = driver.engine.stats().n_prompt_tokens
    ahead, chat, other = Ahead(), driver.chat("k", sampling=DRAWN), driver.chat("l", sampling=DRAWN)
    decode, is_held, go_on = Context.decode, threading.Event(), threading.Event()

    def held(context: Context, streams: Sequence[int], *rest: Sequence[int]) -> None:
        if len(streams) > 50 and (of == "another" or driver.engine.stats().n_prompt_tokens - n_before >= 250):
            is_held.set()
            assert go_on.wait(60)
        decode(context, streams, *rest)

    async def chain() -> None:
        if of == "another":
            await chat.call(some_prompt(1, N), max_decode=50, ahead=ahead)
            await until_idle(driver)
            monkeypatch.setattr(Context, "decode", held)
            decoding = asyncio.create_task(other.call(some_prompt(2, 200), n_predict=1))
        else:
            monkeypatch.setattr(Context, "decode", held)
            decoding = asyncio.create_task(chat.call(some_prompt(1, N), max_decode=50, ahead=ahead))
            await decoding
        assert await asyncio.to_thread(is_held.wait, 60)
        for _ in range(4):
            result = await chat.call(max_decode=50, ahead=ahead)
            assert (result.n_prompt_decoded, result.finish, result.redecoded) == (50, "length", 0)
        go_on.set()
        await decoding
        while len(chat.sampled) < 20:
            await chat.call(max_decode=50, ahead=ahead)

    driver.run(chain())
    assert chat.sampled[:20] == expected
    assert driver.engine.stats().n_prompt_tokens - n_before == N + 1 + (201 if of == "another" else 0)
    copy = chat.copy("m")
    driver.engine.forget("k")
    restored = driver.run(copy.call(n_predict=1, caller="another caller"))
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
        budget = Held(3)
        call = asyncio.create_task(chat.call(some_prompt(1, N), ahead=ahead, budget=budget))
        await until(budget.is_reached.is_set)
        await cancel(call)
        budget.may_go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await call

    driver.run(cancelled(chat))
    n_before = driver.engine.stats().n_prompt_tokens
    chat.prompt = []
    again = driver.run(chat.call(some_prompt(1, N), n_predict=20))
    assert again.sampled == expected
    assert again.n_prompt_decoded == N + 1
    assert driver.engine.stats().n_prompt_tokens - n_before <= 1


# -- tokens of an answer


class Limited:
    """A budget that lets a call sample so many tokens."""

    def __init__(self, n: int) -> None:
        self._n = n

    def admit_prompt(self, position: int, n_wanted: int) -> int:
        return n_wanted

    def admit_sample(self, position: int) -> bool:
        self._n -= 1
        return self._n >= 0

    def admit_decode(self, position: int) -> bool:
        return True

    def cut_prompt(self, batches: list[tuple[int, int]]) -> None:
        raise AssertionError


class Held(Limited):
    """Holds a call at its last token."""

    def __init__(self, n: int) -> None:
        super().__init__(n)
        self.is_reached, self.may_go_on = threading.Event(), threading.Event()

    def admit_sample(self, position: int) -> bool:
        admitted = super().admit_sample(position)
        if self._n == 0:
            self.is_reached.set()
            assert self.may_go_on.wait(PATIENCE_SECONDS)
        return admitted


def draws_of(chat: Chat) -> int:
    assert chat.last is not None
    return chat.last.n_draws


BOUND = SamplingParams(temperature=1.5, grammar='root ::= "a"+ ("b" | "c")+', ignore_eos=True)


@pytest.mark.parametrize("sampling", [DRAWN, PENALIZED, BOUND], ids=["drawn", "penalized", "bound"])
@pytest.mark.parametrize("model", ["q8_0", "f32"])
def test_an_answer_goes_on_between_its_calls(drive: Drive, model: str, sampling: SamplingParams) -> None:
    """What was decoded meanwhile is handed out, charged and told by the next call, and decoded once."""
    driver = drive(model, n_slots=2, n_ctx=512)
    prompt = some_prompt(1, 30)
    expected = driver.run(driver.chat(None, sampling=sampling).call(prompt, n_predict=31)).sampled
    n_before = driver.engine.stats().n_rows
    ahead, chat = Ahead(), driver.chat("k", sampling=sampling)
    told: list[int] = []

    async def chain() -> None:
        while len(chat.sampled) < 30:
            first = chat.prompt or prompt if not chat.tokens else ()
            more = {"n_draws": draws_of(chat), "n_continued": len(chat.sampled)} if chat.tokens else {}
            result = await chat.call(
                first, budget=Limited(5), ahead=ahead, on_tokens=lambda new: told.extend(t.token for t in new), **more
            )
            assert (result.finish, result.n_generated) == ("instructions", 5)
            await until_idle(driver)

    driver.run(chain())
    assert told == chat.sampled == expected[:30]
    n_ahead = n_lookahead(driver.engine.info.n_vocab) - 1
    assert n_ahead == 15
    assert driver.engine.stats().n_rows - n_before == 5 + 2 * n_ahead  # five are left; all others were decoded once
    copy = chat.copy("l")
    driver.engine.forget("k")
    restored = driver.run(copy.call(n_predict=1, caller="another"))
    assert restored.redecoded <= 1  # all rows were handed out


async def begun(driver: Driver, chat: Chat, ahead: Ahead) -> None:
    """A call of five tokens, and what is decoded after it."""
    await chat.call(some_prompt(1, 40), budget=Limited(5), ahead=ahead)
    await until_idle(driver)
    assert driver.engine.stats().n_row_steps > 5


async def another_seed(driver: Driver, chat: Chat) -> list[int]:
    return (await chat.call(n_predict=20, seed=7)).sampled


async def cancelled(driver: Driver, chat: Chat) -> list[int]:
    with Turnstile(driver.engine, 3) as turnstile:
        call = asyncio.create_task(chat.call())
        await turnstile.reached()
        await cancel(call)
    with pytest.raises(asyncio.CancelledError):
        await call
    return (await chat.call(n_predict=20)).sampled


async def out_of_its_slot(driver: Driver, chat: Chat) -> list[int]:
    for name in "xyz":
        await driver.chat(name).call(some_prompt(3, 9), n_predict=1)
    return (await chat.call(n_predict=20)).sampled


async def a_query_between(driver: Driver, chat: Chat) -> list[int]:
    await chat.call([], keep=False, n_predict=3)
    return (await chat.call(n_predict=20)).sampled


async def a_short_call(driver: Driver, chat: Chat) -> list[int]:
    one = await chat.call(budget=Limited(1))
    return [*one.sampled, *(await chat.call(n_predict=19)).sampled]


async def another_prompt(driver: Driver, chat: Chat) -> list[int]:
    return (await chat.call(some_prompt(5, 3), n_predict=20)).sampled


async def from_another_chat(driver: Driver, chat: Chat) -> list[int]:
    twin = chat.copy("twin")
    return (await twin.call(n_predict=20, caller=chat.defaults.caller)).sampled


@pytest.mark.parametrize(
    "other_turn",
    [another_seed, cancelled, out_of_its_slot, a_query_between, a_short_call, another_prompt, from_another_chat],
)
@pytest.mark.parametrize("is_over", [False, True])
def test_who_does_not_want_the_tokens_does_not_get_them(drive: Drive, other_turn: Turn, is_over: bool) -> None:
    """Whatever comes next gives the same as where nothing was decoded ahead."""
    driver = drive("q8_0", n_slots=2, n_ctx=512)
    found: list[list[int]] = []
    for key in ("k", "l"):
        ahead, chat = Ahead(), driver.chat(key, sampling=DRAWN)

        async def work(chat: Chat = chat, ahead: Ahead = ahead, key: str = key) -> None:
            await begun(driver, chat, ahead if key == "k" else Ahead(is_over=True))
            ahead.is_over = is_over
            found.append(await other_turn(driver, chat))
            for name in "mno":  # the slots are sound
                assert (await driver.chat(name).call(some_prompt(3, 9), n_predict=3)).n_generated == 2

        driver.run(work())
    assert found[0] == found[1]


def test_an_answer_that_is_over_is_not_gone_on_with(drive: Drive) -> None:
    driver = drive("q8_0", n_slots=2, n_ctx=512)

    def rows(**changes: object) -> int:
        n_before = driver.engine.stats().n_rows

        async def work() -> None:
            await driver.chat("k", sampling=DRAWN).call(some_prompt(1, 9), **changes)
            await until_idle(driver)

        driver.run(work())
        driver.engine.forget("k")
        return driver.engine.stats().n_rows - n_before

    assert rows(ahead=Ahead(), n_predict=5) == 4
    assert rows(ahead=Ahead(), n_predict=7, budget=Limited(5)) == 6
    assert rows(ahead=Ahead(is_over=True), budget=Limited(5)) == 5
    assert rows(budget=Limited(5)) == 5


# -- of calls that nobody has announced


class Endless:
    """A budget that lets everything pass until it is over."""

    def __init__(self) -> None:
        self.is_over = False

    def admit_prompt(self, position: int, n_wanted: int) -> int:
        return n_wanted

    def admit_sample(self, position: int) -> bool:
        return not self.is_over

    def admit_decode(self, position: int) -> bool:
        return True

    def cut_prompt(self, batches: list[tuple[int, int]]) -> None:
        raise AssertionError


@asynccontextmanager
async def a_neighbour(driver: Driver) -> AsyncIterator[None]:
    """Another chat has a row in every step."""
    budget, has_begun = Endless(), asyncio.Event()
    chat = driver.chat(None, sampling=DRAWN)
    call = asyncio.create_task(
        chat.call(some_prompt(7, 9), budget=budget, context_shift=True, on_tokens=lambda _: has_begun.set())
    )
    await has_begun.wait()
    yield
    budget.is_over = True
    await call


@pytest.fixture
def rows_of(monkeypatch: pytest.MonkeyPatch) -> Counter[int]:
    """How many rows each stream has had, in all decodes."""
    rows, decode = Counter[int](), Context.decode

    def counted(context: Context, streams: Sequence[int], *rest: Sequence[int]) -> None:
        decode(context, streams, *rest)
        rows.update(streams)

    monkeypatch.setattr(Context, "decode", counted)
    return rows


@pytest.mark.parametrize("sampling", [DRAWN, PENALIZED], ids=["drawn", "penalized"])
def test_a_client_that_goes_on_beside_other_chats_misses_no_step(
    drive: Drive, rows_of: Counter[int], sampling: SamplingParams
) -> None:
    """The token behind each call is decoded before the next call, once, and is what the answer has without that."""
    driver = drive("q8_0", n_slots=2, n_ctx=512)
    prompt = some_prompt(1, 30)
    expected = driver.run(driver.chat(None, sampling=sampling).call(prompt, n_predict=26)).sampled
    chat = driver.chat("k", sampling=sampling)

    async def work() -> None:
        await chat.call(prompt, budget=Limited(5))
        stream = driver.engine._core._slot_table.slot_of("k").stream  # type: ignore[union-attr]
        async with a_neighbour(driver):
            before = rows_of[stream]
            for n in range(1, 5):
                result = await chat.call(max_decode=5)
                assert (result.finish, result.n_generated, result.redecoded) == ("length", 5, 0)
                await until(lambda: driver.engine.stats().n_running + driver.engine.stats().n_waiting == 1)
                assert rows_of[stream] - before == 5 * n + 1

    driver.run(work())
    assert chat.sampled == expected[:25]
    copy = chat.copy("l")
    driver.engine.forget("k")
    restored = driver.run(copy.call(n_predict=1, caller="another"))
    assert restored.redecoded <= 1  # all rows were handed out


async def a_first_call(driver: Driver, chat: Chat) -> None:
    async with a_neighbour(driver):
        await chat.call(some_prompt(1, 30), max_decode=5 + 31)


async def alone_in_its_steps(driver: Driver, chat: Chat) -> None:
    await chat.call(some_prompt(1, 30), budget=Limited(5))
    await chat.call(max_decode=5)


async def one_that_is_not_kept(driver: Driver, chat: Chat) -> None:
    await chat.call(some_prompt(1, 30), budget=Limited(5))
    async with a_neighbour(driver):
        await chat.call(max_decode=5, keep=False, want_rows=False)


async def one_that_has_all_it_asked_for(driver: Driver, chat: Chat) -> None:
    await chat.call(some_prompt(1, 30), budget=Limited(5))
    async with a_neighbour(driver):
        await chat.call(n_predict=5)


@pytest.mark.parametrize(
    "call", [a_first_call, alone_in_its_steps, one_that_is_not_kept, one_that_has_all_it_asked_for]
)
def test_nothing_is_decoded_for_a_call_that_may_not_come(
    drive: Drive, call: Callable[[Driver, Chat], Awaitable[None]]
) -> None:
    driver = drive("q8_0", n_slots=2, n_ctx=512)
    chat = driver.chat("k", sampling=DRAWN)

    async def work() -> None:
        await call(driver, chat)
        await until_idle(driver)

    driver.run(work())
    slot = driver.engine._core._slot_table.slot_of("k")  # type: ignore[union-attr]
    assert slot is not None
    assert slot.ahead is None


def test_nothing_is_decoded_of_a_chat_that_is_forgotten(drive: Drive, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither is what was to be decoded behind its last call: that would decode all of it again."""
    driver = drive("q8_0", n_slots=2, n_ctx=512)
    chat = driver.chat("k", sampling=DRAWN)
    decode = Context.decode
    is_last = False
    rows = list[int]()

    def forgetting(context: Context, streams: Sequence[int], *rest: Sequence[int]) -> None:
        nonlocal is_last
        if is_last and len(streams) == 2:
            driver.engine.forget("k")  # while the last token of its call is decoded
            is_last = False
        rows.append(len(streams))
        decode(context, streams, *rest)

    async def work() -> None:
        nonlocal is_last
        await chat.call(some_prompt(1, 30), budget=Limited(5))
        async with a_neighbour(driver):
            monkeypatch.setattr(Context, "decode", forgetting)
            is_last = True
            await chat.call(max_decode=1)
            await until(lambda: driver.engine.stats().n_running + driver.engine.stats().n_waiting == 1)

    driver.run(work())
    assert not is_last
    assert max(rows) <= 2  # one of each chat


async def beside_others(driver: Driver, chat: Chat) -> None:
    await chat.call(some_prompt(1, 40), budget=Limited(5))
    async with a_neighbour(driver):
        await chat.call(max_decode=5)
        await until(lambda: driver.engine.stats().n_running + driver.engine.stats().n_waiting == 1)


async def not_beside_others(driver: Driver, chat: Chat) -> None:
    await chat.call(some_prompt(1, 40), budget=Limited(5))
    await chat.call(max_decode=5)


@pytest.mark.parametrize(
    "other_turn",
    [another_seed, cancelled, out_of_its_slot, a_query_between, a_short_call, another_prompt, from_another_chat],
)
def test_a_wrong_guess_changes_nothing(drive: Drive, other_turn: Turn) -> None:
    driver = drive("q8_0", n_slots=2, n_ctx=512)
    found: list[list[int]] = []
    for key, begin in ("k", beside_others), ("l", not_beside_others):
        chat = driver.chat(key, sampling=DRAWN)

        async def work(chat: Chat = chat, begin: Callable[..., Awaitable[None]] = begin, key: str = key) -> None:
            await begin(driver, chat)
            slot = driver.engine._core._slot_table.slot_of(key)  # type: ignore[union-attr]
            assert slot is not None
            assert (slot.ahead is not None) == (begin is beside_others)
            found.append(await other_turn(driver, chat))

        driver.run(work())
    assert found[0] == found[1]
