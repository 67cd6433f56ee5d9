"""The file tree of one canister: plain files under their own names, and a table that says which bytes of them count.

The table is the truth. What a person puts into the folder by hand is not seen, and may be overwritten; a file that is
shorter than the table says, or gone, is damaged: reading it fails, all else goes on. Bytes beyond the committed size
do not count. Changes go through a Transaction (`transaction.py`), which says how they survive a crash; what a crash
left behind is put right by `recovery.py`. Locks between calls on the same path are the caller's business.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import bindparam, select

from canister.errors import BadRequest, Busy, CanisterError, Conflict, NotFound, StoreDamaged
from canister.store.commit import delete_redo
from canister.store.database import Database
from canister.store.filesystem import FileLayer, Folder, clear_error
from canister.store.index import Entry, FileIndex, FileInfo, Overlay, Upload, Usage, damaged
from canister.store.journal import Move, perform
from canister.store.paths import clean_folder, clean_path, names_folder
from canister.store.recovery import Recovery, recover
from canister.store.statements import Prepared
from canister.store.tables import files
from canister.store.transaction import Transaction

__all__ = ["FileInfo", "Recovery", "StableMemory", "Transaction", "Upload", "clean_path"]

_NEWEST = Prepared(
    select(files.c.path)
    .where(
        files.c.path.between(bindparam("first"), bindparam("end")),
        files.c.kind == "file",
        files.c.path.not_like(bindparam("but")),
    )
    .order_by(files.c.modified_ns.desc())
    .limit(bindparam("n_most"))
)

CLAIM_SECONDS = 30
SYNC_SECONDS = 0.2  # how long redo rows gather before what they stand for is brought to the disk

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class OpenFile:
    """A committed file, open for reading or appending; the descriptor is the holder's to close."""

    info: FileInfo
    fd: int


