"""Prompt caches: whose they are, sidecars, copies, removal, damage, clean-up."""

from __future__ import annotations

import os
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from canister.engine.kv.slots import PUBLISHED
from tests.harness import (
    CHAT_MODEL,
    CONTROLLER,
    GREEDY,
    STORY_MODEL,
    Harness,
    canister_in,
    needs_story_model,
    someone,
)

pytestmark = [pytest.mark.anyio, needs_story_model]

JOE = "Joe loves writing stories"
FOLDER = f".canister_cache/{CONTROLLER}/sessions"
CACHE = f"{FOLDER}/prompt.cache"


@pytest.fixture
async def story(tmp_path: Path) -> AsyncIterator[Harness]:
    async with canister_in(tmp_path) as harness:
        await harness.load(STORY_MODEL, path="models/tiny.gguf")
        yield harness


async def download(story: Harness, name: str = "prompt.cache") -> bytes:
    data, done = b"", False
    while not done:
        record = await story.call(
            "download_prompt_cache_chunk", {"promptcache": name, "chunksize": 2_000_000, "offset": len(data)}
        )
        data, done = data + record.chunk, record.done
    return data


async def upload(story: Harness, data: bytes, name: str = "prompt.cache") -> None:
    for offset in range(0, max(1, len(data)), 2_000_000):
        chunk = data[offset : offset + 2_000_000]
        record = await story.call(
            "upload_prompt_cache_chunk",
            {"promptcache": name, "chunk": chunk, "chunksize": len(chunk), "offset": offset},
        )
    assert record.filename == f"{FOLDER}/{name}"
    assert record.filesize == len(data)


async def files_in(story: Harness, folder: str = FOLDER) -> list[str]:
    found = await story.call("recursive_dir_content_query", {"dir": folder, "max_entries": 0})
    return [entry.filename.removeprefix(folder + "/") for entry in found]


async def test_two_callers_with_the_same_name_never_meet(story: Harness) -> None:
    await story.call("set_access", {"level": 1})
    first = await story.run("Joe loves writing", *GREEDY, "-n", "3", caller=someone(1))
    second = await story.run(JOE, *GREEDY, "-n", "3", caller=someone(2))
    assert second.n_prompt_tokens_cached == 0
    again = await story.run("", *GREEDY, "-n", "3", caller=someone(1))
    assert again.conversation.startswith(first.conversation)
    assert await story.fails("copy_prompt_cache", {"from": "prompt.cache", "to": "x"}, CONTROLLER) == (
        f"File {CACHE} does not exist."
    )


async def test_the_sidecar_names_format_and_model_and_travels(story: Harness) -> None:
    await story.run(JOE, *GREEDY, "-n", "3")
    assert await files_in(story) == ["prompt.cache", "prompt.cache.icppfmt"]
    stamp = story.canister.stable.read(CACHE + ".icppfmt", 0, 1000).decode().splitlines()
    assert stamp[1] == story.canister.model.engine.info.description  # type: ignore[union-attr]
    await story.call("copy_prompt_cache", {"from": "prompt.cache", "to": "/deep/er/copy"})
    assert "deep/er/copy.icppfmt" in await files_in(story)
    copied = await story.run("", *GREEDY, "-n", "3", cache="deep/er/copy")
    original = await story.run("", *GREEDY, "-n", "3")
    assert copied == original
    assert (copied.n_prompt_tokens_cached or 0) > 16
    await story.call("copy_prompt_cache", {"from": "prompt.cache", "to": "prompt.cache"})
    assert (await story.run("", *GREEDY, "-n", "1")).n_prompt_tokens_cached == 20


async def test_removal(story: Harness) -> None:
    await story.run(JOE, *GREEDY, "-n", "3")
    arg = {"args": ["--prompt-cache", "prompt.cache"]}
    removed = await story.call("remove_prompt_cache", arg)
    assert removed.output == f"Cache file {CACHE} deleted successfully"
    assert await files_in(story) == []
    again = await story.call("remove_prompt_cache", arg)
    assert again.output == f"Cache file {CACHE} not found. Nothing to delete."
    assert (await story.run(JOE, *GREEDY, "-n", "3")).n_prompt_tokens_cached == 0
    assert await story.fails("remove_prompt_cache", {"args": []}) == "ERROR: path_session is empty "


async def test_new_chat_keeps_an_existing_cache(story: Harness) -> None:
    await story.run(JOE, *GREEDY, "-n", "3")
    await story.call("new_chat", {"args": ["--prompt-cache", "prompt.cache"]})
    assert (await story.run(JOE, *GREEDY, "-n", "3")).n_prompt_tokens_cached == 16


