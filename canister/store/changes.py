"""One path's change in a transaction, and how its bytes reach the disk before the commit, or are removed again.

New contents go to a new file in the staging folder, appended bytes behind the committed end of their file. A few bytes
also stand in the redo row and reach the disk with the next sync. More bytes are brought to the disk now.
"""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from canister.store.index import FileInfo, damaged
from canister.store.volume import Volume


class Committed(NamedTuple):
    """A piece of new content: all of a file in stable memory, as it is when the transaction is prepared."""

    path: str


Piece = bytes | Committed


@dataclass(slots=True)
class Change:
    """The change of one path. kind None: it is removed. removed: what was there is removed first, with its id."""

    kind: Literal["file"] | None
    removed: bool
    pieces: list[Piece] = field(default_factory=list)
    in_place: bool = False  # the pieces go behind the committed end
    # known when prepared:
    base: FileInfo | None = None  # the file that is appended to
    staged: str | None = None  # the new file's name in the staging folder
    size: int = 0  # of the whole file
    redo: bytes | None = None  # the new bytes, if they stand in the redo row; else they are on the disk

    def small(self) -> bytes | None:
        """The new bytes, when they are at hand."""
        parts = [piece for piece in self.pieces if isinstance(piece, bytes)]
        return b"".join(parts) if len(parts) == len(self.pieces) else None

    def n_bytes_at_hand(self) -> int:
        n_bytes = 0
        for piece in self.pieces:
            if isinstance(piece, bytes):
                n_bytes += len(piece)
        return n_bytes


def write_bytes(volume: Volume, path: str, change: Change, n_redo_bytes: int) -> None:
    """Write the new bytes of a file where they do not count yet. At most n_redo_bytes of them may go into redo rows.

    Raises OSError, StoreDamaged.
    """
    if change.kind == "file" and change.n_bytes_at_hand() <= n_redo_bytes:
        change.redo = change.small()
    if change.in_place:
        _append(volume, path, change)
    else:
        _stage(volume, change)


def take_back(volume: Volume, path: str, change: Change) -> None:
    """Remove what write_bytes wrote, when the transaction is rolled back. Raises OSError, StoreDamaged."""
    if change.staged is not None:
        volume.layer.unlink(change.staged, volume.staging.fd)
    elif change.base is not None:
        opened = volume.open_file(path, os.O_WRONLY)
        try:
            volume.layer.truncate(opened.fd, change.base.size)
        finally:
            os.close(opened.fd)


def _stage(volume: Volume, change: Change) -> None:
    name = secrets.token_hex(8)
    fd = volume.layer.create(name, volume.staging.fd)
    change.staged = name
    try:
        change.size = _write_pieces(volume, fd, 0, change.pieces)
        if change.redo is None:
            volume.layer.fsync(fd)
    finally:
        os.close(fd)


def _append(volume: Volume, path: str, change: Change) -> None:
    if change.redo is None and volume.is_unsynced(path):
        volume.sync()  # else an earlier redo row could, after a crash, overwrite what is written here
    opened = volume.open_file(path, os.O_WRONLY)
    try:
        n_found = os.fstat(opened.fd).st_size
        if n_found < opened.info.size:
            raise damaged(opened.info, n_found)
        change.base = opened.info
        change.size = _write_pieces(volume, opened.fd, opened.info.size, change.pieces)
        if change.redo is None:
            volume.layer.fsync(opened.fd)
    finally:
        os.close(opened.fd)


def _write_pieces(volume: Volume, fd: int, offset: int, pieces: list[Piece]) -> int:
    """Write the pieces one after the other; returns the offset after the last."""
    for piece in pieces:
        if isinstance(piece, bytes):
            if piece:
                volume.layer.write(fd, piece, offset)
            offset += len(piece)
        else:
            offset += _copy(volume, piece.path, fd, offset)
    return offset


def _copy(volume: Volume, path: str, fd: int, offset: int) -> int:
    opened = volume.open_file(path)
    try:
        n_bytes = volume.layer.copy(opened.fd, fd, opened.info.size, offset)
    finally:
        os.close(opened.fd)
    if n_bytes < opened.info.size:
        raise damaged(opened.info, n_bytes)
    return n_bytes
