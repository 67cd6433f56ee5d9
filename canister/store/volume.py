"""What transactions and the start share: two folders, the index of what is committed, and moves under way.

staging --move--> folder     a new file, once the commit that makes it count has happened
index                        what is committed, and where its bytes are: in their place, or still in staging
claims                       paths that a prepared transaction is changing; others wait
moves, then sync             committed changes are carried out, then brought to the disk; redo rows stand until then
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from canister.errors import BadRequest, Busy, Conflict, NotFound, StoreDamaged
from canister.store.database import Database
from canister.store.filesystem import DiskFolder, FileLayer, clear_error
from canister.store.index import Entry, FileIndex, FileInfo, Overlay, damaged
from canister.store.journal import Move, perform
from canister.store.paths import clean_path, names_folder

CLAIM_SECONDS = 30

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class OpenFile:
    """A committed file, open for reading or appending. Its holder closes the descriptor."""

    info: FileInfo
    fd: int


class Volume:
    """Any thread may call any method after `open` and `start`, unless it says otherwise."""

    def __init__(
        self, folder: Path, staging: Path, database: Database, layer: FileLayer, clock: Callable[[], int]
    ) -> None:
        """folder, staging: on one file system, since new files are moved from one to the other. clock: ns since
        1970.
        """
        self.path = folder
        self.database = database
        self.layer = layer
        self.clock = clock
        self.index = FileIndex()
        self.done_row = 0  # every redo row up to this id is done; the next transaction deletes them
        self.deleted_row = 0  # up to this one they are deleted
        self.is_dirty = threading.Event()  # there is something to sync
        self.sync_error: OSError | None = None  # the first of all; nothing is synced after it
        self._staging_path = staging
        self._pending = (-1, Overlay(self.index))  # of the transactions that are being committed together
        self._folder: DiskFolder | None = None
        self._staging: DiskFolder | None = None
        self._moves: deque[Move] = deque()  # committed, not yet performed; strictly in this order
        self._unsynced_files: set[str] = set()  # whose last bytes are perhaps only in redo rows
        self._unsynced_folders: set[str] = set()  # whose names changed
        self._performed_row = 0
        self._settling = threading.Lock()  # guards the four above; held until a commit is visible and settled
        self._syncing = threading.Lock()
        self._claims: set[str] = set()
        self._claimed = threading.Condition()

    # The folders

    @property
    def folder(self) -> DiskFolder:
        return self._opened(self._folder)

    @property
    def staging(self) -> DiskFolder:
        return self._opened(self._staging)

    def _opened(self, folder: DiskFolder | None) -> DiskFolder:
        if folder is None:
            raise RuntimeError(f"stable memory {self.path} is not open: recover() comes first")
        return folder

    @property
    def is_open(self) -> bool:
        return self._folder is not None

    def open(self) -> None:
        """Open the folders, for this process alone.

        Raises Conflict when another process has them open, BadRequest when they are on two file systems, OSError.
        """
        self._folder = DiskFolder(self.path, self.layer)
        self._staging = DiskFolder(self._staging_path, self.layer)
        if os.fstat(self._folder.fd).st_dev != os.fstat(self._staging.fd).st_dev:
            raise BadRequest(f"{self.path} and {self._staging_path} must be on one file system")
        try:
            fcntl.flock(self._staging.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)  # ends with the process
        except BlockingIOError:
            raise Conflict(f"{self.path} is in use by another process; stop that one first") from None

    def start(self, index: FileIndex, moves: deque[Move]) -> None:
        """Begin with the committed entries, and with those of their moves that could not be performed."""
        self.index, self._moves = index, moves

    def close(self) -> None:
        """Close the folders. May be called twice."""
        for folder in (self._folder, self._staging):
            if folder is not None:
                folder.close()
        self._folder = self._staging = None

    # Reading

    def open_file(self, path: str, flags: int = os.O_RDONLY) -> OpenFile:
        """Open a file as last committed, wherever its bytes are at the moment.

        A path's entry changes before its file does. So if the entry is still the same after opening, the file is its
        own.
        """
        clean = clean_path(path)
        while True:
            entry = self.index.get(clean)
            if entry is None:
                raise NotFound(f"no file {path!r} in stable memory")
            if entry.info.kind != "file":
                raise BadRequest(f"{path!r} is a folder, not a file")
            if names_folder(path):
                raise BadRequest(f"{path!r} is a file, not a folder; leave out the '/' at its end")
            try:
                if entry.staged is not None:
                    return OpenFile(entry.info, self.staging.open_file(entry.staged, flags))
                fd = self.folder.open_file(clean, flags)
            except FileNotFoundError:
                with self._settling:  # it is perhaps just being moved
                    if self.index.get(clean) is entry:
                        raise damaged(entry.info, None) from None
                continue
            except OSError as error:
                raise clear_error(error, path) from error
            if (now := self.index.get(clean)) is not None and now.info is entry.info:
                return OpenFile(entry.info, fd)
            os.close(fd)

    def bring_to_place(self, path: str) -> bool:
        """Perform the committed moves. Is the file of this clean path then in its place, or gone?"""
        try:
            self.settle()
        except OSError as error:
            self._log_unsettled(error)
        with self._settling:
            entry = self.index.get(path)
            return entry is None or entry.staged is None

    # Transactions under way

    def pending_view(self) -> Overlay:
        """The uncommitted changes that the rest of the group will see; on the writer thread."""
        number = self.database.n_transactions
        if self._pending[0] != number:
            self._pending = number, Overlay(self.index)
        return self._pending[1]

    def claim(self, paths: set[str]) -> None:
        """Wait until no other transaction is changing any of these paths, and claim them. Raises Busy after a while."""
        with self._claimed:
            if not self._claimed.wait_for(lambda: self._claims.isdisjoint(paths), CLAIM_SECONDS):
                taken = sorted(self._claims & paths)
                raise Busy(f"another call has been changing {taken[0]!r} for {CLAIM_SECONDS} s; try again")
            self._claims |= paths

    def try_claim(self, paths: set[str]) -> bool:
        """Claim these paths if no other transaction is changing any of them."""
        with self._claimed:
            if not self._claims.isdisjoint(paths):
                return False
            self._claims |= paths
            return True

    def release(self, paths: set[str]) -> None:
        with self._claimed:
            self._claims -= paths
            self._claimed.notify_all()

    # From the commit to the disk

    def committed(self, changes: list[tuple[str, Entry | None]], moves: list[Move]) -> None:
        """Make a committed transaction visible, then move its files; on the writer thread.

        A file that cannot be moved now is readable where it is. The next change and the next start try again.
        """
        with self._settling:
            self._moves.extend(moves)
            waiting = {move.source for move in self._moves}
            self.index.publish(
                (path, entry if entry is None or entry.staged in waiting else entry._replace(staged=None))
                for path, entry in changes
            )
            try:
                self._perform_moves()
            except OSError as error:
                self._log_unsettled(error)

    def settle(self) -> None:
        """Perform the committed moves in their order. Raises OSError, and leaves the rest."""
        with self._settling:
            self._perform_moves()

    def _log_unsettled(self, error: OSError) -> None:
        _log.warning("%s: files could not be moved to their places yet: %s", self.path, error)

    def _perform_moves(self) -> None:
        while self._moves:
            move = self._moves[0]
            self._unsynced_folders |= perform(move, self.folder, self.staging)
            if move.data is not None:
                self._unsynced_files.add(move.path)
            entry = self.index.get(move.path)
            if move.kind == "put" and entry is not None and entry.staged == move.source:
                self.index.publish([(move.path, entry._replace(staged=None))])
            self._performed_row = max(move.row, self._performed_row)
            self._moves.popleft()
            self.is_dirty.set()

    def is_unsynced(self, path: str) -> bool:
        """May bytes of this file stand only in redo rows?"""
        with self._syncing, self._settling:  # a sync under way has taken the files, but not yet synced them
            return path in self._unsynced_files or any(move.path == path for move in self._moves)

    def sync(self) -> None:
        """Bring everything committed to the disk, so that no redo row is needed any more. Raises OSError.

        After a failed fsync nobody knows what the disk has, and a second fsync may succeed without writing anything. So
        the redo rows stay from then on, and the next start writes their bytes again.
        """
        with self._syncing:
            if self.sync_error is not None:
                raise OSError(errno.EIO, f"an fsync failed before ({self.sync_error.strerror}); restart the server")
            self.settle()
            with self._settling:
                names, folders, last_row = self._unsynced_files, self._unsynced_folders, self._performed_row
                self._unsynced_files, self._unsynced_folders = set(), set()
            try:
                for path in sorted(names):
                    self._sync_file(path)
                self.folder.sync(folders)
            except OSError as error:
                self.sync_error = error
                with self._settling:
                    self._unsynced_files |= names
                raise
            self.done_row = last_row

    def _sync_file(self, path: str) -> None:
        try:
            opened = self.open_file(path)
        except (NotFound, BadRequest):
            return  # removed since, and that is committed
        except StoreDamaged as error:
            _log.error("%s: %s", self.path, error)  # a redo row has only some of its bytes
            return
        try:
            self.layer.fsync(opened.fd)
        finally:
            os.close(opened.fd)
