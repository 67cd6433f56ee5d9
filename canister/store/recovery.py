"""At the start: finish what was committed, remove what was not, and report what is missing.

A crash leaves a sound database. Beside it there may be redo rows whose changes never reached the disk, uncommitted
files in staging, and bytes behind the committed end of a file. Every step may be repeated, so a crash in here does no
harm. Everything is synced before the redo rows go, since the crash may have been one of the process alone.
"""

from __future__ import annotations

import gc
import logging
import os
import stat
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sqlalchemy import select

from canister.store.filesystem import DiskFolder
from canister.store.index import Entry, FileIndex, FileInfo, Upload
from canister.store.journal import Move, delete_redo, perform, read_redo
from canister.store.paths import ancestors_of, name_of, parent_of
from canister.store.statements import Prepared
from canister.store.tables import files, uploads
from canister.store.volume import Volume

_FILES = Prepared(select(files).order_by(files.c.id))

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Damage:
    """A file or folder that is not what the table says. n_found is None when nothing, or no file, is there."""

    path: str
    n_expected: int
    n_found: int | None


@dataclass(frozen=True, slots=True)
class Recovery:
    """What the start had to do."""

    n_redone: int = 0  # redo rows that were carried out, and folders of the table that were missing
    n_leftovers: int = 0  # staged files that were never committed
    truncated: tuple[str, ...] = ()  # files with bytes behind their committed end
    damaged: tuple[Damage, ...] = ()


def recover(volume: Volume) -> Recovery:
    """Bring the folders of an open volume to the committed state, and start the volume with it. Raises OSError."""
    with _without_collector():
        return _recover(volume)