class StableMemory:
    """Reads, and the beginning of transactions. Every method may be called from any thread, after `recover`."""

    def __init__(
        self,
        folder: Path,
        staging: Path,
        database: Database,
        *,
        layer: FileLayer | None = None,
        clock: Callable[[], int] = time.time_ns,
        sync_seconds: float | None = SYNC_SECONDS,
    ) -> None:
        """folder, staging: on one file system, for new files are moved from one to the other. clock: ns since 1970.

        sync_seconds: None if nothing is to be synced unless `sync` is called.
        """
        self.database = database
        self.layer = layer or FileLayer()
        self.clock = clock
        self.index = FileIndex()
        self.done_row = 0  # every redo row up to this id is done with; the next transaction deletes them
        self.deleted_row = 0  # up to this one they are deleted
        self._pending = (-1, Overlay(self.index))  # of the transactions that are being committed together
        self._folder_path = folder
        self._staging_path = staging
        self._folder: Folder | None = None
        self._staging: Folder | None = None
        self._moves: deque[Move] = deque()  # committed, not yet performed; strictly in this order
        self._unsynced_files: set[str] = set()  # whose last bytes are perhaps only in redo rows
        self._unsynced_folders: set[str] = set()  # whose names changed
        self._performed_row = 0
        self._settling = threading.Lock()  # around the four above, and held until a commit is seen and settled
        self._syncing = threading.Lock()
        self._sync_seconds = sync_seconds
        self._sync_thread: threading.Thread | None = None
        self._sync_error: OSError | None = None
        self._is_dirty = threading.Event()
        self._is_closing = threading.Event()
        self._claims: set[str] = set()  # paths that a prepared transaction is changing
        self._claimed = threading.Condition()

    @property
    def folder(self) -> Folder:
        if self._folder is None:
            raise RuntimeError(f"stable memory {self._folder_path} is not open: recover() comes first")
        return self._folder

    @property
    def staging(self) -> Folder:
        if self._staging is None:
            raise RuntimeError(f"stable memory {self._folder_path} is not open: recover() comes first")
        return self._staging

    def recover(self) -> Recovery:
        """Open the folders and put right what a crash left behind; the first call of all.

        Raises Conflict when another process has them open, BadRequest when they are on two file systems.
        """
        try:
            self._folder = Folder(self._folder_path, self.layer)
            self._staging = Folder(self._staging_path, self.layer)
            if os.fstat(self._folder.fd).st_dev != os.fstat(self._staging.fd).st_dev:
                raise BadRequest(f"{self._folder_path} and {self._staging_path} must be on one file system")
            try:
                fcntl.flock(self._staging.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)  # ends with the process
            except BlockingIOError:
                raise Conflict(f"{self._folder_path} is in use by another process; stop that one first") from None
            recovery, self.index, self._moves = recover(self._folder, self._staging, self.database)
        except OSError as error:
            self._close_folders()
            raise clear_error(error, str(self._folder_path)) from error
        except BaseException:
            self._close_folders()
            raise
        self._is_closing.clear()
        if self._sync_seconds is not None:
            self._sync_thread = threading.Thread(target=self._keep_synced, name="sync", daemon=True)
            self._sync_thread.start()
        return recovery

    def close(self) -> None:
        """Bring everything to its place, as far as the disk allows, and let go of the folders. May be called twice.

        Before the database is closed, best: then no redo rows are left. Committed changes are safe in any case.
        """
        self._is_closing.set()
        self._is_dirty.set()
        if self._sync_thread is not None:
            self._sync_thread.join()
            self._sync_thread = None
        if self._folder is not None:
            try:
                self.sync()
                if self.done_row and self.database.is_open:
                    last_row = self.done_row
                    self.database.submit(lambda connection: delete_redo(connection, last_row)).result()
            except (OSError, CanisterError) as error:
                _log.warning("%s: left to the next start: %s", self._folder_path, error)
        self._close_folders()

    def _close_folders(self) -> None:
        for folder in (self._folder, self._staging):
            if folder is not None:
                folder.close()
        self._folder = self._staging = None

    def stat(self, path: str) -> FileInfo | None:
        """The file or folder at `path`, as last committed. `path/` is a folder or nothing."""
        entry = self.index.get(clean_path(path))
        if entry is None or (entry.info.kind == "file" and names_folder(path)):
            return None
        return entry.info

    def read(self, path: str, offset: int, size: int) -> bytes:
        """Up to `size` committed bytes from `offset`; fewer at the end of the file, none beyond it.

        Raises NotFound, BadRequest (a folder, a negative number), StoreDamaged (bytes are missing).
        """
        if offset < 0 or size < 0:
            raise BadRequest(f"cannot read {size} bytes at offset {offset} of {path!r}: neither may be negative")
        with self._opened(path) as opened:
            n_wanted = max(0, min(size, opened.info.size - offset))
            data = os.pread(opened.fd, n_wanted, offset) if n_wanted else b""
            while len(data) < n_wanted:
                more = os.pread(opened.fd, n_wanted - len(data), offset + len(data))
                if not more:
                    raise damaged(opened.info, os.fstat(opened.fd).st_size)
                data += more
            return data

    def read_into(self, path: str, offset: int, buffer: memoryview) -> int:
        """Fill a buffer of bytes with committed ones from `offset` on; how many there were. Raises as `read` does."""
        with self._opened(path) as opened:
            n_wanted, n = max(0, min(len(buffer), opened.info.size - offset)), 0
            while n < n_wanted:
                n_more = os.preadv(opened.fd, [buffer[n:n_wanted]], offset + n)
                if not n_more:
                    raise damaged(opened.info, os.fstat(opened.fd).st_size)
                n += n_more
            return n

    @contextmanager
    def _opened(self, path: str) -> Iterator[OpenFile]:
        """A file as last committed, to read from; what the disk says against that is told clearly."""
        opened = self.open_file(path)
        try:
            yield opened
        except OSError as error:
            raise clear_error(error, path) from error
        finally:
            os.close(opened.fd)

    def open_file(self, path: str, flags: int = os.O_RDONLY) -> OpenFile:
        """Open a file as last committed, wherever its bytes are just now.

        A path's entry changes before its file does. So if the entry is still the same after opening, the file is its.
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

    def physical(self, path: str) -> Path:
        """Where the file is on the disk, for code that needs a name there; checked for links and for its size now.

        Only a file that is replaced or removed later changes its meaning; one that is mapped keeps its bytes.
        """
        opened = self.open_file(path)
        try:
            n_bytes = os.fstat(opened.fd).st_size
        finally:
            os.close(opened.fd)
        if n_bytes < opened.info.size:
            raise damaged(opened.info, n_bytes)
        self._settle_quietly()
        with self._settling:
            entry = self.index.get(opened.info.path)
            if entry is not None and entry.staged is not None:
                raise StoreDamaged(f"{path!r} cannot be moved to its place on the disk; see the log, check the disk")
        return self.folder.path / opened.info.path

    def walk(self, folder: str, max_entries: int = 0) -> list[FileInfo] | None:
        """Everything below a folder, depth first, in creation order; None without such a folder.

        max_entries: 0 for all. folder: '' or '.' for the root.
        """
        return self.index.walk(clean_folder(folder), max_entries)

    def newest(self, folder: str, n_most: int, *, but: str) -> list[str]:
        """The files below a folder, given by its clean path, that were written last, the newest first.

        but: those whose name ends like this are left out. In a worker thread: SQLite looks at all of the folder.
        """
        within = {"first": f"{folder}/", "end": f"{folder}0"}
        with self.database.read() as connection:
            found = _NEWEST.run(connection, {**within, "n_most": n_most, "but": f"%{but}"})
            return [path for (path,) in found.fetchall()]

    def usage(self, folder: str) -> Usage:
        """What is below a folder, given by its clean path; '' for all of stable memory."""
        return self.index.usage(folder)

    def total_bytes(self) -> int:
        """Committed bytes of all files."""
        return self.index.total_bytes

    def upload(self, path: str) -> Upload | None:
        """What is noted of the upload of this file; None when there is nothing, or the file changed since."""
        entry = self.index.get(clean_path(path))
        return None if entry is None else entry.upload

    def begin(self) -> Transaction:
        """A new transaction: `with memory.begin() as transaction: …`; left without a commit, it is rolled back."""
        return Transaction(self)

    # For Transaction

    def pending_view(self) -> Overlay:
        """What is not committed yet but will be seen by the rest of the group; on the writer thread."""
        number = self.database.n_transactions
        if self._pending[0] != number:
            self._pending = number, Overlay(self.index)
        return self._pending[1]

    def claim(self, paths: set[str]) -> None:
        """Wait until no other transaction is changing any of these paths, and take them. Raises Busy after a while."""
        with self._claimed:
            if not self._claimed.wait_for(lambda: self._claims.isdisjoint(paths), CLAIM_SECONDS):
                taken = sorted(self._claims & paths)
                raise Busy(f"another call has been changing {taken[0]!r} for {CLAIM_SECONDS} s; try again")
            self._claims |= paths

    def try_claim(self, paths: set[str]) -> bool:
        """Take these paths if no other transaction is changing any of them."""
        with self._claimed:
            if not self._claims.isdisjoint(paths):
                return False
            self._claims |= paths
            return True

    def release(self, paths: set[str]) -> None:
        with self._claimed:
            self._claims -= paths
            self._claimed.notify_all()

    def committed(self, changes: list[tuple[str, Entry | None]], moves: list[Move]) -> None:
        """Make a committed transaction visible, then move its files; on the writer thread.

        What cannot be moved now is readable where it is, and is tried again at the next change and at the next start.
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
        """Perform the moves that are committed, in their order. Raises OSError; the rest is left then."""
        with self._settling:
            self._perform_moves()

    def _settle_quietly(self) -> None:
        try:
            self.settle()
        except OSError as error:
            self._log_unsettled(error)

    def _log_unsettled(self, error: OSError) -> None:
        _log.warning("%s: files could not be moved to their places yet: %s", self._folder_path, error)

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
            self._is_dirty.set()

    def is_unsynced(self, path: str) -> bool:
        """Are there bytes of this file that perhaps stand only in redo rows?"""
        with self._syncing, self._settling:  # a sync under way has taken the files, but not yet synced them
            return path in self._unsynced_files or any(move.path == path for move in self._moves)

    def sync(self) -> None:
        """Bring everything that is committed to the disk, so that no redo row is needed any more. Raises OSError.

        After a failing fsync nobody knows what the disk has, and a second one may succeed for nothing. So the redo rows
        stay from then on, and the next start writes their bytes again.
        """
        with self._syncing:
            if self._sync_error is not None:
                raise OSError(errno.EIO, f"an fsync failed before ({self._sync_error.strerror}); restart the server")
            self.settle()
            with self._settling:
                names, folders, last_row = self._unsynced_files, self._unsynced_folders, self._performed_row
                self._unsynced_files, self._unsynced_folders = set(), set()
            try:
                for path in sorted(names):
                    self._sync_file(path)
                self.folder.sync(folders)
            except OSError as error:
                self._sync_error = error
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
            _log.error("%s: %s", self._folder_path, error)  # a redo row would not help its other bytes
            return
        try:
            self.layer.fsync(opened.fd)
        finally:
            os.close(opened.fd)

    def _keep_synced(self) -> None:
        while True:
            self._is_dirty.wait()
            if self._is_closing.wait(self._sync_seconds):
                return
            self._is_dirty.clear()
            if self._is_closing.is_set():  # since then; what woke this thread for it may just have been cleared
                return
            try:
                self.sync()
            except (OSError, CanisterError) as error:
                if self._sync_error is not None:
                    _log.error("%s: an fsync failed (%s); check the disk and restart", self._folder_path, error)
                    return
                _log.warning("%s could not be synced yet: %s", self._folder_path, error)
