"""Copies a data folder into one tar file while its server runs, and makes the folder again from it.

Each canister is copied as of one moment: its database is held while all its files are opened and a reader of the
database begins. Then calls continue, and the copy reads what was opened, since committed bytes of a file never change.
A process may open only so many files; the others are held by links in a folder of their own, which is removed again.

    server.db, controller.pem, controller.key, root.key, node.pem          secrets: the file is for its owner alone
    canisters/<id>/canister.db, canisters/<id>/stable/…
    herd.db, ao/ao.db, and the objects and secrets beside them             of a herd, or a network of AO
    manifest.json                                                          the last one: sizes and SHA-256 of the others
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import io
import json
import os
import resource
import shutil
import sqlite3
import sys
import tarfile
import tempfile
import time
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from canister.errors import BadRequest, CanisterError, Conflict, NotFound, StoreDamaged
from canister.store import outside
from canister.store.filesystem import DiskFolder, FileLayer, clear_error
from canister.store.paths import clean_path
from canister.system import atomic_file
from canister.system.data_dir import (
    BESIDE_DATABASES,
    BESIDE_FILES,
    BESIDE_OBJECTS,
    CANISTER_DATABASE,
    CANISTERS,
    SECRETS,
    SERVER_DATABASE,
    STABLE,
    STAGING,
)

FORMAT = 1
MANIFEST = "manifest.json"
_BLOCK_BYTES = 1024 * 1024
_MAX_MANIFEST_BYTES = 1 << 30
_SPARE_FILES = 200  # that may be open beside those of canisters: databases, the tar, folders
_HELD_FOLDER = ".backup."  # and letters; what a backup that was killed has left goes with the next one


@dataclass
class Copied:
    """The result of a backup or a restore. damaged: files that were damaged before, by their name in the tar."""

    n_canisters: int = 0
    n_files: int = 0
    n_bytes: int = 0
    damaged: list[str] = field(default_factory=list)


# -- backup


def back_up(data_dir: Path, target: Path) -> Copied:
    """Write the backup, whole or not at all. Raises Conflict (target is there), NotFound (nothing to back up)."""
    if not (data_dir / SERVER_DATABASE).is_file():
        raise NotFound(f"{data_dir} holds no server's data; name the folder with --data-dir")
    if target.exists():
        raise Conflict(f"{target} is there already; remove it, or choose another name")
    n_open = _allow_many_files() - _SPARE_FILES
    _remove_left_links(data_dir)
    try:
        with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as folder, ExitStack() as held:
            scratch = Path(folder)
            holder = _Holder(_folder_of_links(data_dir, held), n_open, held)
            server, canisters = _hold(data_dir, holder)
            beside = {
                name: held.enter_context(outside.reading(data_dir / name))
                for name in BESIDE_DATABASES
                if (data_dir / name).is_file()
            }
            copied = Copied(n_canisters=len(canisters))
            descriptor = os.open(scratch / "tar", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as out:
                with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
                    writer = _Writer(tar, copied)
                    _write(writer, data_dir, scratch, server, canisters)
                    for name, reader in beside.items():
                        writer.add_database(name, reader, scratch)
                    _write_objects(writer, data_dir)
                    writer.add_manifest()
                out.flush()
                os.fsync(out.fileno())
            (scratch / "tar").rename(target)
            atomic_file.sync_folder(target.parent)
    except OSError as error:
        raise clear_error(error, str(target)) from error
    return copied


@dataclass
class _Held:
    """A canister at one moment. files: (path, file, committed size); None for one that is gone."""

    id: str
    reader: sqlite3.Connection
    files: list[tuple[str, int | Path | None, int]]


@dataclass
class _Holder:
    """Keeps bytes of files as they are: n_open files open, the others by links in a folder.

    held: closes what was opened.
    """

    links: Path
    n_open: int
    held: ExitStack
    n_held: int = 0

    def hold(self, descriptor: int, path: Path) -> int | Path:
        """An open file, or another name of it; the descriptor is closed then. path: its name."""
        self.n_held += 1
        if self.n_held <= self.n_open:
            self.held.callback(os.close, descriptor)
            return descriptor
        link = self.links / str(self.n_held)
        try:
            if sys.platform == "linux":
                # The very file that was opened. Only with a folder's descriptor does Python follow links here.
                os.link(f"/proc/self/fd/{descriptor}", link, src_dir_fd=descriptor)
            else:
                os.link(path, link, follow_symlinks=False)
        except OSError as error:
            raise Conflict(
                f"there are more files than a process may open ({self.n_open + _SPARE_FILES}), and this file system "
                f"makes no links ({error.strerror}): allow more, as by 'ulimit -n 1000000' before the backup"
            ) from error
        finally:
            os.close(descriptor)
        return link


def _folder_of_links(data_dir: Path, held: ExitStack) -> Path:
    """A new folder, locked for as long as it is used."""
    folder = Path(held.enter_context(tempfile.TemporaryDirectory(prefix=_HELD_FOLDER, dir=data_dir)))
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    held.callback(os.close, descriptor)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    return folder


def _remove_left_links(data_dir: Path) -> None:
    """Remove the folders of backups that were killed; those of running ones are locked."""
    for folder in data_dir.glob(f"{_HELD_FOLDER}*"):
        with suppress(OSError):
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(descriptor)


def _hold(data_dir: Path, holder: _Holder) -> tuple[sqlite3.Connection, list[_Held]]:
    """Hold all canisters, each at one moment."""
    with outside.stopped(data_dir / SERVER_DATABASE):
        server = holder.held.enter_context(outside.reading(data_dir / SERVER_DATABASE))
        folders = [
            data_dir / CANISTERS / id for id in outside.canister_ids(server)
        ]  # one that was just made may have none yet
        return server, [_hold_canister(folder, holder) for folder in folders if (folder / CANISTER_DATABASE).is_file()]


def _hold_canister(folder: Path, holder: _Holder) -> _Held:
    with (
        closing(DiskFolder(folder / STABLE, FileLayer())) as stable,
        closing(DiskFolder(folder / STAGING, FileLayer())) as staging,
        outside.stopped(folder / CANISTER_DATABASE),
    ):
        reader = holder.held.enter_context(outside.reading(folder / CANISTER_DATABASE))
        staged = outside.staged(reader)
        files: list[tuple[str, int | Path | None, int]] = []
        for path, size in outside.files(reader):
            found = _open(stable, staging, path, staged.get(path))
            files.append((path, None if found is None else holder.hold(*found), size))
    return _Held(folder.name, reader, files)


def _open(stable: DiskFolder, staging: DiskFolder, path: str, source: str | None) -> tuple[int, Path] | None:
    """The committed file, open, and where it lies. A new one lies in staging until it is moved, so look for it there
    first.
    """
    if source is not None:
        with suppress(FileNotFoundError):
            return staging.open_file(source, os.O_RDONLY), staging.path / source
    try:
        return stable.open_file(path, os.O_RDONLY), stable.path / path
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise
        return None


@dataclass
class _Writer:
    """Adds files to the tar and notes their sizes and hashes."""

    tar: tarfile.TarFile
    copied: Copied
    manifest: list[dict[str, object]] = field(default_factory=list)

    def add(self, name: str, source: BinaryIO, size: int) -> None:
        reader = _Hashing(source)
        header = tarfile.TarInfo(name)
        header.size, header.mode, header.mtime = size, 0o600, int(time.time())
        self.tar.addfile(header, reader)  # type: ignore[arg-type]  # only read is called
        self.manifest.append({"name": name, "size": size, "sha256": reader.digest()})
        self.copied.n_files += 1
        self.copied.n_bytes += size

    def add_database(self, name: str, reader: sqlite3.Connection, scratch: Path) -> None:
        """The database as its reader sees it, in one piece."""
        copy = scratch / "database"
        faults = outside.copy(reader, copy)
        if faults:
            raise StoreDamaged(f"{name} is not sound: {faults[0]}; `canister doctor` tells more")
        with copy.open("rb") as file:
            self.add(name, file, copy.stat().st_size)
        copy.unlink()

    def add_manifest(self) -> None:
        content = {"format": FORMAT, "made_ns": time.time_ns(), "damaged": self.copied.damaged, "files": self.manifest}
        data = json.dumps(content, indent=1).encode()
        header = tarfile.TarInfo(MANIFEST)
        header.size, header.mode, header.mtime = len(data), 0o600, int(time.time())
        self.tar.addfile(header, io.BytesIO(data))


def _write(writer: _Writer, data_dir: Path, scratch: Path, server: sqlite3.Connection, canisters: list[_Held]) -> None:
    writer.add_database(SERVER_DATABASE, server, scratch)
    for name in (*SECRETS, *BESIDE_FILES):
        if (data_dir / name).is_file():
            data = (data_dir / name).read_bytes()
            writer.add(name, io.BytesIO(data), len(data))
    for canister in canisters:
        writer.add_database(f"{CANISTERS}/{canister.id}/{CANISTER_DATABASE}", canister.reader, scratch)
        for path, held, size in canister.files:
            name = f"{CANISTERS}/{canister.id}/{STABLE}/{path}"
            if held is None:
                writer.copied.damaged.append(name)
                continue
            with held.open("rb") if isinstance(held, Path) else os.fdopen(os.dup(held), "rb") as file:
                n_found = os.fstat(file.fileno()).st_size
                if n_found < size:
                    writer.copied.damaged.append(name)
                writer.add(name, file, min(size, n_found))


def _write_objects(writer: _Writer, data_dir: Path) -> None:
    """All objects of this moment. One is never changed, and is there before a row names it."""
    for folder in BESIDE_OBJECTS:
        for path in sorted((data_dir / folder).rglob("*")):
            if path.name.startswith(".") or not path.is_file():  # one in the making
                continue
            with suppress(FileNotFoundError), path.open("rb") as file:  # some are but a cache, and are removed
                writer.add(path.relative_to(data_dir).as_posix(), file, os.fstat(file.fileno()).st_size)


class _Hashing:
    def __init__(self, source: BinaryIO) -> None:
        self._source = source
        self._hash = hashlib.sha256()

    def read(self, n_bytes: int) -> bytes:
        data = self._source.read(n_bytes)
        self._hash.update(data)
        return data

    def digest(self) -> str:
        return self._hash.hexdigest()


def _allow_many_files() -> int:
    """Raise the limit of open files, since a backup holds files open at one moment. Returns how many may be."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return sys.maxsize if allowed == resource.RLIM_INFINITY else allowed


