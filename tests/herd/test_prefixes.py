"""Which workers have which beginnings of prompts: the longest that was noted, never another caller's, within bounds."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from canister.errors import JournalUnavailable
from canister.herd.known_chats import KnownChat
from canister.herd.prefixes import BLOCK_BYTES, Held, PrefixIndex, beginnings_of
from canister.herd.workers import Worker
from tests.herd.herds import PROMPT, InProcess
from tests.herd.test_moving_chats import herd_of, n_decoded, only, owner_of, transfers_of

# Prompts of few different blocks, so that many begin alike.
BLOCKS = st.sampled_from("abc").map(lambda letter: letter * BLOCK_BYTES)
PROMPTS = st.tuples(st.lists(BLOCKS, max_size=5).map("".join), st.text("abc", max_size=20)).map("".join)
CALLERS, WORKERS = st.sampled_from(["alice", "bob"]), st.sampled_from(["w1", "w2", "w3"])
NOTES = st.lists(st.tuples(CALLERS, PROMPTS, WORKERS), max_size=12)


def common_blocks(one: str, other: str) -> int:
    starts = range(BLOCK_BYTES, min(len(one), len(other)) + 1, BLOCK_BYTES)
    return sum(one[:end] == other[:end] for end in starts)


@given(NOTES, CALLERS, PROMPTS)
def test_the_longest_beginning_that_each_worker_has(
    notes: list[tuple[str, str, str]], caller: str, prompt: str
) -> None:
    index = PrefixIndex()
    for number, (of, noted, worker) in enumerate(notes):
        index.note(beginnings_of("c", of, noted), worker, ("c", of, str(number)))
    found = index.find(beginnings_of("c", caller, prompt))
    wanted: dict[str, int] = {}
    for of, noted, worker in notes:
        n_blocks = common_blocks(noted, prompt) if of == caller else 0
        if n_blocks:
            wanted[worker] = max(n_blocks, wanted.get(worker, 0))
    assert {worker: held.n_blocks for worker, held in found.items()} == wanted
    for worker, held in found.items():
        assert held.chat is not None
        of, noted, at = notes[int(held.chat[2])]
        assert (of, at, common_blocks(noted, prompt) >= held.n_blocks) == (caller, worker, True)


@given(NOTES, st.integers(1, 6))
def test_it_is_bounded_and_forgets_ends_before_starts(notes: list[tuple[str, str, str]], most: int) -> None:
    index = PrefixIndex(most)
    for of, noted, worker in notes:
        beginnings = beginnings_of("c", of, noted)
        index.note(beginnings, worker, None)
        assert len(index) <= most
        kept = min(len(beginnings), most)
        assert index.find(beginnings).get(worker) == (Held(kept, None) if kept else None)


def test_prompts_of_other_canisters_and_callers_have_other_names() -> None:
    prompt = "x" * (2 * BLOCK_BYTES)
    names = {beginnings_of(canister, caller, prompt) for canister in ("c", "d") for caller in ("alice", "bob")}
    assert len(names) == 4
    assert all(len(each) == 2 for each in names)
    assert beginnings_of("c", "alice", "x" * (BLOCK_BYTES - 1)) == ()


RULES = "You answer in one short sentence, and you never say anything that you do not know for sure. " * 6


async def begin(herd: InProcess, name: str, question: str, rules: str = RULES) -> str:
    """A chat whose prompt begins with the same rules."""
    flags = ["--prompt-cache", f"{name}.cache", "--prompt-cache-all", "--temp", "0.9", "--seed", "7", "-n", "4"]
    return str((await herd.call("run_update", {"args": [*flags, "-p", rules + PROMPT.format(question)]}))["output"])


@pytest.mark.anyio
async def test_a_new_chat_begins_from_the_rows_of_another_of_its_caller(tmp_path: Path) -> None:
    """At the worker that has them, or at one that gets them."""
    async with herd_of(tmp_path, 2) as herd:
        prefixes = herd.herd.leader.prefixes
        by_id = sorted(herd.workers, key=lambda worker: worker.id)
        only(herd, 0)
        before = await n_decoded(herd, by_id[0])
        first = await begin(herd, "first", "Who are you?")
        whole = await n_decoded(herd, by_id[0]) - before
        assert whole > 100
        for worker in by_id:
            worker.is_draining = False
        for n in range(3):  # two workers are idle, and one has the rows
            await begin(herd, f"next{n}", f"What is {n}?")
        assert {await owner_of(herd, f"next{n}") for n in range(3)} == {by_id[0]}
        only(herd, 1)
        before = await n_decoded(herd, by_id[1])
        found = await asyncio.gather(*(begin(herd, name, "Who are you?") for name in ("again", "more")))
        assert found == [first, first]
        assert prefixes.n_brought == 1
        assert await n_decoded(herd, by_id[1]) - before < whole


@pytest.mark.anyio
async def test_a_new_chat_decodes_its_prompt_where_rows_cannot_be_brought(tmp_path: Path) -> None:
    async with herd_of(tmp_path, 2) as herd:
        only(herd, 0)
        first = await begin(herd, "first", "Who are you?")
        only(herd, 1)
        asked: list[str] = []

        async def fails(chat: KnownChat, worker: Worker) -> bool:
            asked.append(worker.id)
            raise JournalUnavailable("the database does not answer")

        transfers_of(herd).bring_rows = fails  # type: ignore[method-assign]
        assert await begin(herd, "again", "Who are you?") == first
        assert asked == [(await owner_of(herd, "again")).id]
