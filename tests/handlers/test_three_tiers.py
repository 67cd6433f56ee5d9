"""Where a run starts from: the slot, memory, the container, another chat of the same caller. Whatever it is, the answer
and every count of the record are the same; only the engine's counters tell.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from canister.api.records import RunOutputRecord
from canister.engine.engine import EngineStats
from canister.runtime.loaded_model import LOGITS_FILE_NAME
from tests.harness import CONTROLLER, GREEDY, STORY_MODEL, Harness, canister_in, needs_story_model, someone

pytestmark = [pytest.mark.anyio, needs_story_model]

STORIES = ["Lily had a red ball", "Tom saw a big dog", "One day it was raining", "The cat sat in a tree"]
SYSTEM = (
    "Once upon a time there was a little girl named Lily. She loved to play outside in the park. One day she saw a big "
    "red ball and a small brown dog. The dog was very happy and wanted to play with the ball too. "
)
SAMPLED = ("--temp", "0.9", "--seed", "7")


@asynccontextmanager
async def story_in(folder: Path, **settings: Any) -> AsyncIterator[Harness]:
    async with canister_in(folder, **settings) as harness:
        if harness.canister.state.model_args is None:
            await harness.load(STORY_MODEL, "--ctx-size", "512")
        await harness.canister.model.loaded()
        yield harness


def stats(harness: Harness) -> EngineStats:
    assert harness.canister.model.engine is not None
    return harness.canister.model.engine.stats()


async def tell(harness: Harness, n_calls: int, *flags: str) -> list[str]:
    """All stories by turns, ten tokens a call; what was said."""
    await harness.limit(10)
    texts = ["" for _ in STORIES]
    for _ in range(n_calls):
        for i, story in enumerate(STORIES):
            prompt = "" if texts[i] else story
            record = await harness.run(prompt, *flags, cache=f"{i}.cache")
            texts[i] += record.output
    return texts


WAYS = [pytest.param(SAMPLED, id="sampled"), pytest.param(GREEDY, id="greedy", marks=pytest.mark.nightly)]


@pytest.mark.parametrize("ram_cache", ["64M", "0"], ids=["memory", "disk"])
async def test_more_chats_than_slots_go_on_by_restoring(tmp_path: Path, ram_cache: str) -> None:
    async with story_in(tmp_path / "a", slots=4) as harness:
        expected = await tell(harness, 6, *SAMPLED)
        n_prompt = stats(harness).n_prompt_tokens
    async with story_in(tmp_path / "b", slots=1, ram_cache=ram_cache) as harness:
        assert await tell(harness, 6, *SAMPLED) == expected
        seen = stats(harness)
    assert seen.n_prompt_tokens == n_prompt  # nothing was decoded again
    near, far = (seen.sources.memory, seen.sources.disk)
    assert (near > 0, far > 0) == ((True, False) if ram_cache != "0" else (False, True))
    assert seen.n_parked == (len(STORIES) - 1 if ram_cache != "0" else 0)


@pytest.mark.parametrize("logits", ["left behind", "damaged", "lost"])
async def test_after_a_restart_a_chat_goes_on_from_its_container(tmp_path: Path, logits: str) -> None:
    async with story_in(tmp_path / "a") as harness:
        await harness.limit(60)
        first = await harness.run(SYSTEM, *SAMPLED)
        expected = await harness.run("", *SAMPLED)
    async with story_in(tmp_path / "b") as harness:
        await harness.limit(60)
        assert await harness.run(SYSTEM, *SAMPLED) == first
    (file,) = (tmp_path / "b").rglob(LOGITS_FILE_NAME)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    if logits == "damaged":
        file.write_bytes(data)
    elif logits == "lost":
        file.unlink()
    async with story_in(tmp_path / "b") as harness:
        assert not file.exists()
        record = await harness.run("", *SAMPLED)
        seen = stats(harness)
    assert record == expected
    # Without its logits the last token is decoded again.
    n_prompt = 0 if logits == "left behind" else 1
    assert (seen.n_prompt_tokens, seen.sources.disk) == (n_prompt, record.n_prompt_tokens_cached)


async def test_what_a_chat_left_behind_is_forgotten_with_it(tmp_path: Path) -> None:
    async with story_in(tmp_path) as harness:
        await harness.limit(60)
        await harness.run(SYSTEM, *SAMPLED)
        await harness.run(SYSTEM, *SAMPLED, cache="removed.cache")
    async with story_in(tmp_path) as harness:
        engine = harness.canister.model.engine
        assert engine is not None
        assert len(engine.prefetcher.logits_file) == 2
        await harness.call("remove_prompt_cache", {"args": ["--prompt-cache", "removed.cache"]})
        await harness.run("", *SAMPLED)  # behind it on the engine's thread
        assert len(engine.prefetcher.logits_file) == 1


async def test_damaged_rows_are_computed_again(tmp_path: Path) -> None:
    async with story_in(tmp_path / "a") as harness:
        await harness.limit(30)
        for prompt in (SYSTEM, SYSTEM, SYSTEM, ""):
            await harness.run(prompt, *GREEDY)
        expected = await harness.run("", *GREEDY)
        file = harness.canister.stable.physical(f".canister_cache/{CONTROLLER}/sessions/prompt.cache")
    async with story_in(tmp_path / "b") as harness:
        await harness.limit(30)
        for prompt in (SYSTEM, SYSTEM, SYSTEM, ""):
            await harness.run(prompt, *GREEDY)
        file = harness.canister.stable.physical(f".canister_cache/{CONTROLLER}/sessions/prompt.cache")
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    async with story_in(tmp_path / "b") as harness:
        record = await harness.run("", *GREEDY)
        seen = stats(harness)
    async with story_in(tmp_path / "b") as harness:  # the container is whole again
        await harness.run("", *GREEDY)
        whole = stats(harness)
    assert record == expected
    assert 0 < seen.sources.disk < (record.n_prompt_tokens_cached or 0)
    assert whole.sources.disk > (record.n_prompt_tokens_cached or 0)
    assert whole.n_prompt_tokens == 0


ENDS = ["Then Tom came and", "The dog said to Lily"]


@pytest.mark.parametrize("flags", WAYS)
@pytest.mark.parametrize("where", ["slot", "memory", "disk", "disk without memory"])
async def test_a_chat_starts_from_the_rows_of_another_of_its_caller(
    tmp_path: Path, flags: tuple[str, ...], where: str
) -> None:
    how: dict[str, Any] = {"slots": 1 if where == "memory" else 4, "ram_cache": "0" if "without" in where else "64M"}
    alone: list[list[RunOutputRecord]] = []
    for i, end in enumerate(ENDS):
        async with story_in(tmp_path / f"alone {i}") as harness:
            await harness.limit(120)
            alone.append([await harness.run(prompt, *flags, cache=f"{i}.cache") for prompt in (SYSTEM + end, "")])
    async with AsyncStory(tmp_path / "shared", how) as story:
        await story.harness.limit(120)
        assert await story.harness.run(SYSTEM + ENDS[0], *flags, cache="0.cache") == alone[0][0]
        if where == "memory":
            await story.harness.run("A small", *flags, cache="other.cache")
        if "disk" in where:
            await story.restart()
        before = stats(story.harness)
        records = [await story.harness.run(prompt, *flags, cache="1.cache") for prompt in (SYSTEM + ENDS[1], "")]
        after = stats(story.harness)
        assert records == alone[1]
        n_shared = after.sources.shared - before.sources.shared
        n_prompt = records[0].n_prompt_tokens or 0
        assert (n_shared > 60) == ("without" not in where)
        assert after.n_prompt_tokens - before.n_prompt_tokens == n_prompt - n_shared
        # Its container has the rows of all its tokens, those that it did not compute too.
        await story.harness.call("remove_prompt_cache", {"args": ["--prompt-cache", "0.cache"]})
        await story.restart()
        again = await story.harness.run("", *flags, cache="1.cache")
        end = stats(story.harness)
        assert (end.n_prompt_tokens, end.sources.shared) == (0, 0)
        assert end.sources.disk == again.n_prompt_tokens_cached


@pytest.mark.parametrize("flags", WAYS)
@pytest.mark.parametrize("where", ["slot", "memory", "disk"])
@pytest.mark.parametrize("granted", [9, 40])
async def test_every_call_of_a_prompt_in_pieces_starts_from_the_rows_of_another_chat(
    tmp_path: Path, flags: tuple[str, ...], where: str, granted: int
) -> None:
    """Records, counts and cycles are those of a chat that has no other; only the engine has less to do."""

    async def told(harness: Harness, end: str, cache: str) -> list[tuple[RunOutputRecord, Any]]:
        """All calls until some tokens were generated; with what they cost."""
        await harness.limit(granted)
        calls = []
        while not calls or sum(record.n_tokens_generated or 0 for record, _ in calls) < 2 * granted:
            prompt = "" if calls and not calls[-1][0].prompt_remaining else SYSTEM + end
            args = ["-p", prompt, "--prompt-cache", cache, *flags]
            reply = await harness.reply("run_update", {"args": args})
            assert isinstance(reply.value, RunOutputRecord)
            assert reply.charge is not None
            calls.append((reply.value, (reply.charge.instructions, reply.charge.cycles)))
        return calls

    async with story_in(tmp_path / "alone") as harness:
        alone = await told(harness, ENDS[1], "1.cache")
    async with AsyncStory(tmp_path / "shared", {"slots": 1 if where == "memory" else 4}) as story:
        await told(story.harness, ENDS[0], "0.cache")
        if where == "memory":
            await story.harness.run("A small", *flags, cache="other.cache")
        if where == "disk":
            await story.restart()
        before = stats(story.harness)
        assert await told(story.harness, ENDS[1], "1.cache") == alone
        after = stats(story.harness)
        n_prompt = alone[0][0].n_prompt_tokens or 0
        assert after.n_prompt_tokens - before.n_prompt_tokens < n_prompt - 60
        # Its container has the rows of all its tokens.
        await story.harness.call("remove_prompt_cache", {"args": ["--prompt-cache", "0.cache"]})
        await story.restart()
        again = await story.harness.run("", *flags, cache="1.cache")
        end = stats(story.harness)
        assert (end.n_prompt_tokens, end.sources.disk) == (0, again.n_prompt_tokens_cached)


class AsyncStory:
    """A canister that can be restarted."""

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self._folder, self._settings = folder, settings

    async def __aenter__(self) -> AsyncStory:
        self._running = story_in(self._folder, **self._settings)
        self.harness = await self._running.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._running.__aexit__(None, None, None)

    async def restart(self) -> None:
        await self.__aexit__()
        await self.__aenter__()


@pytest.mark.parametrize("restart", [False, True])
async def test_nobody_starts_from_the_rows_of_another_principal(tmp_path: Path, restart: bool) -> None:
    other = someone(1)
    async with AsyncStory(tmp_path, {"slots": 4}) as story:
        await story.harness.call("set_access", {"level": 1})
        await story.harness.limit(150)
        mine = await story.harness.run(SYSTEM, *GREEDY)
        if restart:
            await story.restart()
        before = stats(story.harness)
        theirs = await story.harness.run(SYSTEM, *GREEDY, caller=other)
        after = stats(story.harness)
        assert theirs == mine
        assert after.n_prompt_tokens - before.n_prompt_tokens == theirs.n_prompt_tokens
        assert after.sources == before.sources
        # Nor when one of their own is at hand as well, and shorter.
        await story.harness.run(SYSTEM + ENDS[0], *GREEDY, cache="long.cache")
        before = stats(story.harness)
        theirs = await story.harness.run(SYSTEM + ENDS[0], *GREEDY, caller=other, cache="long.cache")
        n_shared = stats(story.harness).sources.shared - before.sources.shared
        assert 60 < n_shared <= (mine.n_prompt_tokens or 0)


async def test_a_removed_chat_gives_nothing(tmp_path: Path) -> None:
    async with story_in(tmp_path, slots=1) as harness:
        await harness.limit(150)
        await harness.run(SYSTEM, *GREEDY)
        await harness.run("A small", *GREEDY, cache="other.cache")
        assert stats(harness).n_parked == 1
        await harness.call("remove_prompt_cache", {"args": ["--prompt-cache", "prompt.cache"]})
        await harness.run(SYSTEM, *GREEDY, cache="third.cache")
        assert stats(harness).sources.shared == 0


async def shared_by_a_new_chat(harness: Harness, cache: str) -> int:
    """How many tokens a chat that begins with SYSTEM did not have to decode."""
    before = stats(harness).sources.shared
    await harness.run(SYSTEM + ENDS[1], *GREEDY, cache=cache)
    return stats(harness).sources.shared - before


async def test_a_container_is_found_among_any_number_of_later_ones(tmp_path: Path) -> None:
    async with story_in(tmp_path, slots=1, ram_cache=150_000) as harness:
        await harness.limit(120)
        await harness.run(SYSTEM + ENDS[0], *GREEDY, cache="0.cache")
        for n in range(80):
            await harness.run(f"{STORIES[n % 4]} and number {n}", *GREEDY, "-n", "1", cache=f"other {n}.cache")
        engine = harness.canister.model.engine
        assert engine is not None
        assert stats(harness).n_parked < 20
        assert await shared_by_a_new_chat(harness, "1.cache") > 60


async def test_the_caches_of_a_caller_that_is_new_are_not_listed(tmp_path: Path) -> None:
    """There are none of before the start, so a look-up need not leave the event loop; after a restart there are."""
    prefixes = f".canister_cache/{CONTROLLER}/sessions"
    async with story_in(tmp_path) as harness:
        known = harness.canister.caches._prefixes
        await harness.limit(40)
        await harness.run(SYSTEM, *GREEDY)
        assert not known.has_unread(prefixes)
    async with story_in(tmp_path) as harness:
        known = harness.canister.caches._prefixes
        await harness.run("", *GREEDY)
        assert known.has_unread(prefixes)
        await harness.run(SYSTEM, *GREEDY, cache="second.cache")
        assert not known.has_unread(prefixes)


async def test_containers_that_no_run_has_written_are_found_too(tmp_path: Path) -> None:
    """Copied under another name, or uploaded; the original is gone, and nothing was ever in memory."""
    async with story_in(tmp_path / "a") as harness:
        await harness.limit(120)
        await harness.run(SYSTEM + ENDS[0], *GREEDY, cache="0.cache")
        data = harness.canister.stable.read(f".canister_cache/{CONTROLLER}/sessions/0.cache", 0, 1 << 30)
    async with story_in(tmp_path / "a") as harness:
        await harness.limit(120)
        await harness.call("copy_prompt_cache", {"from": "0.cache", "to": "copy.cache"})
        await harness.call("remove_prompt_cache", {"args": ["--prompt-cache", "0.cache"]})
        await harness.run(STORIES[0], *GREEDY, cache="other.cache")  # behind it on the engine's thread
        assert await shared_by_a_new_chat(harness, "1.cache") > 60
    async with story_in(tmp_path / "b") as harness:
        await harness.limit(120)
        chunk = {"promptcache": "up.cache", "chunk": data, "chunksize": len(data), "offset": 0}
        await harness.call("upload_prompt_cache_chunk", chunk)
        await harness.run(STORIES[0], *GREEDY, cache="other.cache")
        assert await shared_by_a_new_chat(harness, "1.cache") > 60


async def test_memory_stays_below_its_bound(tmp_path: Path) -> None:
    """Eight chats at once on two slots; some hundred kilobytes hold about three of them."""
    bound = 150_000
    async with story_in(tmp_path, slots=2, ram_cache=bound) as harness:
        await harness.limit(12)

        async def chat(name: str) -> list[str]:
            prompt, texts = STORIES[len(name) % len(STORIES)], []
            for _ in range(5):
                texts.append((await harness.run("" if texts else prompt, *GREEDY, cache=name)).output)
                assert stats(harness).parked_bytes <= bound
            return texts

        told = await asyncio.gather(*(chat("x" * i) for i in range(1, 9)))
        seen = stats(harness)
    assert told[:4] == told[4:]
    assert seen.n_parked > 0
    assert seen.sources.memory > 0
    assert seen.sources.disk > 0
