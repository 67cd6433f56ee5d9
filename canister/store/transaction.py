"""What one message changes: nothing of it can be seen before the commit, and all of it afterwards, crash or not.

prepare    in any worker thread, many at once: new bytes are written where they do not count yet (`changes.py`)
commit     on the writer thread, one SQL transaction for all that are ready: rows, sizes, redo rows (`commit.py`)
settle     on the writer thread: the changes are seen, then files are renamed and removed (`volume.py`)
sync       a little later, for many transactions together: fsync of what changed; the redo rows are done with
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from types import TracebackType
from typing import Literal, Self

from sqlalchemy import Connection, Executable

from canister.errors import CanisterError, Conflict, NotFound
from canister.store.changes import Change, Committed, Piece, take_back, write_bytes
from canister.store.commit import FileCommit
from canister.store.filesystem import clear_error
from canister.store.index import EntryKind, FolderUsage, Upload
from canister.store.journal import MAX_REDO_BYTES, delete_redo
from canister.store.paths import ancestors_of, clean_file_path, clean_path, names_folder, parent_of
from canister.store.statements import Prepared
from canister.store.volume import Volume

_log = logging.getLogger(__name__)

_Stage = Literal["open", "prepared", "committed", "rolled back"]

Step = Callable[[Connection], None]
"""SQL of a commit that depends on what is committed by then."""


class Transaction:
    """Made by `StableMemory.begin`. A handler adds changes, dispatch prepares and commits; then it is used up.

    A small transaction waits for the disk once, in its COMMIT. Redo rows stand for renames, removals, and bytes that
    may not be on the disk yet. A crash before the commit leaves staged files and bytes behind the committed ends, which
    `recovery.py` removes. A crash after it leaves redo rows, which `recovery.py` carries out. Old contents are never
    overwritten, so whoever has mapped a replaced file keeps its bytes.
    """

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self._changes: dict[str, Change] = {}
        self._statements: list[tuple[Executable | Prepared | Step, Mapping[str, object] | None]] = []
        self._uploads: dict[str, Upload] = {}
        self._on_commit: list[Callable[[], None]] = []
        self._on_rollback: list[Callable[[], None]] = []
        self._stage: _Stage = "open"
        self._claims: set[str] = set()
        self._future: Future[None] | None = None
        self._files: FileCommit | None = None
        self._deletes_row = 0  # redo rows up to this one go with the commit
        self._busy = threading.Lock()  # a roll-back waits for a prepare whose caller was cancelled

    # What a handler adds

    def execute(self, statement: Executable | Prepared, parameters: Mapping[str, object] | None = None) -> None:
        """Run a statement in the commit, after the changes of files, in the order of the calls."""
        self._check("open")
        self._statements.append((statement, parameters))

    def run(self, step: Step) -> None:
        """Do more in the commit, in the order of the calls, on the writer thread. It sees what is committed before it,
        and may run again, so it may change nothing but the database.
        """
        self._check("open")
        self._statements.append((step, None))

    def write_file(self, path: str, data: bytes) -> None:
        """Make a file and the folders above it, or give it new contents. A file keeps its id and creation time."""
        self._new_content(path, [data])

    def append_file(self, path: str, data: bytes) -> None:
        """Add bytes at the end of a file. Raises NotFound."""
        self._check("open")
        clean = clean_file_path(path)
        kind = self._kind(clean)
        if kind is None:
            raise NotFound(f"no file {path!r} to append to; write it first")
        if kind == "directory":
            raise Conflict(f"{path!r} is a folder; nothing can be appended to it")
        change = self._changes.setdefault(clean, Change("file", removed=False, in_place=True))
        change.pieces.append(data)

    def copy_file(self, source: str, target: str) -> None:
        """Make `target` a copy of the file `source`, including this transaction's changes of it. Raises NotFound."""
        self._check("open")
        clean, new = clean_file_path(source), clean_file_path(target)
        kind = self._kind(clean)
        if kind is None:
            raise NotFound(f"no file {source!r} to copy")
        if kind == "directory":
            raise Conflict(f"{source!r} is a folder; only files can be copied")
        if clean == new:
            return
        change = self._changes.get(clean)
        pieces: list[Piece] = [Committed(clean)] if change is None or change.in_place else []
        self._new_content(target, pieces + (change.pieces if change is not None else []))

    def remove(self, path: str) -> None:
        """Remove a file with the note of its upload, or an empty folder. Raises NotFound, Conflict."""
        self._check("open")
        clean = clean_path(path)
        kind = self._kind(clean)
        if kind is None or (kind == "file" and names_folder(path)):
            raise NotFound(f"no file or folder {path!r} to remove")
        if kind == "directory" and self._has_children(clean):
            raise Conflict(f"folder {path!r} is not empty; remove what is in it first")
        self._changes[clean] = Change(None, removed=True)
        self._uploads.pop(clean, None)

    def set_upload(self, path: str, size: int, sha256: str, last_offset: int) -> None:
        """Note the progress of a file's upload. A later change of the file without such a note deletes it."""
        self._check("open")
        self._uploads[clean_path(path)] = Upload(size, sha256, last_offset)

    def on_commit(self, call: Callable[[], None]) -> None:
        """Call this when the transaction is committed and visible, on the writer thread, so it must be brief."""
        self._check("open")
        self._on_commit.append(call)

    def on_rollback(self, call: Callable[[], None]) -> None:
        """Call this when the transaction is rolled back, in the thread that does it."""
        self._check("open")
        self._on_rollback.append(call)

    @property
    def changed_paths(self) -> tuple[str, ...]:
        """The files and folders that it changes or has changed."""
        return tuple(self._changes)

    def removes(self, path: str) -> bool:
        """Will nothing be at this clean path that it changes?"""
        return self._changes[path].kind is None

    # What dispatch does with it

    def prepare(self) -> None:
        """Bring the bytes to the disk where they do not count yet. Slow, so in a worker thread.

        Raises StorageFull, StoreDamaged, BadRequest, Busy. The transaction must then be rolled back.
        """
        with self._busy:
            self._check("open")
            if self._volume.database.failed is not None:  # else these bytes might overwrite committed ones
                self._volume.database.submit(lambda _: None).result()
            paths = set(self._changes)
            self._volume.claim(paths)
            self._claims = paths
            self._write_contents()
            self._stage = "prepared"

    def growth(self) -> dict[str, FolderUsage]:
        """By how much each path makes stable memory larger or smaller. Call it when the transaction is small or
        prepared.
        """
        grown = {}
        for path, change in self._changes.items():
            old = self._volume.index.get(path)
            n_before = 0 if old is None else old.info.size
            n_after = change.size if change.kind == "file" else 0
            if self._stage == "open" and change.kind == "file":
                n_after = change.n_bytes_at_hand() + (n_before if change.in_place else 0)
            grown[path] = FolderUsage((change.kind is not None) - (old is not None), n_after - n_before)
        return grown

    def commit(self) -> Future[None]:
        """Commit what was prepared. The future is done when the changes hold and are visible, or has the error.

        Asynchronous code awaits `asyncio.wrap_future(transaction.commit())`. After an error, roll back.
        """
        self._check("prepared")
        return self._submit(before=None)

    def commit_small(self) -> Future[None] | None:
        """Prepare and commit on the writer thread, so that the caller's thread never waits.

        Returns None, and does nothing, if there are more than a few bytes to prepare or others use these files. Use
        `prepare` and `commit` then.
        """
        self._check("open")
        paths = set(self._changes)
        if not self.is_small or not self._volume.try_claim(paths):
            return None
        self._claims = paths
        self._stage = "prepared"
        return self._submit(before=self._write_contents if paths else None)

    def _submit(self, before: Callable[[], None] | None) -> Future[None]:
        if not (self._changes or self._statements or self._uploads):
            self._future = Future()
            self._finish()
            self._future.set_result(None)
        else:
            self._future = self._volume.database.submit(self._apply, before=before, committed=self._finish)
        return self._future

    @property
    def is_small(self) -> bool:
        """Are there only a few bytes to prepare?"""
        n_bytes = 0
        for change in self._changes.values():
            n_bytes += change.n_bytes_at_hand()
            if n_bytes > MAX_REDO_BYTES or not all(isinstance(piece, bytes) for piece in change.pieces):
                return False
        return True

    def _write_contents(self) -> None:
        contents = {path: change for path, change in self._changes.items() if change.kind == "file"}
        n_redo_bytes = MAX_REDO_BYTES
        for path, change in contents.items():
            try:
                if not change.in_place:
                    self._volume.folder.check_way(path, self._committed_kind)
                write_bytes(self._volume, path, change, n_redo_bytes)
            except OSError as error:
                raise clear_error(error, path, change.n_bytes_at_hand()) from error
            n_redo_bytes -= len(change.redo or b"")
        if any(change.staged and change.redo is None for change in contents.values()):
            try:
                self._volume.layer.fsync(self._volume.staging.fd)
            except OSError as error:
                raise clear_error(error, "the staging folder") from error

    def commit_sync(self) -> None:
        """All of it here and now, for the start and for tests. Rolls back on an error."""
        try:
            self.prepare()
            self.commit().result()
        except BaseException:
            self.rollback()
            raise

    def rollback(self) -> None:
        """Undo what was prepared. After a commit nothing happens; a commit under way is waited for."""
        with self._busy:
            if self._future is not None:
                wait([self._future])
            if self._stage in ("committed", "rolled back"):
                return
            self._stage = "rolled back"
            if self._volume.database.failed is None:  # else the next start knows whether the bytes count
                self._undo()
            self._release()
        self._call(self._on_rollback)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.rollback()

    # Adding

    def _check(self, stage: _Stage) -> None:
        if self._stage != stage:
            raise RuntimeError(f"the transaction is {self._stage}, not {stage}")

    def _committed_kind(self, path: str) -> EntryKind | None:
        entry = self._volume.index.get(path)
        return None if entry is None else entry.info.kind

    def _kind(self, path: str) -> EntryKind | None:
        """The kind of entry at this path, as the transaction sees it."""
        change = self._changes.get(path)
        kind = change.kind if change is not None else self._committed_kind(path)
        if kind is None and any(other.kind for below, other in self._changes.items() if below.startswith(f"{path}/")):
            return "directory"
        return kind

    def _has_children(self, folder: str) -> bool:
        if any(parent_of(path) == folder and change.kind for path, change in self._changes.items()):
            return True
        return any(path not in self._changes for path in self._volume.index.children(folder))

    def _check_ancestors(self, path: str) -> None:
        for folder in ancestors_of(path):
            if self._kind(folder) == "file":
                raise Conflict(f"{path!r} cannot be made: {folder!r} is a file; remove it, or use another path")

    def _new_content(self, path: str, pieces: list[Piece]) -> None:
        self._check("open")
        clean = clean_file_path(path)
        self._check_ancestors(clean)
        if self._kind(clean) == "directory":
            raise Conflict(f"{path!r} is a folder; a file cannot be written there")
        removed = self._changes[clean].removed if clean in self._changes else False
        self._changes[clean] = Change("file", removed, pieces)

    # Committing, on the writer thread

    def _apply(self, connection: Connection) -> None:
        volume = self._volume
        if volume.done_row > volume.deleted_row:
            self._deletes_row = volume.done_row
            delete_redo(connection, self._deletes_row)
        view = volume.pending_view()
        commit = FileCommit(connection, view, volume.clock())
        commit.apply(self._changes)
        commit.note_uploads(self._uploads.items())
        for statement, parameters in self._statements:
            if isinstance(statement, Prepared):
                statement.run(connection, parameters)
            elif isinstance(statement, Executable):
                connection.execute(statement, parameters)
            else:
                statement(connection)
        self._files = commit
        view.update(commit.view)  # last, so that later transactions see only what came through

    def _finish(self) -> None:
        self._stage = "committed"
        try:
            self._volume.deleted_row = max(self._volume.deleted_row, self._deletes_row)
            if self._files is not None:
                self._volume.committed(self._files.published, self._files.moves)
        finally:
            self._release()
        self._call(self._on_commit)

    # Undoing

    def _undo(self) -> None:
        """Remove prepared bytes. Bytes that cannot be removed now do not count either, and the next start
        removes them.
        """
        for path, change in self._changes.items():
            try:
                take_back(self._volume, path, change)
            except (OSError, CanisterError) as error:
                _log.warning("%r could not be rolled back yet: %s", path, error)

    def _release(self) -> None:
        if self._claims:
            self._volume.release(self._claims)
            self._claims = set()

    def _call(self, calls: list[Callable[[], None]]) -> None:
        for call in calls:
            try:
                call()
            except Exception:
                _log.exception("a callback of a transaction failed")