@pytest.mark.parametrize("stamp", [None, b"", b"another format\nanother model\n", b"\xff\xfe"])
async def test_without_a_valid_sidecar_the_chat_starts_cold(story: Harness, stamp: bytes | None) -> None:
    whole = await story.run(JOE, *GREEDY, "-n", "3")
    await story.call("filesystem_remove", {"filename": CACHE + ".icppfmt"})
    if stamp is not None:
        arg = {"filename": CACHE + ".icppfmt", "chunk": stamp, "chunksize": len(stamp), "offset": 0}
        await story.call("file_upload_chunk", arg)
    cold = await story.run(JOE, *GREEDY, "-n", "3")
    assert cold == whole
    assert (await story.run("", *GREEDY, "-n", "1")).n_prompt_tokens_cached == 18


async def test_an_uploaded_cache_of_this_format_and_model_is_warm(story: Harness) -> None:
    whole = await story.run(JOE, *GREEDY, "-n", "30", cache=None)
    begun = await story.run(JOE, *GREEDY, "-n", "11")
    data = await download(story)
    await upload(story, data, "moved")
    assert "moved.icppfmt" not in await files_in(story)
    details = await story.call("uploaded_prompt_cache_details", {"promptcache": "moved"})
    assert (details.filename, details.filesize) == (f"{FOLDER}/moved", len(data))
    moved = await story.run("", *GREEDY, "-n", "20", cache="moved")
    assert moved.n_prompt_tokens_cached == (begun.n_prompt_tokens or 0) + (begun.n_tokens_generated or 0)
    assert whole.conversation == moved.conversation


async def test_a_cache_of_another_model_starts_cold(story: Harness, tmp_path: Path) -> None:
    if not CHAT_MODEL.exists():
        pytest.skip("the shipped model is not built")
    await story.run(JOE, *GREEDY, "-n", "3")
    await story.load(CHAT_MODEL, path="models/chat.gguf")
    other = await story.run(JOE, *GREEDY, "-n", "3")
    assert other.n_prompt_tokens_cached == 0
    await story.load(STORY_MODEL, path="models/tiny.gguf")
    assert (await story.run(JOE, *GREEDY, "-n", "3")).n_prompt_tokens_cached == 0


async def test_damaged_and_random_caches_never_fail_and_never_lie(story: Harness) -> None:
    """Bytes flipped, cut off, added, or all random: a cold start, or the tokens that are still sound."""
    whole = await story.run(JOE, *GREEDY, "-n", "30", cache=None)
    await story.limit(5)
    for _ in range(6):
        record = await story.run(JOE, *GREEDY)
    data = await download(story)
    await story.limit(0)
    dice = random.Random(7)
    variants = [os.urandom(n) for n in (0, 1, 7, 100, 5000)]
    variants += [data[: dice.randrange(len(data))] for _ in range(10)]
    variants += [data + os.urandom(20), data + data, b"\0" * len(data)]
    for _ in range(25):
        flipped = bytearray(data)
        for _ in range(dice.choice((1, 1, 2, 30))):
            flipped[dice.randrange(len(flipped))] ^= 1 << dice.randrange(8)
        variants.append(bytes(flipped))
    assert record.status_code == 200
    for n, variant in enumerate(variants):
        await upload(story, variant, f"{n}.cache")
        got = await story.run(JOE, *GREEDY, "-n", "30", cache=f"{n}.cache")
        # What was cached beyond the prompt may be dropped by the prompt that is sent again; the text is the same.
        assert got.conversation == whole.conversation, n
        went_on = await story.run("", *GREEDY, "-n", "3", cache=f"{n}.cache")
        assert went_on.conversation.startswith(whole.conversation)


async def test_damage_on_the_disk_is_found_after_a_restart(tmp_path: Path) -> None:
    async with canister_in(tmp_path) as harness:
        await harness.load(STORY_MODEL, path="models/tiny.gguf")
        whole = await harness.run(JOE, *GREEDY, "-n", "30", cache=None)
        await harness.limit(5)
        for _ in range(4):
            begun = await harness.run(JOE, *GREEDY)
        await harness.limit(0)
        file = harness.canister.stable.physical(CACHE)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0x10  # among the KV rows: they make up nearly all of it
    file.write_bytes(data)
    async with canister_in(tmp_path) as harness:
        again = await harness.run("", *GREEDY, "-n", "30")
        assert again.n_prompt_tokens_cached == (begun.n_prompt_tokens or 0) + (begun.n_tokens_generated or 0)
        assert again.conversation.startswith(whole.conversation)
        sound = await download(harness)
    async with canister_in(tmp_path) as harness:
        more = await harness.run("", *GREEDY, "-n", "2")
        assert more.conversation.startswith(again.conversation)
    assert len(sound) > len(data)


async def test_cleanup_takes_old_caches_with_their_sidecars(story: Harness) -> None:
    for name in ("a", "b/c", "d"):
        await story.run(JOE, *GREEDY, "-n", "1", cache=name)
    fresh = await story.call("cache_cleanup_now")
    assert (fresh.runs, fresh.files_examined, fresh.files_deleted) == (1, 3, 0)
    await story.call("set_cache_cleanup_config", {"ttl_seconds": 0, "max_files_per_run": 2})
    some = await story.call("cache_cleanup_now")
    assert (some.runs, some.files_examined, some.files_deleted, some.files_failed) == (2, 2, 2, 0)
    assert await files_in(story) == ["b", "d", "d.icppfmt"]
    assert (await story.call("get_cache_cleanup_stats")).last_run_ns == some.last_run_ns
    await story.run("", *GREEDY, "-n", "1", cache="a")


