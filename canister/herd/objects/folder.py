"""Objects as files of a folder, whole and durable: written beside their place, synced, then linked there.

The folder may be shared by several processes, or machines: a link never replaces, so one creator wins. Names that begin
with a dot are files in the making. What a crash leaves of those is removed when it is a day old.
"""

from __future__ import annotations

import asyncio
import errno
import os
import tempfile
import time
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO, ParamSpec, TypeVar

from canister.errors import StorageFull
from canister.herd.objects.objects import BLOCK_BYTES, ObjectsUnavailable, StoredObject, check_key, missing
from canister.system import atomic_file

P = ParamSpec("P")
T = TypeVar("T")

_STAGED = ".part-"
_STAGED_SECONDS = 24 * 3600.0
_LISTED_AT_ONCE = 1000
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True, slots=True)
class _Staged:
    """An object in the making."""

    file: BinaryIO
    path: Path


class FolderObjects:
    """Objects below one folder. `open` makes it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @classmethod
    async def open(cls, folder: Path) -> FolderObjects:
        """Make the folder, and remove what crashes have left in it. Raises ObjectsUnavailable."""
        await _on_thread(_prepare, folder)
        return cls(folder)

    async def create(self, key: str, body: AsyncIterable[bytes]) -> bool:
        path = self._path(key)
        if await _on_thread(path.exists):
            return False
        staged = await _on_thread(_stage, path)
        try:
            pieces: list[bytes] = []
            n_bytes = 0
            async for piece in body:
                pieces.append(piece)
                n_bytes += len(piece)
                if n_bytes >= BLOCK_BYTES:  # small pieces go to the disk together
                    await _on_thread(staged.file.write, b"".join(pieces))
                    pieces, n_bytes = [], 0
            return await _on_thread(_put, staged, b"".join(pieces), path)
        finally:
            await asyncio.shield(asyncio.to_thread(_drop, staged))

    async def read(self, key: str, start: int = 0) -> AsyncGenerator[bytes, None]:
        path = self._path(key)
        try:
            file = await _on_thread(_opened, path, start)
        except FileNotFoundError:
            raise missing(key) from None
        with file:
            while block := await _on_thread(file.read, BLOCK_BYTES):
                yield block

    async def size(self, key: str) -> int | None:
        path = self._path(key)
        try:
            return (await _on_thread(path.stat)).st_size
        except FileNotFoundError:
            return None

    async def remove(self, key: str) -> None:
        await _on_thread(_remove, self._path(key))

    async def list(self, prefix: str) -> AsyncGenerator[StoredObject, None]:
        found = _walk(self._folder, self._path(prefix.rstrip("/")))
        while some := await _on_thread(lambda: list(islice(found, _LISTED_AT_ONCE))):
            for item in some:
                yield item

    async def close(self) -> None:
        """Nothing is held between two calls."""

    def _path(self, key: str) -> Path:
        return self._folder / check_key(key)


async def _on_thread(work: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    """Work on files, beside the event loop. FileNotFoundError is for the caller; other OSErrors are told."""
    try:
        return await asyncio.to_thread(work, *arguments, **named)
    except FileNotFoundError:
        raise
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise StorageFull(f"the folder of the objects has no room: {error.strerror} ({error.filename})") from error
        raise ObjectsUnavailable(
            f"the folder of the objects cannot be used: {error.strerror} ({error.filename}); see to the folder, then "
            "send the call again"
        ) from error


def _prepare(folder: Path) -> None:
    _make_folders(folder)
    old = time.time() - _STAGED_SECONDS
    for path in folder.rglob(f"{_STAGED}*"):
        with suppress(FileNotFoundError):  # another process cleans up too
            if path.stat().st_mtime < old:
                path.unlink()


def _make_folders(folder: Path) -> None:
    """Make a folder and those above it, each so that it stays."""
    if folder.is_dir():
        return
    _make_folders(folder.parent)
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    atomic_file.sync_folder(folder.parent)


def _stage(path: Path) -> _Staged:
    _make_folders(path.parent)
    descriptor, name = tempfile.mkstemp(prefix=_STAGED, dir=path.parent)
    return _Staged(os.fdopen(descriptor, "wb"), Path(name))


def _put(staged: _Staged, rest: bytes, path: Path) -> bool:
    staged.file.write(rest)
    staged.file.flush()
    os.fsync(staged.file.fileno())
    try:
        os.link(staged.path, path)
    except FileExistsError:
        return False
    atomic_file.sync_folder(path.parent)
    return True


def _drop(staged: _Staged) -> None:
    with suppress(OSError):  # what could not be written is not missed
        staged.file.close()
    staged.path.unlink(missing_ok=True)


def _opened(path: Path, start: int) -> BinaryIO:
    file = path.open("rb", buffering=0)
    file.seek(start)
    return file


def _remove(path: Path) -> None:
    with suppress(FileNotFoundError):
        path.unlink()
        atomic_file.sync_folder(path.parent)


def _walk(top: Path, folder: Path) -> Iterator[StoredObject]:
    for parent, _, names in os.walk(folder):
        for name in names:
            if name.startswith("."):
                continue
            path = Path(parent, name)
            with suppress(FileNotFoundError):  # removed meanwhile
                about = path.stat()
                yield StoredObject(path.relative_to(top).as_posix(), about.st_size, about.st_mtime)
