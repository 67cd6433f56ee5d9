"""What is done at the start: finish what was committed, forget what was not, and say what is missing.

A crash leaves a sound table, and beside it perhaps: files in staging, of which those named by a redo row belong to
their places; removed files still there; bytes behind the committed end of a file. Every step may be repeated, so a
crash in here does no harm.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy import delete, select

from canister.store.db import Database
from canister.store.files import Folder
from canister.store.index import Entry, FileIndex, FileInfo
from canister.store.tables import file_moves, files

_log = logging.getLogger(__name__)


class Move(NamedTuple):
    """One change of names that a committed transaction needs: put `source` at `path`, or without one, drop `path`.

    row: the redo row's id; 0 for a folder that is only to be made, which the table itself tells.
    """

    path: str
    source: str | None
    row: int


@dataclass(frozen=True, slots=True)
class Damage:
    """A file or folder that is not what the table says; n_found is None when nothing, or no file, is there."""

    path: str
    n_expected: int
    n_found: int | None


@dataclass(frozen=True, slots=True)
class Recovery:
    """What the start found to do."""

    n_moves: int = 0  # renames and removals that were finished
    n_leftovers: int = 0  # staged files that were never committed
    truncated: tuple[str, ...] = ()  # files with bytes behind their committed end
    damaged: tuple[Damage, ...] = ()


def perform(move: Move, folder: Folder, staging: Folder) -> set[str]:
    """Do one move; returns the folders whose names changed. May be repeated. Raises OSError."""
    if move.source is not None:
        return folder.put(move.source, staging, move.path)
    return folder.drop(move.path) if move.row else folder.make(move.path)


def recover(folder: Folder, staging: Folder, database: Database) -> tuple[Recovery, FileIndex, deque[Move]]:
    """Bring the folders to the committed state; returns also the index, and the moves that could not be done."""
    with database.read() as connection:
        entries = [FileInfo(*row) for row in connection.execute(select(files).order_by(files.c.id))]
        rows = connection.execute(select(file_moves).order_by(file_moves.c.id)).all()
    known = {info.path: info for info in entries}
    moves: dict[str, Move] = {}  # the last one for each path counts, at its place in the order
    for row in rows:
        moves.pop(row.target, None)
        moves[row.target] = Move(row.target, row.source, row.id)

    n_moves, unfinished, changed = _redo(moves, known, folder, staging)
    n_made, unmade, changed_too = _make_folders(entries, folder)
    waiting = deque([*unfinished, *unmade])
    truncated, damages = _check_files(entries, folder, {move.path for move in unfinished})
    folder.sync(changed | changed_too)
    if rows and not waiting:
        database.submit(lambda connection: connection.execute(delete(file_moves)) and None).result()
    n_leftovers = _clean(staging, {move.source for move in waiting})

    index = FileIndex()
    staged = {move.path: move.source for move in unfinished}
    index.publish((info.path, Entry(info, staged.get(info.path))) for info in entries)
    for damage in damages:
        _log.error("%s: %r is damaged: %s", folder.path, damage.path, damage)
    return Recovery(n_moves + n_made, n_leftovers, tuple(truncated), tuple(damages)), index, waiting


def _redo(
    moves: dict[str, Move], known: dict[str, FileInfo], folder: Folder, staging: Folder
) -> tuple[int, list[Move], set[str]]:
    """Finish committed moves, where that is still to do: their number, those that failed, folders that changed."""
    n_done, failed, changed = 0, [], set()
    for move in moves.values():
        info = known.get(move.path)
        try:
            if move.source is not None:
                if staging.lstat(move.source) is None:
                    continue  # done before
            elif (found := _lstat(folder, move.path)) is None or (
                info is not None and (info.kind == "file" or stat.S_ISDIR(found.st_mode))
            ):
                continue  # done before, and perhaps the path has been given to something new
            changed |= perform(move, folder, staging)
            n_done += 1
        except OSError as error:
            _log.warning("%s: %r could not be moved to its place: %s", folder.path, move.path, error)
            failed.append(move)
    return n_done, failed, changed


def _make_folders(entries: list[FileInfo], folder: Folder) -> tuple[int, list[Move], set[str]]:
    """Make the folders of the table that are missing: their number, those that failed, folders that changed."""
    n_made, failed, changed = 0, [], set()
    for info in entries:
        if info.kind != "directory":
            continue
        try:
            if _lstat(folder, info.path) is None:
                changed |= folder.make(info.path)
                n_made += 1
        except OSError as error:
            _log.warning("%s: the folder %r could not be made: %s", folder.path, info.path, error)
            failed.append(Move(info.path, None, 0))
    return n_made, failed, changed


def _check_files(entries: list[FileInfo], folder: Folder, elsewhere: set[str]) -> tuple[list[str], list[Damage]]:
    """Cut off what is behind the committed ends, and find what is missing."""
    truncated, damages = [], []
    for info in entries:
        if info.path in elsewhere:
            continue
        found = _lstat(folder, info.path)
        if info.kind == "directory":
            if found is None or not stat.S_ISDIR(found.st_mode):
                damages.append(Damage(info.path, 0, None))
        elif found is None or not stat.S_ISREG(found.st_mode):
            damages.append(Damage(info.path, info.size, None))
        elif found.st_size < info.size:
            damages.append(Damage(info.path, info.size, found.st_size))
        elif found.st_size > info.size:
            fd = folder.open_file(info.path, os.O_WRONLY)
            try:
                folder.layer.truncate(fd, info.size)
                folder.layer.fsync(fd)
            finally:
                os.close(fd)
            truncated.append(info.path)
    return truncated, damages


def _clean(staging: Folder, wanted: set[str | None]) -> int:
    """Remove what was staged and never committed."""
    leftovers = [name for name in sorted(os.listdir(staging.fd)) if name not in wanted]
    for name in leftovers:
        staging.layer.unlink(name, staging.fd)
    return len(leftovers)


def _lstat(folder: Folder, path: str) -> os.stat_result | None:
    """As Folder.lstat, and nothing is found behind a link or a file either."""
    try:
        return folder.lstat(path)
    except NotADirectoryError:
        return None
    except OSError as error:
        if error.errno == errno.ELOOP:
            return None
        raise
