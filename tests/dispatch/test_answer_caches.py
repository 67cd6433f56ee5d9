"""What answers leave behind and go on from: each caller's own prompt caches, also after a restart."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import pytest

from canister.dispatch import Answered, Ingested, Piece, Wanted, answers, cache_of_key
from canister.flags.params import SamplingParams
from canister.runtime.canister import Canister
from tests.harness import CHAT_MODEL, CONTROLLER, Harness, canister_in, someone
from tests.traces import until

pytestmark = pytest.mark.anyio

DRAWN = SamplingParams(temperature=1.5, ignore_eos=True)
LONG = list(range(20, 120))  # as tokens, whatever they say


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[Harness]:
    async with canister_in(tmp_path, answer_caches_per_caller=3) as found:
        await found.load(CHAT_MODEL)
        yield found


def asked(*tokens: int, n: int = 4) -> Wanted:
    return Wanted([*LONG, *tokens], DRAWN, seed=5, max_tokens=n)


async def ask(canister: Canister, wanted: Wanted, caller: str = CONTROLLER) -> tuple[list[int], Answered]:
    tokens: list[int] = []
    async for event in answers.answer(canister, caller, wanted):
        if isinstance(event, Piece):
            tokens += [token.id for token in event.tokens]
    assert isinstance(event, Answered)
    return tokens, event


def files_of(canister: Canister, caller: str = CONTROLLER) -> set[str]:
    folder = canister.folder / f"stable/.canister_cache/{caller}/sessions/answers"
    return {path.name for path in folder.glob("*") if path.suffix != ".icppfmt"}


async def test_a_conversation_goes_on_in_its_cache(harness: Harness) -> None:
    canister = harness.canister
    first, answered = await ask(canister, asked())
    assert answered.n_cached == 0
    n = len(LONG)
    tokens, answered = await ask(canister, asked(*first, 7, 8))
    assert answered.n_cached == n + len(first) - 1  # the last one was not decoded
    assert len(files_of(canister)) == 1
    again, answered = await ask(canister, asked(*first, 7, 8))
    assert (again, answered.n_cached) == (tokens, n + len(first) + 1)  # all but the last of the prompt
    assert answered.n_cached == answered.n_prompt - 1


async def test_one_that_branches_off_leaves_the_other_as_it_was(harness: Harness) -> None:
    canister = harness.canister
    first, _ = await ask(canister, asked(n=20))
    _, answered = await ask(canister, asked(9, 9, 9))
    assert answered.n_cached == len(LONG)
    assert answered.n_calls == 2  # one copied
    assert len(files_of(canister)) == 2
    _, answered = await ask(canister, asked(*first, 7))
    assert answered.n_cached == len(LONG) + len(first) - 1


async def test_a_cold_answer_takes_nothing_and_leaves_nothing(harness: Harness) -> None:
    canister = harness.canister
    warm, _ = await ask(canister, asked())
    before = files_of(canister)
    cold, answered = await ask(canister, replace(asked(), reuses=False))
    assert (cold, answered.n_cached) == (warm, 0)
    assert files_of(canister) == before


async def test_nobody_goes_on_in_the_cache_of_another(harness: Harness) -> None:
    await harness.call("set_access", {"level": 1, "explanation": ""})
    await ask(harness.canister, asked())
    _, answered = await ask(harness.canister, asked(7), caller=someone(1))
    assert answered.n_cached == 0
    assert len(files_of(harness.canister, someone(1))) == 1


async def test_a_key_names_a_cache(harness: Harness) -> None:
    canister = harness.canister
    wanted = replace(asked(), cache=cache_of_key("a/../key \N{LLAMA}"))
    await ask(canister, wanted)
    await ask(canister, asked(3))
    assert len(files_of(canister)) == 1
    _, answered = await ask(canister, replace(wanted, prompt=[5, 6, 7]))
    assert answered.n_cached == 0
    assert len(files_of(canister)) == 1


async def test_only_so_many_are_kept(harness: Harness) -> None:
    canister = harness.canister
    for n in range(5):
        await ask(canister, replace(asked(), prompt=[20 + n] * 50))
    await until(lambda: not canister.answer_caches.tidying)
    assert len(files_of(canister)) == 3
    _, answered = await ask(canister, replace(asked(), prompt=[24] * 60))
    assert answered.n_cached >= 50


async def test_after_a_restart_they_are_found_again(tmp_path: Path) -> None:
    async with canister_in(tmp_path) as harness:
        await harness.load(CHAT_MODEL)
        await ask(harness.canister, asked())
        await ask(harness.canister, replace(asked(), prompt=[24] * 60))
    async with canister_in(tmp_path) as harness:
        await harness.canister.model.loaded()
        _, answered = await ask(harness.canister, asked(7))
        assert answered.n_cached == len(LONG)


async def test_two_at_once_are_both_right_and_do_not_wait_for_each_other(harness: Harness) -> None:
    canister = harness.canister
    first, _ = await ask(canister, asked())
    alone = [await ask(canister, replace(asked(*first, 7 + n, n=30), reuses=False)) for n in range(4)]
    async with aclosing(answers.answer(canister, CONTROLLER, asked(*first, 1, n=100_000))) as endless:
        assert isinstance(await anext(endless), Ingested)
        together = await asyncio.gather(*(ask(canister, asked(*first, 7 + n, n=30)) for n in range(4)))
        for (tokens, answered), (expected, _) in zip(together, alone, strict=True):
            assert tokens == expected
            assert answered.n_cached <= len(LONG) + len(first)
        assert isinstance(await anext(endless), Piece)


async def test_a_cache_that_goes_away_meanwhile_does_no_harm(harness: Harness) -> None:
    canister = harness.canister
    await harness.limit(5)
    wanted = replace(asked(n=25), cache="answers/mine")
    expected, _ = await ask(canister, replace(wanted, cache=None, reuses=False))
    tokens: list[int] = []
    n_removed = 0
    async for event in answers.answer(canister, CONTROLLER, wanted):
        if isinstance(event, Piece):
            tokens += [token.id for token in event.tokens]
            if not n_removed:
                await harness.call("remove_prompt_cache", {"args": ["--prompt-cache", "answers/mine"]})
                n_removed += 1
    assert n_removed
    assert tokens == expected


async def test_who_goes_away_while_the_prompt_goes_in_finds_it_there(harness: Harness) -> None:
    canister = harness.canister
    await harness.limit(10)
    wanted, n_tries, n_decoded = asked(), 0, []
    while True:
        async with aclosing(answers.answer(canister, CONTROLLER, wanted)) as events:
            event = await anext(events)
            n_tries += 1
            assert isinstance(event, Ingested)
            n_decoded.append(event.n_done - event.n_cached)
            if event.n_done == event.n_prompt:
                break
    assert n_tries == len(LONG) / 10
    assert sum(n_decoded) == len(LONG)
