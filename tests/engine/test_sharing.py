"""Calls that start from states of other conversations, or from their own that was parked: the same bits as alone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from canister.engine.kv.reuse import Sources
from canister.engine.kv.slots import MIN_SHARED
from tests.engine.driver import GREEDY, Chat, Driver
from tests.engine.test_batch_invariance import SAMPLED, some_prompt, state_of

Drive = Callable[..., Driver]

SYSTEM = some_prompt(1, 80)  # 81 tokens with BOS
ENDLESS = replace(SAMPLED, ignore_eos=True)


def sources(driver: Driver) -> Sources:
    return driver.engine.stats().sources


def chat_of(driver: Driver, key: str, caller: str = "me") -> Chat:
    return driver.chat(key, caller=caller, sampling=ENDLESS)


def alone(driver: Driver, *turns: list[int], n_tokens: int = 10) -> Chat:
    """The same chat, of somebody who has no other; forgotten afterwards."""
    chat = chat_of(driver, "alone", "nobody else")
    for turn in turns:
        driver.run(chat.answer(turn, n_tokens))
    driver.engine.forget("alone")
    return chat


@pytest.mark.parametrize("model", ["f32", "q8_0"])
def test_from_a_slot_and_from_memory(drive: Drive, model: str) -> None:
    driver = drive(model, n_slots=2, n_ctx=300, ram_bytes=1 << 24)
    first, second, third = (chat_of(driver, name) for name in "abc")
    ends = [some_prompt(i, 20)[1:] for i in range(3)]
    expected = [alone(driver, SYSTEM + end) for end in ends]
    driver.run(first.answer(SYSTEM + ends[0], 10))
    assert sources(driver) == Sources()
    driver.run(second.answer(SYSTEM + ends[1], 10))
    assert sources(driver) == Sources(shared=81)
    for i in range(2):
        driver.run(driver.chat(f"noise {i}").answer(some_prompt(9), 5))
    assert driver.engine.stats().n_parked == 2
    driver.run(third.answer(SYSTEM + ends[2], 10))
    assert sources(driver) == Sources(shared=162)
    driver.run(first.call(n_predict=1))
    assert sources(driver) == Sources(shared=162, memory=len(first.tokens))
    chats = (first, second, third)
    assert [chat.sampled for chat in chats] == [chat.sampled for chat in expected]
    assert [state_of(driver, chat) for chat in chats] == [state_of(driver, chat) for chat in expected]


def test_what_comes_back_from_memory_needs_no_decode(drive: Drive) -> None:
    driver = drive("q8_0", n_slots=1, n_ctx=300, ram_bytes=1 << 24)
    chats = [chat_of(driver, name, name) for name in "ab"]
    for chat in chats:
        driver.run(chat.answer(SYSTEM, 5))
    before = driver.engine.stats()
    for chat in chats:
        assert len(driver.run(chat.call(n_predict=1)).sampled) == 1
    after = driver.engine.stats()
    assert (after.n_rows, after.n_prompt_tokens) == (before.n_rows, before.n_prompt_tokens)


@pytest.mark.parametrize("model", ["gemma", "mamba"])
def test_a_state_that_cannot_be_cut_is_used_whole(drive: Drive, model: str) -> None:
    """A recurrent state; a state that lacks what its sliding window does not reach from the end."""
    driver = drive(model, n_slots=1, n_ctx=300, ram_bytes=1 << 24)
    expected = alone(driver, SYSTEM, some_prompt(2))
    parting = alone(driver, SYSTEM, some_prompt(3))
    n_before = sources(driver).slot
    chat, other = chat_of(driver, "a"), chat_of(driver, "b")
    driver.run(chat.answer(SYSTEM, 10))
    fork = chat.copy("a")
    driver.run(other.answer(SYSTEM + some_prompt(3), 10))
    driver.run(chat.answer(some_prompt(2), 10))
    assert chat.sampled == expected.sampled
    assert sources(driver) == Sources(slot=n_before, memory=91)
    driver.run(other.call(n_predict=1))
    driver.run(fork.answer(some_prompt(3), 10))  # the parked state goes on in another way
    assert fork.sampled == parting.sampled


def test_what_came_back_without_its_beginning_is_not_cut(drive: Drive) -> None:
    driver = drive("gemma", n_slots=1, n_ctx=300, ram_bytes=1 << 24)
    expected = alone(driver, SYSTEM + some_prompt(4))
    chat = chat_of(driver, "a")
    driver.run(chat.answer(SYSTEM, 10))
    driver.run(chat_of(driver, "b").answer(some_prompt(3), 10))
    driver.run(chat.answer([], 5))  # back in the slot
    anew = chat_of(driver, "a")
    driver.run(anew.answer(SYSTEM + some_prompt(4), 10))
    assert anew.sampled == expected.sampled


@pytest.mark.parametrize("where", ["slot", "memory"])
@pytest.mark.parametrize("model", ["f32", "q8_0"])
@pytest.mark.parametrize("granted", [5, 40])
def test_a_prompt_in_pieces_goes_on_from_another_chat_call_by_call(
    drive: Drive, model: str, where: str, granted: int
) -> None:
    """Calls that may decode a few tokens each: what the other chat has is decoded in none of them, nor copied anew."""
    driver = drive(model, n_slots=3 if where == "slot" else 1, n_ctx=300, ram_bytes=1 << 24)
    ends = [some_prompt(i, 20)[1:] for i in range(2)]
    expected = alone(driver, SYSTEM + ends[1])
    first, second = (chat_of(driver, name) for name in "ab")
    driver.run(first.answer(SYSTEM + ends[0], 10))
    before, seen = driver.engine.stats(), sources(driver)
    driver.run(second.answer(SYSTEM + ends[1], 10, cuts=[granted] * 40))
    after = driver.engine.stats()
    assert after.n_prompt_tokens - before.n_prompt_tokens == 20
    assert sources(driver).shared - seen.shared == min(granted, 81)
    assert second.sampled == expected.sampled
    assert state_of(driver, second) == state_of(driver, expected)
    # Each call handed out the rows of the tokens that it was granted, whoever computed them.
    assert [segment.count for segment in second.segments][:2] == [granted, granted]
    again = second.copy("again")
    for key in "ab":
        driver.engine.forget(key)
    driver.run(again.answer([], 5))
    assert driver.engine.stats().n_prompt_tokens == after.n_prompt_tokens
    assert sources(driver).disk - seen.disk == len(second.tokens)


@pytest.mark.parametrize("model", ["gemma", "mamba", "mamba q8_0"])
def test_a_prompt_in_pieces_goes_on_from_a_state_that_cannot_be_cut(drive: Drive, model: str) -> None:
    driver = drive(model, n_slots=2, n_ctx=300, ram_bytes=1 << 24)
    expected = alone(driver, SYSTEM + some_prompt(2))
    first, second = (chat_of(driver, name) for name in "ab")
    driver.run(first.call(SYSTEM, n_predict=0))
    before = driver.engine.stats()
    driver.run(second.answer(SYSTEM + some_prompt(2), 10, cuts=[30] * 9))
    after = driver.engine.stats()
    assert second.sampled == expected.sampled
    # Where another cut gives other bits, a piece of a decode is of no use.
    is_used = not driver.engine.info.policy.repeats_cut
    assert (after.sources.shared > before.sources.shared) is is_used
    n_new = len(some_prompt(2)) if is_used else len(SYSTEM) + len(some_prompt(2))
    assert after.n_prompt_tokens - before.n_prompt_tokens == n_new


def test_a_query_leaves_what_it_found_for_the_calls_that_go_on(drive: Drive) -> None:
    driver = drive("q8_0", n_slots=2, n_ctx=300)
    expected = alone(driver, SYSTEM)
    first, second = (chat_of(driver, name) for name in "ab")
    driver.run(first.answer(SYSTEM, 10))
    driver.run(second.call(SYSTEM, max_decode=20))
    seen = sources(driver).shared
    driver.run(second.copy("b").call(max_decode=20, keep=False, want_rows=False))
    driver.run(second.answer([], 10, cuts=[20] * 9))
    assert second.sampled == expected.sampled
    assert sources(driver).shared == seen  # it was there from the first call on
    assert [segment.count for segment in second.segments][:4] == [20, 20, 20, 20]


def test_from_a_chat_that_is_running(drive: Drive) -> None:
    driver = drive("q8_0", n_slots=3, n_ctx=500)
    expected = alone(driver, SYSTEM + some_prompt(2))

    async def play() -> list[int]:
        running = asyncio.Event()
        long = driver.chat("a", caller="me", sampling=ENDLESS, on_tokens=lambda _: running.set())
        task = asyncio.create_task(long.call(SYSTEM, n_predict=300))
        await running.wait()
        answer = await chat_of(driver, "b").answer(SYSTEM + some_prompt(2), 10)
        await task
        return answer

    assert driver.run(play()) == expected.sampled
    assert sources(driver) == Sources(shared=81)


def test_from_nobody_who_has_shifted(drive: Drive) -> None:
    driver = drive("q8_0", n_slots=3, n_ctx=128)
    expected = alone(driver, SYSTEM)

    async def play() -> list[int]:
        shown = 0
        shifted = asyncio.Event()

        def count(tokens: list[int]) -> None:
            nonlocal shown
            shown += len(tokens)
            if shown > 100:
                shifted.set()

        long = driver.chat("a", caller="me", sampling=ENDLESS, on_tokens=count, context_shift=True)
        task = asyncio.create_task(long.call(SYSTEM, n_predict=400))
        await shifted.wait()
        answer = await chat_of(driver, "b").answer(SYSTEM, 10)
        await task
        return answer

    assert driver.run(play()) == expected.sampled
    assert sources(driver).shared == 0


def test_generated_tokens_are_no_prompt(drive: Drive) -> None:
    """The same tokens, decoded in another way, may differ in their last bits: they are not shared."""
    driver = drive("f32", n_slots=2, n_ctx=300)
    chat = chat_of(driver, "a")
    driver.run(chat.answer(SYSTEM, 60))
    other = chat_of(driver, "b")
    driver.run(other.answer(chat.tokens, 10))
    assert sources(driver) == Sources(shared=81)


def test_little_is_not_worth_it(drive: Drive) -> None:
    driver = drive("q8_0", n_slots=2, n_ctx=300)
    prompt = some_prompt(1, MIN_SHARED - 2)
    driver.run(chat_of(driver, "a").answer([*prompt, 5, 6, 7], 5))
    driver.run(chat_of(driver, "b").answer([*prompt, 8, 9, 10], 5))
    assert sources(driver) == Sources()


def test_a_copy_goes_on_from_the_original_and_keeps_its_container(drive: Drive) -> None:
    driver = drive("q8_0", n_slots=3, n_ctx=300)
    chat = chat_of(driver, "a")
    driver.run(chat.answer(SYSTEM, 10))
    copy = chat.copy("b")
    driver.run(copy.answer(some_prompt(4), 10))
    assert sources(driver) == Sources(shared=91)
    assert copy.sampled == alone(driver, SYSTEM, some_prompt(4)).sampled
    assert copy.segments[: len(chat.segments)] == chat.segments  # only new rows were handed out


def test_other_callers_states_are_not_looked_at(drive: Drive) -> None:
    driver = drive("q8_0", n_slots=1, n_ctx=300, ram_bytes=1 << 24)
    driver.run(chat_of(driver, "a", "me").answer(SYSTEM, 10))
    driver.run(chat_of(driver, "b", "you").answer(SYSTEM, 10))
    driver.run(driver.chat(None, caller="she").answer(SYSTEM, 10))
    assert sources(driver) == Sources()
    assert driver.engine.stats().n_prompt_tokens == 3 * 81
    driver.run(driver.chat(None, caller="you", sampling=GREEDY).answer(SYSTEM, 10))
    assert sources(driver) == Sources(shared=81)
    assert driver.engine.stats().n_prompt_tokens == 3 * 81 + 1  # the last token, for its logits


plays = st.lists(
    st.tuples(
        st.sampled_from("abcd"),  # chat
        st.integers(0, 3),  # which prompt, when it begins anew
        st.integers(1, 60),  # tokens of the call
        st.sampled_from(["call", "call", "call", "cancel", "forget", "query", "anew"]),
    ),
    min_size=4,
    max_size=25,
)


@pytest.mark.parametrize("model", ["f32", "q8_0"])
def test_whatever_is_shared_parked_cancelled_and_forgotten(drive: Drive, model: str) -> None:
    """Chats of one caller on few slots and little memory: each answer is the one it gets alone."""
    driver = drive(model, n_slots=2, n_ctx=400, ram_bytes=300_000)
    prompts = [SYSTEM + some_prompt(i, 10 * i + 5)[1:] for i in range(3)] + [SYSTEM[:40] + some_prompt(5, 70)]
    known: dict[int, list[int]] = {}

    def expected(prompt: int, n: int) -> list[int]:
        if prompt not in known:
            known[prompt] = alone(driver, prompts[prompt], n_tokens=200).sampled
        return known[prompt][:n]

    @settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
    @given(plays, st.booleans())
    def check(play: list[tuple[str, int, int, str]], use_rows: bool) -> None:
        chats: dict[str, tuple[int, Chat]] = {}
        for key, prompt, n_tokens, what in play:
            if key not in chats or what == "anew":
                chats[key] = prompt, chat_of(driver, key)
                chats[key][1].prompt = [*prompts[prompt]]
            prompt, chat = chats[key]
            if what == "forget":
                driver.engine.forget(key)
            limit = min(n_tokens, 200 - len(chat.sampled) + len(chat.prompt))
            if what == "cancel":
                driver.run(cancelled(chat, limit))
            elif what == "query":
                driver.run(chat.copy(key).call(max_decode=limit, keep=False, use_rows=use_rows))
            else:
                driver.run(chat.call(max_decode=limit, use_rows=use_rows))
            assert chat.sampled == expected(prompt, len(chat.sampled))
            assert driver.engine.stats().parked_bytes <= 300_000
        for key in "abcd":
            driver.engine.forget(key)

    check()
    seen = sources(driver)
    assert min(seen.slot, seen.memory, seen.shared) > 0


async def cancelled(chat: Chat, limit: int) -> None:
    """A call that is cancelled after its first tokens, if there are any."""
    shown = asyncio.Event()
    task = asyncio.create_task(chat.copy(chat.key).call(max_decode=limit, on_tokens=lambda _: shown.set()))
    waiting = asyncio.create_task(shown.wait())
    await asyncio.wait([task, waiting], return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    task.cancel()
    await asyncio.gather(task, waiting, return_exceptions=True)
