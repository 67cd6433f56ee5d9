"""Examines a data folder without changing it, also while its server runs.

    folder      permissions, room on the disk, keys
    databases   SQLite's integrity check, foreign keys, revision of the tables
    files       every file of the table with its size on the disk, and nothing else there; SHA-256 of uploads
    containers  every prompt cache read to its end, with the checksums of its KV rows
    models      the header of every GGUF file
    llama.cpp   what a server has found that it cannot do on this processor
    rows        settings, roles, controllers, redo rows, notes of uploads

A finding is a note, or a problem that `repair.py` may be able to mend. While a server runs, its present work is not
examined: files being written, staged files, redo rows.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from canister.engine.load import library
from canister.errors import CanisterError
from canister.ic import principal as principals
from canister.ic.certificate import RootKey
from canister.ic.identity import Identity
from canister.model_file.gguf import read_gguf
from canister.state import settings as states
from canister.store import outside
from canister.store.cache_paths import sessions_folder
from canister.store.container import CacheFile
from canister.store.migrations import HEADS, Schema
from canister.system.data_dir import (
    CANISTER_DATABASE,
    CANISTERS,
    CONTROLLER_IDENTITY,
    LOCK,
    NODE_IDENTITY,
    ROOT_KEY,
    SECRETS,
    SERVER_DATABASE,
    STABLE,
    STAGING,
    TRIED,
    FolderLock,
)
from canister.system.hashing import sha256_of_start

Severity = Literal["problem", "note"]
Mend = Literal["", "permissions", "quarantine", "recover", "container", "upload note"]

MIN_FREE_BYTES = 1 << 30
ROLES = ("AdminQuery", "AdminUpdate")


@dataclass(frozen=True, slots=True)
class Finding:
    """place: relative to the data folder. mend: how `--repair` mends it; empty if it cannot."""

    kind: Severity
    place: str
    what: str
    mend: Mend = ""


@dataclass(slots=True)
class Examination:
    """n_files: of stable memories. n_containers, n_models: of those, prompt caches and GGUF files."""

    is_running: bool
    findings: list[Finding]
    n_canisters: int = 0
    n_files: int = 0
    n_containers: int = 0
    n_models: int = 0

    @property
    def problems(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.kind == "problem"]

    def problem(self, place: str, what: str, mend: Mend = "") -> None:
        self.findings.append(Finding("problem", place, what, mend))

    def note(self, place: str, what: str) -> None:
        self.findings.append(Finding("note", place, what))


def examine(data_dir: Path, *, is_ours: bool = False) -> Examination:
    """Examine everything. A part that cannot be read is a problem, never an error.

    is_ours: the caller holds the folder's lock, and no server does.
    """
    found = Examination(not is_ours and FolderLock(data_dir / LOCK).is_held(), [])
    if not data_dir.is_dir() or not any(data_dir.iterdir()):
        found.problem(
            ".",
            f"no server has run with {data_dir}; `canister serve` makes it, `canister restore` fills it, --data-dir "
            "names another one",
        )
        return found
    _examine_folder(data_dir, found)
    for told in library.problems(data_dir / TRIED / library.NOTES):
        found.note("llama.cpp", told)
    known: dict[str, bool] = {}  # id → deleted
    with _guarded(found, SERVER_DATABASE), outside.examining(data_dir / SERVER_DATABASE) as server:
        if _examine_database(server, SERVER_DATABASE, "server", found):
            rows = outside.tables(server, ["canisters"])["canisters"]
            known = {row["id"]: row["deleted_ns"] is not None for row in rows}
    folders = {path.name: path for path in sorted((data_dir / CANISTERS).glob("*"))}
    for id, folder in folders.items():
        place = f"{CANISTERS}/{id}"
        if known.get(id):
            found.note(place, "the canister was deleted; its folder goes at the next start")
        elif known and id not in known:
            found.problem(place, "no canister has this id", "quarantine")
        else:
            found.n_canisters += 1
            with (
                _guarded(found, f"{place}/{CANISTER_DATABASE}"),
                outside.examining(folder / CANISTER_DATABASE) as database,
            ):
                if _examine_database(database, f"{place}/{CANISTER_DATABASE}", "canister", found):
                    _Canister(folder, place, database, found).examine()
    return found


# -- the folder


def _examine_folder(data_dir: Path, found: Examination) -> None:
    if not os.access(data_dir, os.R_OK | os.W_OK | os.X_OK):
        found.problem(".", f"{data_dir} cannot be read and written by this user; give it to the server's user")
    if data_dir.stat().st_mode & 0o077:
        found.problem(".", "others may look into the data folder, which holds keys", "permissions")
    for name in SECRETS:
        if (data_dir / name).exists() and (data_dir / name).stat().st_mode & 0o077:
            found.problem(name, "others may read this key", "permissions")
    for name in (CONTROLLER_IDENTITY, NODE_IDENTITY, ROOT_KEY):
        if (data_dir / name).exists():
            with _guarded(found, name):
                _read_key(data_dir / name)
    free = shutil.disk_usage(data_dir).free
    if free < MIN_FREE_BYTES:
        found.note(".", f"only {free} bytes are free on the disk")


def _read_key(path: Path) -> object:
    if path.name == ROOT_KEY:
        return RootKey.from_bytes(bytes.fromhex(path.read_text(encoding="ascii", errors="replace")))
    return Identity.from_pem(path.read_bytes())


# -- databases


def _examine_database(connection: sqlite3.Connection, place: str, schema: Schema, found: Examination) -> bool:
    """Is the database sound, so that its rows can be read?"""
    faults = outside.faults(connection)
    if faults:
        found.problem(place, f"not sound: {'; '.join(faults)}; put a backup in its place: canister restore")
        return False
    for table, other in outside.dangling(connection):
        found.problem(place, f"a row of {table} names one of {other} that is not there")
    revision = outside.revision(connection)
    if revision != HEADS[schema]:
        told = "none" if revision is None else revision
        found.note(place, f"tables of revision {told}; this version's is {HEADS[schema]}, the next start migrates them")
    return True


@contextmanager
def _guarded(found: Examination, place: str) -> Iterator[None]:
    """Turn an error in a part of the examination into a problem of that part, and go on with the others."""
    try:
        yield
    except (OSError, sqlite3.Error, CanisterError, ValueError, KeyError, TypeError) as error:
        found.problem(place, f"cannot be read: {error}; put a backup in its place: canister restore")


# -- a canister


class _Canister:
    def __init__(self, folder: Path, place: str, database: sqlite3.Connection, found: Examination) -> None:
        self.folder = folder
        self.place = place
        self.found = found
        self.tables = outside.tables(database, ("settings", "admin_roles", "controllers", "files", "uploads", "redo"))

    def examine(self) -> None:
        self._rows()
        waiting = {row["path"] for row in self.tables["redo"]}
        sources = {row["source"] for row in self.tables["redo"]}
        if self.tables["redo"] and not self.found.is_running:
            n_rows = len(self.tables["redo"])
            self.found.note(self.place, f"{n_rows} changes of files are committed, and done at the next start")
        known = {row["path"]: row for row in self.tables["files"]}
        uploads = {row["path"]: row for row in self.tables["uploads"]}
        for path, row in known.items():
            if path not in waiting:
                with _guarded(self.found, f"{self.place}/{STABLE}/{path}"):
                    self._file(path, row, uploads.get(path))
        for path in uploads.keys() - known.keys():
            self.found.problem(f"{self.place}/{STABLE}/{path}", "an upload is noted of no file", "upload note")
        if not self.found.is_running:
            self._leftovers(known, waiting, sources)

    def _rows(self) -> None:
        place = f"{self.place}/{CANISTER_DATABASE}"
        with _guarded(self.found, place):
            states.from_rows((row["key"], _json(row["value"])) for row in self.tables["settings"])
        for row in self.tables["admin_roles"]:
            if row["role"] not in ROLES:
                self.found.problem(place, f"{row['principal']} has the role {row['role']!r}, which does not exist")
        for row in self.tables["controllers"]:
            with _guarded(self.found, place):
                principals.from_text(row["principal"])

    def _file(self, path: str, row: sqlite3.Row, upload: sqlite3.Row | None) -> None:
        place = f"{self.place}/{STABLE}/{path}"
        on_disk = self.folder / STABLE / path
        try:
            now = on_disk.lstat()
        except (FileNotFoundError, NotADirectoryError):
            now = None
        is_right = now is not None and (stat.S_ISREG if row["kind"] == "file" else stat.S_ISDIR)(now.st_mode)
        if now is None or not is_right:
            what = "is gone" if now is None else f"is no {row['kind']}"
            if not (self.found.is_running and now is None):  # it may have been removed since
                self.found.problem(place, f"{what}; upload it again, remove it, or restore a backup")
            return
        if row["kind"] == "directory":
            return
        self.found.n_files += 1
        size = row["size"]
        if now.st_size < size:
            self.found.problem(place, f"has {now.st_size} of {size} bytes; upload it again, or restore a backup")
            return
        if now.st_size > size and not self.found.is_running:
            self.found.note(
                place, f"has {now.st_size - size} bytes that were never committed; the next start cuts them"
            )
        self._contents(path, place, on_disk, size, upload)

    def _contents(self, path: str, place: str, on_disk: Path, size: int, upload: sqlite3.Row | None) -> None:
        is_upload = upload is not None and upload["size"] == size
        if upload is not None and is_upload and _sha256(on_disk, size) != upload["sha256"]:
            self.found.problem(place, f"is not what was uploaded (SHA-256 {upload['sha256']}); upload it again")
            return
        if is_cache(path):
            self.found.n_containers += 1
            damage = container_damage(on_disk, size)
            if damage and is_upload:
                self.found.note(place, f"{damage}; it was uploaded so")
            elif damage:
                self.found.problem(place, damage, "container")
        elif path.endswith(".gguf"):
            self.found.n_models += 1
            try:
                read_gguf(on_disk)
            except CanisterError as error:
                self.found.problem(place, f"cannot be loaded as a model: {error}; upload it again")

    def _leftovers(self, known: dict[str, sqlite3.Row], waiting: set[str], sources: set[str | None]) -> None:
        stable = self.folder / STABLE
        for path in orphans(stable, lambda name: name in known or name in waiting):
            self.found.problem(f"{self.place}/{STABLE}/{path}", "is not in the table of files", "quarantine")
        staged = [path.name for path in (self.folder / STAGING).glob("*") if path.name not in sources]
        if staged:
            self.found.note(
                f"{self.place}/{STAGING}", f"{len(staged)} files were never committed; the next start removes them"
            )


def _json(value: object) -> object:
    """What a JSON column holds; SQLite keeps numbers as such."""
    return json.loads(value) if isinstance(value, str) else value


# -- parts that repair uses as well


def is_cache(path: str) -> bool:
    return sessions_folder(path) is not None


def container_damage(path: Path, size: int) -> str:
    """What is wrong with a prompt cache; empty if nothing is."""
    with path.open("rb") as file:
        try:
            container = CacheFile.parse(lambda offset, n_bytes: os.pread(file.fileno(), n_bytes, offset), size)
        except CanisterError as error:
            return f"is no prompt cache: {error}"
        if not container.is_whole:
            return f"is damaged behind its first {len(container.tokens)} tokens"
        n_damaged = container.n_damaged
    return f"{n_damaged} records have damaged KV rows, which are computed again when needed" if n_damaged else ""


def orphans(stable: Path, is_known: Callable[[str], bool]) -> list[str]:
    """Paths on the disk that are not in the tables. Of an unknown folder, only the folder."""
    found: list[str] = []
    for folder, folders, names in os.walk(stable):
        for name in list(folders) + names:
            path = str((Path(folder) / name).relative_to(stable))
            if not is_known(path):
                found.append(path)
                if name in folders:
                    folders.remove(name)
    return sorted(found)


def _sha256(path: Path, size: int) -> str:
    with path.open("rb") as file:
        return sha256_of_start(file, size)
