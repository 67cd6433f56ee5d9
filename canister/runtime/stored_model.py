"""A model in a canister's stable memory, one GGUF file or all parts of a split one: found, read, opened.

Nothing is loaded here. It only decides whether the files make one model.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from canister.errors import BadRequest, Conflict, NotFound
from canister.model_file.gguf import DEFAULT_ALIGNMENT, GgufFile, read_gguf
from canister.model_file.parts import PartName, identity, joined, missing_parts, names_of_parts
from canister.store.stable import FileInfo, StableMemory
from canister.system.hashing import sha256_of_file


@dataclass(frozen=True, slots=True)
class StoredModel:
    """path: of the file, or of the first part. files: all parts in order. header: of all of them together."""

    path: str
    files: tuple[FileInfo, ...]
    header: GgufFile

    @property
    def n_bytes(self) -> int:
        return sum(file.size for file in self.files)


@dataclass(frozen=True, slots=True)
class OpenPart:
    """A file of a model that is held open. path: on the disk."""

    path: Path
    fd: int


async def find_model(stable: StableMemory, path: str) -> StoredModel:
    """The model of which a file of stable memory is all, or the first part. NotFound and BadRequest name the file."""
    try:
        return await asyncio.to_thread(read_model, stable, path)
    except BadRequest as error:
        raise BadRequest(f"cannot load model {path}: {error}") from error


def read_model(stable: StableMemory, path: str) -> StoredModel:
    """As `find_model`, on this thread. A BadRequest says what is wrong, but not with which file."""
    first = stable.stat(path)
    if first is None or first.kind != "file":
        raise NotFound(f"cannot load model {path}: there is no such file in stable memory; upload it first")
    header = _read(stable.physical(path))
    names = names_of_parts(first.path, header)
    if len(names) == 1:
        return StoredModel(path, (first,), header)
    found = [stable.stat(name) for name in names]
    files = tuple(file for file in found if file is not None and file.kind == "file")
    if len(files) != len(names):
        known = {file.path for file in files}
        raise BadRequest(missing_parts([name for name in names if name not in known], len(names)))
    headers = [header, *(_read_part(stable, name) for name in names[1:])]
    return StoredModel(path, files, joined(headers))


def _read_part(stable: StableMemory, name: str) -> GgufFile:
    try:
        return _read(stable.physical(name))
    except BadRequest as error:
        raise BadRequest(f"its part {name}: {error}") from error


def _read(path: Path) -> GgufFile:
    header = read_gguf(path)
    if header.tensors and header.data_offset % DEFAULT_ALIGNMENT:
        raise BadRequest(
            f"its weights are aligned to {header.alignment} bytes (general.alignment), and llama.cpp computes "
            f"only with such as are aligned to {DEFAULT_ALIGNMENT}; convert it again without general.alignment"
        )
    return header


def files_of(stable: StableMemory, path: str) -> tuple[FileInfo, ...]:
    """The file under this name now, with the files under the names of the other parts. Reads no header."""
    name = PartName.read(path)
    found = (stable.stat(path) for path in ((path,) if name is None else name.siblings()))
    return tuple(file for file in found if file is not None)


async def model_id(stable: StableMemory, model: StoredModel) -> bytes:
    """SHA-256 of the model, from its files' hashes, which are known from their uploads or else computed."""
    return identity([await _sha256(stable, file) for file in model.files])


async def _sha256(stable: StableMemory, file: FileInfo) -> bytes:
    upload, path = stable.upload(file.path), stable.physical(file.path)
    if upload is not None and upload.size == file.size:
        return bytes.fromhex(upload.sha256)
    return bytes.fromhex(await asyncio.to_thread(sha256_of_file, path))


@contextmanager
def opened_model(stable: StableMemory, model: StoredModel) -> Iterator[Sequence[OpenPart]]:
    """All files held open, so that what was checked is what is loaded, even if somebody replaces them meanwhile."""
    parts: list[OpenPart] = []
    try:
        for file in model.files:
            opened = stable.open_file(file.path)
            parts.append(OpenPart(stable.physical(file.path), opened.fd))
            if opened.info != file:
                raise Conflict(f"cannot load model {model.path}: {file.path} was changed meanwhile; load it again")
        yield parts
    finally:
        for part in parts:
            os.close(part.fd)
