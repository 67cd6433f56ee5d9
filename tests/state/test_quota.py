"""Stable memory has limits, in all and for each caller's prompt caches; what is refused changes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from canister.store.index import Entry, FileIndex, FileInfo
from canister.store.paths import parent_of
from tests.harness import CHAT_MODEL, CONTROLLER, GREEDY, Harness, canister_in, someone

pytestmark = pytest.mark.anyio


def chunk(name: str, size: int, offset: int = 0, field: str = "filename") -> dict[str, object]:
    return {field: name, "chunk": bytes(size), "chunksize": size, "offset": offset}


def sizes(harness: Harness) -> dict[str, int]:
    return {info.path: info.size for info in harness.canister.stable.walk("") or [] if info.kind == "file"}


async def test_bytes_of_all(tmp_path: Path) -> None:
    async with canister_in(tmp_path, max_stable_bytes=1000) as harness:
        await harness.call("file_upload_chunk", chunk("a", 600))
        await harness.call("file_upload_chunk", chunk("b", 400))
        for refused in (chunk("c", 1), chunk("b", 1, 400), chunk("a", 601)):
            error = await harness.fails("file_upload_chunk", refused)
            assert "max_stable_bytes = 1000" in error
            assert sizes(harness) == {"a": 600, "b": 400}
        # Less is always taken, and what is removed makes room.
        await harness.call("file_upload_chunk", chunk("a", 500))
        await harness.call("filesystem_remove", {"filename": "b"})
        await harness.call("file_upload_chunk", chunk("c", 500))
        assert sizes(harness) == {"a": 500, "c": 500}
    async with canister_in(tmp_path, max_stable_bytes=1000) as harness:
        assert "max_stable_bytes" in await harness.fails("file_upload_chunk", chunk("d", 1))


async def test_files_of_all(tmp_path: Path) -> None:
    async with canister_in(tmp_path, max_files=3) as harness:
        await harness.call("file_upload_chunk", chunk("folder/a", 1))
        await harness.call("file_upload_chunk", chunk("b", 1))
        assert "max_files = 3" in await harness.fails("file_upload_chunk", chunk("c", 1))
        await harness.call("file_upload_chunk", chunk("b", 2))


async def test_the_caches_of_one_caller_are_not_those_of_another(tmp_path: Path) -> None:
    async with canister_in(tmp_path, max_cache_bytes_per_caller=100, max_cache_files_per_caller=5) as harness:
        for n in (1, 2, 3):
            await harness.call("assignAdminRole", {"principal": someone(n), "role": "AdminUpdate", "note": ""})

        def cache(name: str, size: int) -> dict[str, object]:
            return chunk(name, size, field="promptcache")

        await harness.call("upload_prompt_cache_chunk", cache("a", 100), someone(1))
        error = await harness.fails("upload_prompt_cache_chunk", cache("b", 1), someone(1))
        assert "max_cache_bytes_per_caller = 100" in error
        assert someone(1) not in error
        await harness.call("upload_prompt_cache_chunk", cache("b", 100), someone(2))
        # copies count as well
        copy = {"from": "b", "to": "c"}
        assert "max_cache_bytes_per_caller" in await harness.fails("copy_prompt_cache", copy, someone(2))
        # a folder and the caches in it: five at most
        for n in range(4):
            await harness.call("upload_prompt_cache_chunk", cache(f"{n}", 1), someone(3))
        error = await harness.fails("upload_prompt_cache_chunk", cache("one more", 1), someone(3))
        assert "max_cache_files_per_caller = 5" in error
        await harness.call("file_upload_chunk", chunk("elsewhere", 500))


async def test_a_log_begins_anew(tmp_path: Path) -> None:
    async with canister_in(tmp_path, max_log_bytes=4000, slots=1) as harness:
        await harness.load(CHAT_MODEL)
        for n in range(12):
            await harness.run(f"Hello {n}", *GREEDY, "-n", "4", "--log-file", "logs/main.log", cache=None)
        stable = harness.canister.stable
        found = {path: size for path, size in sizes(harness).items() if path.startswith("logs/")}
        assert set(found) == {"logs/main.log", "logs/main.log.1"}
        assert all(size <= 4000 for size in found.values())
        newest = stable.read("logs/main.log", 0, 4000).decode()
        before = stable.read("logs/main.log.1", 0, 4000).decode()
        for text in (newest, before):
            assert text.startswith("# log of llama.cpp runs\n")
        # No run is cut in two, and those in the older file are the older ones.
        assert newest.count("number of tokens in prompt") == newest.count("eval time") // 2 > 0
        assert before.count("number of tokens in prompt") > 0
        # A file that is no log is not written over.
        await harness.call("file_upload_chunk", chunk("logs/other.1", 5))
        for _ in range(12):
            reply = await harness.reply("run_update", {"args": ["-p", "Hello", "-n", "4", "--log-file", "logs/other"]})
        assert "there is something else of that name" in str(reply.error)
        assert stable.read("logs/other.1", 0, 10) == bytes(5)
        assert CONTROLLER in newest


@given(st.lists(st.tuples(st.sampled_from(["a", "a/b", "a/b/c", "a/d", "e"]), st.none() | st.integers(0, 9))))
def test_usage_is_what_a_walk_would_count(steps: list[tuple[str, int | None]]) -> None:
    """Files come, change their size, and go."""
    index = FileIndex()
    folders = ("x", "x/a", "x/a/b")
    index.publish((folder, Entry(FileInfo(n, folder, "directory", 0, 0, 0))) for n, folder in enumerate(folders))
    for n, (name, size) in enumerate(steps):
        path = f"x/{name}/file"
        folder = parent_of(path)
        if index.get(folder) is None:
            index.publish([(folder, Entry(FileInfo(100 + n, folder, "directory", 0, 0, 0)))])
        index.publish([(path, None if size is None else Entry(FileInfo(n, path, "file", size, 0, 0)))])
        for below in ("", *folders):
            found = index.walk(below, 0) or []
            assert index.usage(below) == (len(found), sum(info.size for info in found))
        assert index.total_bytes == index.usage("").n_bytes
    # The one that a start makes of all at once is the same.
    entries = sorted((entry for entry in index._entries.values()), key=lambda entry: entry.info.path.count("/"))
    filled = FileIndex.filled(entries)
    for below in ("", *folders, "x/a/d", "x/e"):
        assert filled.usage(below) == index.usage(below)
        walked, expected = filled.walk(below, 0), index.walk(below, 0)
        assert (walked is None) == (expected is None)
        assert sorted(walked or []) == sorted(expected or [])
