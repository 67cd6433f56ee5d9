"""The file tree of one canister: plain files under their own names, and a table that says which bytes of them count.

The table is the truth. Files that a person puts into the folder are not seen, and may be overwritten. A file that is
gone, or shorter than the table says, is damaged: reading it fails, everything else works. Changes go through a
Transaction (`transaction.py`). Callers lock paths.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from canister.errors import BadRequest, CanisterError, StoreDamaged
from canister.store import listings
from canister.store.database import Database
from canister.store.filesystem import FileLayer, clear_error
from canister.store.index import FileInfo, FolderUsage, Upload, damaged
from canister.store.journal import delete_redo
from canister.store.paths import clean_folder, clean_path, names_folder
from canister.store.recovery import Recovery, recover
from canister.store.transaction import Transaction
from canister.store.volume import OpenFile, Volume

__all__ = ["FileInfo", "OpenFile", "Recovery", "StableMemory", "Transaction", "Upload", "clean_path"]

SYNC_SECONDS = 0.2  # redo rows gather for so long before their changes are brought to the disk

_log = logging.getLogger(__name__)


class StableMemory:
    """Reads, and the beginning of transactions. Any thread may call any method after `recover`."""

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
        """folder, staging: on one file system, since new files are moved from one to the other. clock: ns since 1970.

        sync_seconds: None if only `sync` syncs.
        """
        self.volume = Volume(folder, staging, database, layer or FileLayer(), clock)
        self._sync_seconds = sync_seconds
        self._sync_thread: threading.Thread | None = None
        self._is_closing = threading.Event()

    @property
    def database(self) -> Database:
        return self.volume.database

    def recover(self) -> Recovery:
        """Open the folders and repair what a crash left behind. This is the first call.

        Raises Conflict when another process has them open, BadRequest when they are on two file systems.
        """
        try:
            self.volume.open()
            recovery = recover(self.volume)
        except OSError as error:
            self.volume.close()
            raise clear_error(error, str(self.volume.path)) from error
        except BaseException:
            self.volume.close()
            raise
        self._is_closing.clear()
        if self._sync_seconds is not None:
            self._sync_thread = threading.Thread(target=self._keep_synced, name="sync", daemon=True)
            self._sync_thread.start()
        return recovery

    def close(self) -> None:
        """Bring everything to its place, as far as the disk allows, and close the folders. May be called twice.

        Best done before the database is closed, since no redo rows are left then. Committed changes are safe in any
        case.
        """
        self._is_closing.set()
        self.volume.is_dirty.set()
        if self._sync_thread is not None:
            self._sync_thread.join()
            self._sync_thread = None
        if self.volume.is_open:
            try:
                self.sync()
                if self.volume.done_row and self.database.is_open:
                    last_row = self.volume.done_row
                    self.database.submit(lambda connection: delete_redo(connection, last_row)).result()
            except (OSError, CanisterError) as error:
                _log.warning("%s: left to the next start: %s", self.volume.path, error)
        self.volume.close()

    def stat(self, path: str) -> FileInfo | None:
        """The file or folder at `path`, as last committed. `path/` is a folder or nothing."""
        entry = self.volume.index.get(clean_path(path))
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
        """Fill a buffer with committed bytes from `offset` on. Returns how many there were. Raises as `read` does."""
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
        """A file as last committed, open for reading. Errors of the disk are told clearly."""
        opened = self.open_file(path)
        try:
            yield opened
        except OSError as error:
            raise clear_error(error, path) from error
        finally:
            os.close(opened.fd)

    def open_file(self, path: str) -> OpenFile:
        """Open a file as last committed for reading. Raises NotFound, BadRequest (a folder), StoreDamaged."""
        return self.volume.open_file(path)

    def physical(self, path: str) -> Path:
        """The file's path on the disk, for code that needs a name there; checked for links and for its present size.

        A later replacement or removal changes what the path means. A file that is mapped keeps its bytes.
        """
        opened = self.open_file(path)
        try:
            n_bytes = os.fstat(opened.fd).st_size
        finally:
            os.close(opened.fd)
        if n_bytes < opened.info.size:
            raise damaged(opened.info, n_bytes)
        if not self.volume.bring_to_place(opened.info.path):
            raise StoreDamaged(f"{path!r} cannot be moved to its place on the disk; see the log, check the disk")
        return self.volume.path / opened.info.path

    def walk(self, folder: str, max_entries: int = 0) -> list[FileInfo] | None:
        """Everything below a folder, depth first, in creation order; None without such a folder.

        max_entries: 0 for all. folder: '' or '.' for the root.
        """
        return self.volume.index.walk(clean_folder(folder), max_entries)

    def newest_below(self, folder: str, n_most: int) -> list[str]:
        """The most recently written files below a folder of a caller (a clean path), sidecars apart, the newest first.
        In a worker thread, as the next ones; it looks at all of the folder.
        """
        with self.database.read() as connection:
            return listings.newest_below(connection, folder, n_most)

    def inside(self, folder: str, after: int = 0, n_most: int | None = None) -> list[FileInfo]:
        """What lies directly in a folder, given by its clean path, in creation order: n_most behind the one of this id,
        None for all.
        """
        with self.database.read() as connection:
            return listings.inside(connection, folder, after, _or_all(n_most))

    def newest_of(
        self, caller: str, area: str, before: tuple[int, int] | None = None, n_most: int | None = None
    ) -> list[FileInfo]:
        """The files of a caller in an area such as sessions, sidecars apart, the one written last first: n_most that
        come after the place `before` (time of writing, id).
        """
        with self.database.read() as connection:
            return listings.newest(connection, caller, area, before or listings.LATEST, _or_all(n_most))

    def total_of(self, caller: str, area: str) -> tuple[int, int]:
        """The number of these files, and their bytes."""
        with self.database.read() as connection:
            return listings.total(connection, caller, area)

    def models(self) -> list[FileInfo]:
        """Files that are named as models, in creation order, but those in callers' folders."""
        with self.database.read() as connection:
            return listings.models(connection)

    def usage(self, folder: str) -> FolderUsage:
        """What is below a folder, given by its clean path; '' for all of stable memory."""
        return self.volume.index.usage(folder)

    def total_bytes(self) -> int:
        """Committed bytes of all files."""
        return self.volume.index.total_bytes

    def upload(self, path: str) -> Upload | None:
        """The noted progress of the upload of this file; None when there is none, or the file changed since."""
        entry = self.volume.index.get(clean_path(path))
        return None if entry is None else entry.upload

    def begin(self) -> Transaction:
        """A new transaction: `with memory.begin() as transaction: …`. Left without a commit, it is rolled back."""
        return Transaction(self.volume)

    def sync(self) -> None:
        """Bring everything committed to the disk, so that no redo row is needed any more. Raises OSError."""
        self.volume.sync()

    def _keep_synced(self) -> None:
        while True:
            self.volume.is_dirty.wait()
            if self._is_closing.wait(self._sync_seconds):
                return
            self.volume.is_dirty.clear()
            # Closing has begun since; the event that woke this thread may just have been cleared.
            if self._is_closing.is_set():
                return
            try:
                self.sync()
            except (OSError, CanisterError) as error:
                if self.volume.sync_error is not None:
                    _log.error("%s: an fsync failed (%s); check the disk and restart", self.volume.path, error)
                    return
                _log.warning("%s could not be synced yet: %s", self.volume.path, error)


def _or_all(n_most: int | None) -> int:
    return listings.ALL if n_most is None else n_most