@contextmanager
def _without_collector() -> Iterator[None]:
    """Switch the garbage collector off. Every file makes some objects without cycles, and looking for cycles takes half
    of the time.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _recover(volume: Volume) -> Recovery:
    folder, staging, database = volume.folder, volume.staging, volume.database
    with database.read() as connection:
        known = {info.path: info for info in map(FileInfo._make, _FILES.run(connection).fetchall())}
        noted = {row.path: Upload(*row[1:]) for row in connection.execute(select(uploads))}
        rows = read_redo(connection)
    repair = _Repair(folder, staging, known)
    repair.redo(rows)
    index = FileIndex.filled(
        Entry(info, repair.staged.get(path), noted.get(path) if info.kind == "file" else None)
        for path, info in known.items()
    )
    repair.make_folders(index)
    repair.check_files(index)
    folder.sync(repair.changed)
    if rows and not repair.failed:
        last_row = rows[-1].row
        database.submit(lambda connection: delete_redo(connection, last_row)).result()
    n_leftovers = _remove_leftovers(staging, repair.staged.values())

    for damage in repair.damages:
        _log.error("%s: %s", folder.path, damage)
    volume.start(index, repair.failed)
    return Recovery(repair.n_redone, n_leftovers, tuple(repair.truncated), tuple(repair.damages))


class _Repair:
    """The steps of the recovery, and their results. A path that cannot be repaired does not stop the others."""

    def __init__(self, folder: DiskFolder, staging: DiskFolder, known: dict[str, FileInfo]) -> None:
        self.folder = folder
        self.staging = staging
        self.known = known
        self.n_redone = 0
        self.changed: set[str] = set()  # folders to be synced
        self.failed: deque[Move] = deque()
        self.staged: dict[str, str] = {}  # of the failed ones: where the file is instead
        self.truncated: list[str] = []
        self.damages: list[Damage] = []

    def redo(self, rows: list[Move]) -> None:
        """Carry out redo rows: of the renames and removals of a path only the last one, and of the appends those after
        it.

        This may remove a folder that was made where something was removed; `make_folders` comes after.
        """
        last: dict[str, Move] = {}
        appends: dict[str, list[Move]] = {}
        for move in rows:
            self.changed |= {"", *ancestors_of(move.path)}
            if move.kind == "append":
                appends.setdefault(move.path, []).append(move)
            else:
                appends.pop(move.path, None)
                last.pop(move.path, None)
                last[move.path] = move
        for move in last.values():
            try:
                if move.kind == "put":
                    self._stage_again(move)
                self.changed |= perform(move, self.folder, self.staging)
                self.n_redone += 1
            except OSError as error:
                self._fail(move, error)
        for path, moves in appends.items():
            try:
                self.n_redone += self._append(path, moves)
            except OSError as error:
                self._fail(moves[0], error)

    def _fail(self, move: Move, error: OSError) -> None:
        _log.warning("%s: what was committed for %r could not be done: %s", self.folder.path, move.path, error)
        self.failed.append(move)
        if move.source is not None:
            self.staged[move.path] = move.source

    def _stage_again(self, move: Move) -> None:
        """Write the staged file again if the redo row has its bytes, since the disk may have lost them."""
        if move.source is None or move.data is None:
            return
        if self.staging.lstat(move.source) is not None:
            self.staging.layer.unlink(move.source, self.staging.fd)
        fd = self.staging.layer.create(move.source, self.staging.fd)
        try:
            self.staging.layer.write(fd, move.data, 0)
            self.staging.layer.fsync(fd)
        finally:
            os.close(fd)

    def _append(self, path: str, moves: list[Move]) -> int:
        """Write appended bytes again, unless bytes before them are missing too."""
        info = self.known.get(path)
        if info is None or info.kind != "file":
            return 0
        n_written = 0
        in_staging = self.staged.get(path)
        where, name = (self.folder, path) if in_staging is None else (self.staging, in_staging)
        fd = where.open_file(name, os.O_WRONLY)
        try:
            for move in moves:
                if move.data is not None and os.fstat(fd).st_size >= move.offset:
                    where.layer.write(fd, move.data, move.offset)
                    n_written += 1
            where.layer.fsync(fd)
        finally:
            os.close(fd)
        return n_written

    def make_folders(self, index: FileIndex) -> None:
        inside: dict[str, list[str]] = {}
        for path in index.folders()[1:]:
            inside.setdefault(parent_of(path), []).append(path)
        for folder, folders in inside.items():
            for path, found in self._with_stats(folder, folders):
                if found is None:
                    try:
                        self.changed |= self.folder.make(path)
                        self.n_redone += 1
                    except OSError as error:
                        self._fail(Move("make", path), error)

    def check_files(self, index: FileIndex) -> None:
        """Cut off what is behind the committed ends, and find what is missing.

        Each folder is opened once, since there may be hundreds of thousands of files and the server waits for this.
        """
        for folder in index.folders():
            for path, found in self._with_stats(folder, index.children(folder)):
                if path not in self.staged:
                    self._check(self.known[path], found)
        self.truncated.sort(key=lambda path: self.known[path].id)
        self.damages.sort(key=lambda damage: self.known[damage.path].id)

    def _check(self, info: FileInfo, found: os.stat_result | None) -> None:
        if info.kind == "directory":
            if found is None or not stat.S_ISDIR(found.st_mode):
                self.damages.append(Damage(info.path, 0, None))
        elif found is None or not stat.S_ISREG(found.st_mode):
            self.damages.append(Damage(info.path, info.size, None))
        elif found.st_size < info.size:
            self.damages.append(Damage(info.path, info.size, found.st_size))
        elif found.st_size > info.size:
            self._truncate(info)

    def _with_stats(self, folder: str, paths: list[str]) -> Iterator[tuple[str, os.stat_result | None]]:
        return zip(paths, self.folder.lstat_all(folder, [name_of(path) for path in paths]), strict=True)

    def _truncate(self, info: FileInfo) -> None:
        fd = self.folder.open_file(info.path, os.O_WRONLY)
        try:
            self.folder.layer.truncate(fd, info.size)
            self.folder.layer.fsync(fd)
        finally:
            os.close(fd)
        self.truncated.append(info.path)


def _remove_leftovers(staging: DiskFolder, wanted: Iterable[str]) -> int:
    """Remove what was staged and never committed."""
    kept = set(wanted)
    leftovers = [name for name in sorted(os.listdir(staging.fd)) if name not in kept]
    for name in leftovers:
        staging.layer.unlink(name, staging.fd)
    return len(leftovers)
