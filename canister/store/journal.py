"""Redo rows: what a committed transaction still has to do to files, written down so that a crash cannot lose it.

    put     the staged file `source` becomes the file `path`. With `data`, which are its bytes, it needs no fsync first
    append  `data` stand in the file `path` at `offset`; they need no fsync first
    drop    the file or empty folder `path` goes away
    make    the folder `path` is made; never a row, for the table `files` tells it

A row is deleted only when its change and every earlier one are surely on the disk. Rows are deleted in their order, so
of all changes to a path the last ones are still there.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from sqlalchemy import Connection, bindparam, delete, insert, select

from canister.store.filesystem import DiskFolder
from canister.store.statements import Prepared
from canister.store.tables import redo

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


_SELECT_REDO = select(redo).order_by(redo.c.id)
_INSERT_REDO = Prepared(insert(redo), "kind", "path", "source", "offset", "data")
_DELETE_REDO = Prepared(delete(redo).where(redo.c.id <= bindparam("last_row")))


def read_redo(connection: Connection) -> list[Move]:
    """All redo rows, in their order."""
    rows = connection.execute(_SELECT_REDO)
    return [Move(row.kind, row.path, row.id, row.source, row.offset, row.data) for row in rows]


def insert_redo(connection: Connection, move: Move) -> Move:
    """Make a row of this move. Returns the move with the row's id."""
    row = {"kind": move.kind, "path": move.path, "source": move.source, "offset": move.offset, "data": move.data}
    key = _INSERT_REDO.run(connection, row).lastrowid
    assert key is not None
    return move._replace(row=key)


def delete_redo(connection: Connection, last_row: int) -> None:
    """Delete every redo row up to this one, since they are done."""
    _DELETE_REDO.run(connection, {"last_row": last_row})


def perform(move: Move, folder: DiskFolder, staging: DiskFolder) -> set[str]:
    """Do the visible part of a move. Returns the folders whose names changed. May be repeated. Raises OSError.

    Appended bytes are written before their commit, so their row matters only after a crash.
    """
    if move.kind == "put":
        assert move.source is not None
        return folder.put(move.source, staging, move.path)
    if move.kind == "drop":
        return folder.drop(move.path)
    if move.kind == "make":
        return folder.make(move.path)
    return set()
