"""Objects in a folder: on the disk before they are told, and nothing of what a crash cut off."""

from __future__ import annotations

import asyncio
import os
import stat
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from canister.errors import StorageFull
from canister.herd.objects.folder import FolderObjects
from canister.herd.objects.objects import ObjectsUnavailable, once

pytestmark = pytest.mark.anyio


async def test_contents_are_synced_before_the_name_and_the_name_before_the_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects = await FolderObjects.open(tmp_path / "objects")
    done: list[str] = []

    def noting(name: str) -> Callable[..., Any]:
        real = getattr(os, name)

        def call(*arguments: Any) -> Any:
            is_folder = name == "fsync" and stat.S_ISDIR(os.fstat(arguments[0]).st_mode)
            done.append("sync folder" if is_folder else "sync contents" if name == "fsync" else "name")
            return real(*arguments)

        return call

    for name in ("fsync", "link"):
        monkeypatch.setattr(os, name, noting(name))
    await objects.create("chat/a/1", once(b"x"))
    assert done == ["sync folder", "sync folder", "sync contents", "name", "sync folder"]  # chat, a; then the object
    done.clear()
    await objects.remove("chat/a/1")
    assert done == ["sync folder"]


async def test_a_process_that_is_killed_while_it_creates_leaves_nothing_behind(tmp_path: Path) -> None:
    creating = """
import asyncio, pathlib, sys
from canister.herd.objects.folder import FolderObjects
async def body():
    yield b"x" * 3_000_000
    print("written", flush=True)
    await asyncio.sleep(600)
async def main():
    await (await FolderObjects.open(pathlib.Path(sys.argv[1]))).create("blob/a", body())
asyncio.run(main())
"""
    folder = tmp_path / "objects"
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", creating, str(folder)), stdout=asyncio.subprocess.PIPE
    )
    assert child.stdout is not None
    assert await child.stdout.readline() == b"written\n"
    child.kill()
    await child.wait()

    objects = await FolderObjects.open(folder)
    assert [found async for found in objects.list("blob")] == []
    (left,) = (folder / "blob").iterdir()  # another process may be at it
    assert await objects.create("blob/a", once(b"whole"))
    os.utime(left, (time.time() - 2 * 86400,) * 2)
    await FolderObjects.open(folder)
    assert [path.name for path in (folder / "blob").iterdir()] == ["a"]


async def test_a_caller_who_gives_up_leaves_nothing(tmp_path: Path) -> None:
    objects = await FolderObjects.open(tmp_path)
    begun = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield b"x" * 3_000_000
        begun.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(objects.create("blob/a", body()))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert list((tmp_path / "blob").iterdir()) == []


async def test_only_the_owner_may_read(tmp_path: Path) -> None:
    objects = await FolderObjects.open(tmp_path / "objects")
    await objects.create("blob/a", once(b"x"))
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "objects").rglob("*")]
    assert modes == [0o700, 0o600]


async def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ObjectsUnavailable, match="file"):
        await FolderObjects.open(tmp_path / "file" / "objects")


async def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    objects = await FolderObjects.open(tmp_path)

    def full(_: int) -> None:
        raise OSError(28, os.strerror(28), "disk")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StorageFull, match="no room"):
            await objects.create("a", once(b"x"))
    assert list(tmp_path.iterdir()) == []
    assert await objects.create("a", once(b"x"))