# -- restore


def restore(source: Path, data_dir: Path) -> Copied:
    """Make the data folder from a backup, which is checked first and then put in its place as a whole.

    Raises Conflict (the folder is not empty), NotFound, StoreDamaged (not a whole backup).
    """
    if not source.is_file():
        raise NotFound(f"there is no backup {source}")
    if data_dir.exists() and (not data_dir.is_dir() or any(data_dir.iterdir())):
        raise Conflict(f"{data_dir} is not empty; a backup is restored into a new folder: name one with --data-dir")
    try:
        data_dir.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{data_dir.name}.restoring.", dir=data_dir.parent))
        try:
            copied = _extract(source, folder)
            folder.rename(data_dir)  # over an empty folder, too
        except BaseException:
            shutil.rmtree(folder)
            raise
        atomic_file.sync_folder(data_dir.parent)
    except OSError as error:
        raise clear_error(error, str(data_dir)) from error
    return copied


def _extract(source: Path, folder: Path) -> Copied:
    """Write every file and check it against the manifest, which comes last."""
    found: dict[str, tuple[int, str]] = {}
    manifest: bytes | None = None
    try:
        with tarfile.open(source, "r:") as tar:
            for member in tar:
                content = tar.extractfile(member) if member.isreg() else None
                if content is None or manifest is not None or member.name in found:
                    raise _not_whole(source, f"{member.name!r} has no business there")
                if member.name == MANIFEST and member.size <= _MAX_MANIFEST_BYTES:
                    manifest = content.read()
                else:
                    found[member.name] = _write_file(folder, member.name, content)  # type: ignore[arg-type]
        if manifest is None:
            raise _not_whole(source, f"{MANIFEST} is missing")
        listed = json.loads(manifest)
        if listed["format"] != FORMAT:
            raise Conflict(f"{source} has format {listed['format']!r}, known is {FORMAT}; upgrade llama-canister")
        expected = {file["name"]: (file["size"], file["sha256"]) for file in listed["files"]}
        damaged = [str(name) for name in listed["damaged"]]
    except (tarfile.TarError, EOFError, ValueError, KeyError, TypeError) as error:
        raise _not_whole(source, str(error)) from error
    for name in sorted(expected.keys() | found.keys()):
        if found.get(name) != expected.get(name):
            raise _not_whole(source, f"{name} is not what was backed up")
    databases = [name for name in found if name.rpartition("/")[2] in (SERVER_DATABASE, CANISTER_DATABASE)]
    n_bytes = sum(size for size, _ in found.values())
    return Copied(len([name for name in databases if "/" in name]), len(found), n_bytes, damaged)


def _write_file(folder: Path, name: str, content: BinaryIO) -> tuple[int, str]:
    """Write one file, whose name can only lead below the folder. Returns its size and SHA-256."""
    try:
        path = folder / clean_path(name)
    except CanisterError as error:
        raise BadRequest(f"the backup names a file that cannot be: {error}") from None
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    size, digest = 0, hashlib.sha256()
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "wb") as out:
        while block := content.read(_BLOCK_BYTES):
            out.write(block)
            digest.update(block)
            size += len(block)
        out.flush()
        os.fsync(out.fileno())
    atomic_file.sync_folder(path.parent)
    return size, digest.hexdigest()


def _not_whole(source: Path, what: str) -> StoreDamaged:
    return StoreDamaged(f"{source} is not a whole backup of llama-canister: {what}; use another one")