async def test_cleanup_looks_at_the_oldest_caches_of_all_callers(story: Harness) -> None:
    """Wherever they lie below a caller's sessions; a sidecar counts without its cache only, logs and chats never."""
    someone_else = f".canister_cache/{someone(1)}"
    for path in (
        f"{FOLDER}/b",
        f"{FOLDER}/b.icppfmt",
        f".canister_cache/{CONTROLLER}/logs/sessions/log",
        f"{someone_else}/sessions/deep/er/a",
        f"{someone_else}/chats/sessions/chat",
        f"{someone_else}/sessions/orphan.icppfmt",
        f"{FOLDER}/c",
        "sessions/d",
    ):
        with story.canister.stable.begin() as transaction:
            transaction.write_file(path, b"data")
            transaction.commit_sync()
    expected = [f"{FOLDER}/b", f"{someone_else}/sessions/deep/er/a", f"{someone_else}/sessions/orphan.icppfmt"]
    assert story.canister.caches.oldest(9) == [*expected, f"{FOLDER}/c"]
    assert story.canister.caches.oldest(2) == expected[:2]
    await story.call("set_cache_cleanup_config", {"ttl_seconds": 0, "max_files_per_run": 2, "period_seconds": 60})
    record = await story.call("cache_cleanup_now")
    assert (record.files_examined, record.files_deleted, record.files_failed) == (2, 2, 0)
    assert story.canister.caches.oldest(9) == [expected[2], f"{FOLDER}/c"]


async def test_sidecars_without_caches_are_found_bit_by_bit(story: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("canister.state.prompt_caches.MAX_LOOKED_AT", 3)
    lone = {f"{FOLDER}/{name}.icppfmt" for name in "bdh"}
    with story.canister.stable.begin() as transaction:
        for path in [*(f"{FOLDER}/{name}" for name in "acefgijk"), f"{FOLDER}/a.icppfmt", *lone]:
            transaction.write_file(path, b"data")
        transaction.commit_sync()
    for _ in range(2):  # all around, and once more
        seen = [story.canister.caches.oldest(99) for _ in range(5)]
        assert all(len(paths) < 8 + 3 for paths in seen)
        assert {path for paths in seen for path in paths if path.endswith(".icppfmt")} == lone


async def test_published_caches_are_not_in_the_way_of_a_cleanup(story: Harness) -> None:
    published = [f".canister_cache/{PUBLISHED}/sessions/{n}" for n in range(3)]
    with story.canister.stable.begin() as transaction:
        for path in [*published, f"{FOLDER}/own"]:
            transaction.write_file(path, b"data")
        transaction.commit_sync()
    await story.call("set_cache_cleanup_config", {"ttl_seconds": 0, "max_files_per_run": 1})
    record = await story.call("cache_cleanup_now")
    assert (record.files_examined, record.files_deleted) == (1, 1)
    assert story.canister.stable.stat(f"{FOLDER}/own") is None
    assert all(story.canister.stable.stat(path) is not None for path in published)


async def test_cleanup_configuration(story: Harness) -> None:
    start = dict(await story.call("set_cache_cleanup_config", {}))
    assert start == {
        "period_seconds": 600,
        "ttl_seconds": 21600,
        "max_files_per_run": 256,
        "is_running": False,
    }
    changed = await story.call(
        "set_cache_cleanup_config", {"period_seconds": 0, "ttl_seconds": 0, "max_files_per_run": 0}
    )
    assert (changed.period_seconds, changed.ttl_seconds, changed.max_files_per_run) == (600, 0, 1)
    clamped = await story.call("set_cache_cleanup_config", {"max_files_per_run": 99_999, "period_seconds": 5})
    assert (clamped.max_files_per_run, clamped.period_seconds) == (10_000, 5)
    assert dict(await story.call("cache_cleanup_start_timer")) == {"ok": True, "is_running": True}
    assert (await story.call("get_cache_cleanup_stats")).is_running
    assert dict(await story.call("cache_cleanup_stop_timer")) == {"ok": True, "is_running": False}


async def test_cycle_balance(story: Harness) -> None:
    assert await story.fails("get_cycle_balance") == (
        "cycle balance tracking is off — an admin must call cycle_balance_start_timer"
    )
    await story.call("cycle_balance_start_timer")
    reading = await story.call("get_cycle_balance")
    assert reading.cycle_balance <= 20_000_000_000_000
    assert reading.updated_at_ns > 0
    await story.call("cycle_balance_stop_timer")
    await story.fails("get_cycle_balance")
