"""Uploads, downloads and the file methods: messages and numbers as spec/canister.md §4 has them."""

from __future__ import annotations

import hashlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.harness import Harness, canister_in

pytestmark = pytest.mark.anyio


@pytest.fixture
async def files(tmp_path: Path) -> AsyncIterator[Harness]:
    async with canister_in(tmp_path) as harness:
        yield harness


async def put(
    files: Harness, name: str, chunk: bytes, offset: int = 0, chunksize: int | None = None
) -> dict[str, object]:
    arg = {
        "filename": name,
        "chunk": chunk,
        "chunksize": len(chunk) if chunksize is None else chunksize,
        "offset": offset,
    }
    record = await files.call("file_upload_chunk", arg)
    return dict(record)


async def get(files: Harness, name: str, chunksize: int, offset: int) -> dict[str, object]:
    return dict(await files.call("file_download_chunk", {"filename": name, "chunksize": chunksize, "offset": offset}))


def details(name: str, data: bytes) -> dict[str, object]:
    return {"filename": name, "filesize": len(data), "filesha256": hashlib.sha256(data).hexdigest()}


async def test_chunks_in_order_with_size_and_hash_so_far(files: Harness) -> None:
    assert await put(files, "a/b.bin", b"12345") == details("a/b.bin", b"12345")
    assert await put(files, "a/b.bin", b"67", 5) == details("a/b.bin", b"1234567")
    assert dict(await files.call("uploaded_file_details", {"filename": "a/b.bin"})) == details("a/b.bin", b"1234567")


async def test_the_last_chunk_again_is_a_retry_and_offset_zero_starts_anew(files: Harness) -> None:
    await put(files, "f", b"12345")
    await put(files, "f", b"67", 5)
    assert await put(files, "f", b"67", 5) == details("f", b"1234567")
    assert await put(files, "f", b"other bytes", 5) == details("f", b"1234567")
    assert await put(files, "f", b"89", 7) == details("f", b"123456789")
    assert await put(files, "f", b"ab") == details("f", b"ab")
    assert await put(files, "f", b"ab") == details("f", b"ab")


async def test_an_empty_last_chunk_does_not_turn_the_next_one_into_a_retry(files: Harness) -> None:
    await put(files, "f", b"12345")
    await put(files, "f", b"", 5)
    assert await put(files, "f", b"67", 5) == details("f", b"1234567")


async def test_a_hole_and_a_chunk_out_of_order_are_refused_and_lose_nothing(files: Harness) -> None:
    await put(files, "f", b"12345")
    await put(files, "f", b"67890", 5)
    for offset in (11, 3, 2**64 - 1):
        message = await files.fails(
            "file_upload_chunk", {"filename": "f", "chunk": b"x", "chunksize": 1, "offset": offset}
        )
        assert "10" in message
        assert str(offset) in message
    assert "0 bytes" in await files.fails(
        "file_upload_chunk", {"filename": "new", "chunk": b"x", "chunksize": 1, "offset": 5}
    )
    assert (await get(files, "f", 100, 0))["chunk"] == b"1234567890"


async def test_several_files_in_flight(files: Harness) -> None:
    await put(files, "a", b"a1")
    await put(files, "b", b"b1")
    await put(files, "a", b"a2", 2)
    assert await put(files, "b", b"b2", 2) == details("b", b"b1b2")
    assert (await get(files, "a", 10, 0))["chunk"] == b"a1a2"


async def test_the_limit_on_chunks_holds_for_size_and_bytes(files: Harness) -> None:
    small = {"filename": "f", "chunk": b"x", "chunksize": 2_097_153, "offset": 0}
    assert await files.fails("file_upload_chunk", small) == (
        "file_upload_chunk_: chunksize 2097153 exceeds limit 2097152"
    )
    big = {"filename": "f", "chunk": bytes(2_097_153), "chunksize": 1, "offset": 0}
    assert "exceeds limit 2097152" in await files.fails("file_upload_chunk", big)
    assert await files.fails("file_download_chunk", {"filename": "f", "chunksize": 2_097_153, "offset": 0}) == (
        "file_download_chunk_: chunksize 2097153 exceeds limit 2097152"
    )
    # The original's script sends the nominal size with the last, shorter chunk.
    assert await put(files, "f", b"abc", chunksize=2_000_000) == details("f", b"abc")


async def test_downloads(files: Harness) -> None:
    await put(files, "f", b"1234567")
    assert await get(files, "f", 5, 0) == {
        "chunk": b"12345", "chunksize": 5, "filesize": 7, "offset": 0, "done": False,
    }  # fmt: skip
    assert await get(files, "f", 5, 5) == {
        "chunk": b"67", "chunksize": 2, "filesize": 7, "offset": 5, "done": True,
    }  # fmt: skip
    assert (await get(files, "f", 5, 2))["done"] is True
    beyond = await get(files, "f", 5, 100)
    assert (beyond["chunk"], beyond["done"]) == (b"", True)
    assert await files.fails("file_download_chunk", {"filename": "no", "chunksize": 5, "offset": 0}) == (
        "file_download_chunk_: ERROR: failed to open ifstream for file no"
    )
    assert await files.fails("uploaded_file_details", {"filename": "no"}) == (
        "uploaded_file_details_: Metadata for this file are not found: no"
    )


