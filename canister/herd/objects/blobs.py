"""Bytes by their SHA-256: model files, and arguments of calls that are too large for a log. Checked whenever read."""

from __future__ import annotations

import asyncio
import hashlib
import os
import tempfile
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from canister.herd.objects.objects import (
    BLOCK_BYTES,
    ObjectDamaged,
    Objects,
    ObjectsUnavailable,
    blob_key,
    once,
    whole,
)
from canister.system import atomic_file
from canister.system.hashing import sha256_of_file

_TRIES = 4  # of a transfer that does not get on
_PAUSE_SECONDS = 1.0


async def put(objects: Objects, data: bytes) -> str:
    """Put bytes there, if they are not; returns their SHA-256."""
    sha256 = await asyncio.to_thread(_sha256, data)
    await objects.create(blob_key(sha256), once(data))
    return sha256


async def get(objects: Objects, sha256: str, max_bytes: int) -> bytes:
    """NotFound when they are not there; ObjectDamaged when something else is, or more than max_bytes."""
    data = await whole(objects, blob_key(sha256), max_bytes)
    if await asyncio.to_thread(_sha256, data) != sha256:
        raise _damaged(sha256)
    return data


async def put_file(objects: Objects, path: Path, sha256: str | None = None) -> str:
    """Put a file there, if it is not; returns its SHA-256. sha256: of the file, where that is known already.

    ObjectDamaged, and nothing put, when the file is another than that. OSError when it cannot be read.
    """
    if sha256 is None:
        sha256 = await asyncio.to_thread(sha256_of_file, path)
    await objects.create(blob_key(sha256), _checked(path, sha256))
    return sha256


async def get_file(objects: Objects, sha256: str, path: Path) -> None:
    """Bring a blob to a file, which is then whole and durable, and replaces what was there.

    A transfer that breaks off goes on from where it was. NotFound and ObjectDamaged as for `get`, and
    ObjectsUnavailable when it does not get on; OSError when the file cannot be written. The file is then as before.
    """
    staged = await asyncio.to_thread(_stage, path)
    try:
        tries = _TRIES
        while True:
            before = staged.n_bytes
            try:
                await _receive(objects, sha256, staged)
                break
            except ObjectsUnavailable:
                tries = _TRIES if staged.n_bytes > before else tries - 1
                if not tries:
                    raise
            await asyncio.sleep(_PAUSE_SECONDS)
        if staged.digest.hexdigest() != sha256:
            raise _damaged(sha256)
        await asyncio.to_thread(staged.put, path)
    finally:
        await asyncio.shield(asyncio.to_thread(staged.drop))


@dataclass(slots=True)
class _Staged:
    """A file in the making, and the digest of what it has."""

    file: BinaryIO
    path: Path
    digest: hashlib._Hash = field(default_factory=hashlib.sha256)
    n_bytes: int = 0

    def write(self, block: bytes) -> None:
        self.file.write(block)
        self.digest.update(block)
        self.n_bytes += len(block)

    def put(self, path: Path) -> None:
        self.file.flush()
        os.fsync(self.file.fileno())
        os.replace(self.path, path)
        atomic_file.sync_folder(path.parent)

    def drop(self) -> None:
        self.file.close()
        self.path.unlink(missing_ok=True)


async def _receive(objects: Objects, sha256: str, staged: _Staged) -> None:
    async with aclosing(objects.read(blob_key(sha256), staged.n_bytes)) as blocks:
        async for block in blocks:
            await asyncio.to_thread(staged.write, block)


async def _checked(path: Path, sha256: str) -> AsyncGenerator[bytes, None]:
    """A file's bytes; at their end ObjectDamaged, so that nothing is put, when they are not those of the SHA-256."""
    digest = hashlib.sha256()
    file = await asyncio.to_thread(path.open, "rb")
    with file:
        while block := await asyncio.to_thread(file.read, BLOCK_BYTES):
            await asyncio.to_thread(digest.update, block)
            yield block
    if digest.hexdigest() != sha256:
        raise ObjectDamaged(f"{path} is not the file of SHA-256 {sha256}, or was changed while it was read")


def _stage(path: Path) -> _Staged:
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    return _Staged(os.fdopen(descriptor, "wb"), Path(name))


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _damaged(sha256: str) -> ObjectDamaged:
    return ObjectDamaged(
        f"the object {blob_key(sha256)!r} is not what its name says; remove it, and upload the file again"
    )
