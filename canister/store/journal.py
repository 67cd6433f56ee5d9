"""Redo rows: what a committed transaction still has to do to files, told so that it can be done again after a crash.

    put     the staged file `source` becomes the file `path`. With `data`, which are its bytes, it needs no fsync first
    append  `data` stand in the file `path` at `offset`; they need no fsync first
    drop    the file or empty folder `path` goes away
    make    the folder `path` is made; never a row, for the table `files` tells it

A row is deleted only when its change, and every one before it, is surely on the disk. Rows are deleted in their order,
so of all changes to a path the last ones are there.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from canister.store.filesystem import Folder

MAX_REDO_BYTES = 64 * 1024
"""How many bytes a transaction may put into its redo rows. It saves an fsync or two, and costs writing them twice."""


class Move(NamedTuple):
    """One redo row, or a folder to be made; row is 0 then."""

    kind: Literal["put", "append", "drop", "make"]
    path: str
    row: int = 0
    source: str | None = None
    offset: int = 0
    data: bytes | None = None


def perform(move: Move, folder: Folder, staging: Folder) -> set[str]:
    """Do what can be seen of a move; returns the folders whose names changed. May be repeated. Raises OSError.

    Appended bytes are written before they are committed; their row only matters after a crash.
    """
    if move.kind == "put":
        assert move.source is not None
        return folder.put(move.source, staging, move.path)
    if move.kind == "drop":
        return folder.drop(move.path)
    if move.kind == "make":
        return folder.make(move.path)
    return set()