async def test_size_time_and_removal(files: Harness) -> None:
    before = time.time_ns()
    await put(files, "d/f", b"12345")
    assert dict(await files.call("filesystem_file_size", {"filename": "d/f"})) == {
        "exists": True, "filename": "d/f", "filesize": 5, "msg": "File exists: d/f\nFile size: 5 bytes\n",
    }  # fmt: skip
    stamp = await files.call("get_creation_timestamp_ns", {"filename": "d/f"})
    assert before <= stamp.timestamp_ns <= time.time_ns()
    assert stamp.msg == (
        f"File exists: d/f\nFile creation timestamp_ns: {stamp.timestamp_ns} ns\n"
        f"File creation age: {stamp.age_seconds} seconds\n"
    )
    for method in ("filesystem_file_size", "get_creation_timestamp_ns"):
        assert await files.fails(method, {"filename": "no"}) == "File does not exist: no"
    assert (await files.fails("filesystem_remove", {"filename": "d"})).startswith(
        "filesystem_remove_: Failed to remove: d: "
    )
    for path in ("d/f", "d"):
        assert dict(await files.call("filesystem_remove", {"filename": path})) == {
            "exists": True, "removed": True, "filename": path, "msg": f"Path removed successfully: {path}",
        }  # fmt: skip
    assert dict(await files.call("filesystem_remove", {"filename": "d"})) == {
        "exists": False, "removed": False, "filename": "d", "msg": "Path does not exist: d\n",
    }  # fmt: skip
    await files.fails("uploaded_file_details", {"filename": "d/f"})


async def test_folders_are_listed_depth_first_in_order_of_creation(files: Harness) -> None:
    for name in ("top/z/2", "top/z/1", "top/a", "top/z/0", "other"):
        await put(files, name, b"x")
    for method in ("recursive_dir_content_query", "recursive_dir_content_update"):
        found = await files.call(method, {"dir": "top", "max_entries": 0})
        assert [(entry.filename, entry.filetype) for entry in found] == [
            ("top/z", "directory"),
            ("top/z/2", "file"),
            ("top/z/1", "file"),
            ("top/z/0", "file"),
            ("top/a", "file"),
        ]
        assert [e.filename for e in await files.call(method, {"dir": "top", "max_entries": 2})] == [
            "top/z",
            "top/z/2",
        ]
        assert await files.fails(method, {"dir": "no", "max_entries": 0}) == (
            "recursive_dir_content_: Directory does not exist: no\n"
        )
        assert (await files.fails(method, {"dir": "other", "max_entries": 0})).startswith("recursive_dir_content_: ")
    root = await files.call("recursive_dir_content_query", {"dir": ".", "max_entries": 0})
    assert "top/z/2" in [entry.filename.removeprefix("./") for entry in root]


@pytest.mark.parametrize(
    "name", ["../x", "a/../../x", "/etc/passwd", "a\0b", "x" * 300, "", "a/" * 600 + "b", "a\\..\\b"]
)
async def test_no_path_leaves_the_root(files: Harness, name: str, tmp_path: Path) -> None:
    outside = tmp_path.parent / "x"
    for method, arg in (
        ("file_upload_chunk", {"filename": name, "chunk": b"x", "chunksize": 1, "offset": 0}),
        ("file_download_chunk", {"filename": name, "chunksize": 1, "offset": 0}),
        ("filesystem_file_size", {"filename": name}),
        ("filesystem_remove", {"filename": name}),
        ("load_model", {"args": ["--model", name]}),
    ):
        reply = await files.reply(method, arg)
        assert reply.error is not None
        assert reply.error.http_status in (400, 404)
    assert not outside.exists()


async def test_a_planted_symlink_is_not_followed(files: Harness, tmp_path: Path) -> None:
    decoy = tmp_path / "decoy"
    decoy.mkdir()
    (decoy / "secret").write_bytes(b"secret")
    await put(files, "d/f", b"x")
    folder = files.canister.stable.physical("d/f").parent
    (folder / "f").unlink()
    (folder / "f").symlink_to(decoy / "secret")
    reply = await files.reply("file_download_chunk", {"filename": "d/f", "chunksize": 100, "offset": 0})
    assert reply.error is not None
    folder.rename(folder.with_name("was_d"))
    folder.symlink_to(decoy)
    for method, arg in (
        ("file_upload_chunk", {"filename": "d/new", "chunk": b"x", "chunksize": 1, "offset": 0}),
        ("file_download_chunk", {"filename": "d/secret", "chunksize": 100, "offset": 0}),
    ):
        reply = await files.reply(method, arg)
        assert reply.error is not None
    assert [path.name for path in decoy.iterdir()] == ["secret"]


async def test_a_file_is_no_folder_and_a_folder_no_file(files: Harness) -> None:
    await put(files, "d/f", b"x")
    for name in ("d", "d/f/g"):
        arg = {"filename": name, "chunk": b"x", "chunksize": 1, "offset": 0}
        assert name.split("/g")[0] in await files.fails("file_upload_chunk", arg)
    assert (await get(files, "d/f", 10, 0))["chunk"] == b"x"


async def test_memory_status_is_in_whole_pages(files: Harness) -> None:
    empty = await files.call("get_memory_status")
    assert empty.wasm_heap_bytes > 0
    assert empty.stable_bytes > 0
    await put(files, "f", bytes(200_000))
    status = await files.call("get_memory_status")
    assert status.stable_bytes >= 200_000
    assert status.stable_bytes % 65536 == status.wasm_heap_bytes % 65536 == 0
