"""What one message changes: nothing of it can be seen before the commit, and all of it afterwards, crash or not.

    prepare    new contents go to new files in the staging folder, appended bytes behind the committed end of their
               file; fsync. In any worker thread, for several transactions at once.
    commit     on the writer thread, one SQL transaction: the statements, the sizes, and a redo row for each rename and
               removal. From here on it has happened.
    settle     renames, removals, fsync of the folders. Then the redo rows are done; the next transaction deletes them.

A crash before the commit leaves staged files and bytes behind the committed ends, which `recovery.py` takes away; a
crash after it leaves redo rows, which it carries out. Old contents are never overwritten: a replaced file that is
mapped by somebody keeps its bytes.
"""

from __future__ import annotations

import logging
import os
import secrets
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

from sqlalchemy import Connection, Executable, bindparam, delete, insert, update

from canister.errors import BadRequest, CanisterError, Conflict, NotFound
from canister.store.files import clear_error
from canister.store.index import Entry, FileInfo, Kind, damaged
from canister.store.paths import ancestors_of, clean_file_path, clean_path, names_folder, parent_of
from canister.store.recovery import Move
from canister.store.tables import file_moves, files, uploads

if TYPE_CHECKING:
    from canister.store.stable import StableMemory

_log = logging.getLogger(__name__)

_INSERT_FILE = insert(files)
_UPDATE_FILE = (
    update(files)
    .where(files.c.id == bindparam("file_id"))
    .values(size=bindparam("new_size"), modified_ns=bindparam("now"))
)
_DELETE_FILE = delete(files).where(files.c.id == bindparam("file_id"))
_DELETE_UPLOAD = delete(uploads).where(uploads.c.path == bindparam("of_path"))
_INSERT_UPLOAD = insert(uploads)
_INSERT_MOVE = insert(file_moves)
_DELETE_MOVES = delete(file_moves).where(file_moves.c.id <= bindparam("settled_row"))


class Upload(NamedTuple):
    """How far an upload is: size and SHA-256 (lower-case hex) so far, and the offset of the last chunk."""

    size: int
    sha256: str
    last_offset: int


class _Committed(NamedTuple):
    """A piece of new content: all of a file in stable memory, as committed when the transaction is prepared."""

    path: str


_Piece = bytes | _Committed | Path
_State = Literal["open", "prepared", "committed", "rolled back"]


@dataclass(slots=True)
class _Change:
    """What becomes of one path. kind None: it goes away. removed: what was there goes away first, with its id."""

    kind: Kind | None
    removed: bool
    pieces: list[_Piece] = field(default_factory=list)
    in_place: bool = False  # the pieces go behind the committed end
    base: FileInfo | None = None  # the file they are appended to; known when prepared
    staged: str | None = None  # the new file's name in the staging folder; known when prepared
    size: int = 0  # of the whole file; known when prepared


class Transaction:
    """Made by `StableMemory.begin`. A handler adds changes, dispatch prepares and commits; then it is used up."""

    def __init__(self, memory: StableMemory) -> None:
        self._memory = memory
        self._changes: dict[str, _Change] = {}
        self._statements: list[tuple[Executable, Any]] = []
        self._uploads: dict[str, Upload] = {}
        self._on_commit: list[Callable[[], None]] = []
        self._on_rollback: list[Callable[[], None]] = []
        self._state: _State = "open"
        self._claims: set[str] = set()
        self._future: Future[None] | None = None
        self._published: list[tuple[str, Entry | None]] = []
        self._moves: list[Move] = []
        self._busy = threading.Lock()  # a roll-back waits for a prepare that was left alone by its caller

    # What a handler adds

    def execute(self, statement: Executable, parameters: Any = None) -> None:
        """Run a statement in the commit; statements run in the order given, after the changes of files."""
        self._check("open")
        self._statements.append((statement, parameters))

    def write_file(self, path: str, data: bytes) -> None:
        """Make a file, or give it new contents; folders above are made. A file keeps its id and creation time."""
        self._new_content(path, [data])

    def import_file(self, path: str, source: Path) -> None:
        """As write_file, with the contents of a file of the host; read when the transaction is prepared."""
        self._new_content(path, [source])

    def append_file(self, path: str, data: bytes) -> None:
        """Add bytes at the end of a file. Raises NotFound."""
        self._check("open")
        clean = clean_file_path(path)
        kind = self._kind(clean)
        if kind is None:
            raise NotFound(f"no file {path!r} to append to; write it first")
        if kind == "directory":
            raise Conflict(f"{path!r} is a folder; nothing can be appended to it")
        change = self._changes.setdefault(clean, _Change("file", removed=False, in_place=True))
        change.pieces.append(data)

    def copy_file(self, source: str, target: str) -> None:
        """Make `target` a copy of the file `source`, with what this transaction changed in it. Raises NotFound."""
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
        pieces: list[_Piece] = [_Committed(clean)] if change is None or change.in_place else []
        self._new_content(target, pieces + (change.pieces if change is not None else []))

    def make_folder(self, path: str) -> None:
        """Make a folder and those above it; nothing happens when it is there."""
        self._check("open")
        clean = clean_path(path)
        self._check_ancestors(clean)
        kind = self._kind(clean)
        if kind == "file":
            raise Conflict(f"{path!r} is a file; remove it first, or use another name for the folder")
        if kind is None:
            removed = self._changes[clean].removed if clean in self._changes else False
            self._changes[clean] = _Change("directory", removed)

    def remove(self, path: str) -> None:
        """Remove a file, with what is noted of its upload, or an empty folder. Raises NotFound, Conflict."""
        self._check("open")
        clean = clean_path(path)
        kind = self._kind(clean)
        if kind is None or (kind == "file" and names_folder(path)):
            raise NotFound(f"no file or folder {path!r} to remove")
        if kind == "directory" and self._has_children(clean):
            raise Conflict(f"folder {path!r} is not empty; remove what is in it first")
        self._changes[clean] = _Change(None, removed=True)
        self._uploads.pop(clean, None)

    def set_upload(self, path: str, size: int, sha256: str, last_offset: int) -> None:
        """Note how far the upload of a file is. A later change of the file without such a note deletes it."""
        self._check("open")
        self._uploads[clean_path(path)] = Upload(size, sha256, last_offset)

    def on_commit(self, call: Callable[[], None]) -> None:
        """Call this once the transaction is committed and visible: on the writer thread, so briefly."""
        self._check("open")
        self._on_commit.append(call)

    def on_rollback(self, call: Callable[[], None]) -> None:
        """Call this if the transaction comes to nothing; in the thread that rolls back."""
        self._check("open")
        self._on_rollback.append(call)

    # What dispatch does with it

    def prepare(self) -> None:
        """Bring the bytes to the disk, where they do not count yet. Slow: in a worker thread.

        Raises StorageFull, StoreDamaged, BadRequest, Busy; the transaction is to be rolled back then.
        """
        with self._busy:
            self._check("open")
            contents = {path: change for path, change in self._changes.items() if change.kind == "file"}
            self._memory.claim(set(self._changes))
            self._claims = set(self._changes)
            for path, change in contents.items():
                try:
                    if change.in_place:
                        self._append(path, change)
                    else:
                        self._memory.folder.check_way(path, self._committed_kind)
                        self._stage(path, change)
                except OSError as error:
                    size = sum(len(piece) for piece in change.pieces if isinstance(piece, bytes))
                    raise clear_error(error, path, size) from error
            if any(change.staged for change in contents.values()):
                try:
                    self._memory.layer.fsync(self._memory.staging.fd)
                except OSError as error:
                    raise clear_error(error, "the staging folder") from error
            self._state = "prepared"

    def commit(self) -> Future[None]:
        """Commit what was prepared; the future is done when it holds and can be seen, or has the error.

        Asynchronous code awaits `asyncio.wrap_future(transaction.commit())`. After an error, roll back.
        """
        self._check("prepared")
        if not (self._changes or self._statements or self._uploads):
            self._future = Future()
            self._finish()
            self._future.set_result(None)
        else:
            self._future = self._memory.database.submit(self._apply, committed=self._finish)
        return self._future

    def commit_sync(self) -> None:
        """All of it, here and now: for the start and for tests. Rolls back on an error."""
        try:
            self.prepare()
            self.commit().result()
        except BaseException:
            self.rollback()
            raise

    def rollback(self) -> None:
        """Undo what was prepared. After a commit nothing happens; a commit that is under way is waited for."""
        with self._busy:
            if self._future is not None:
                wait([self._future])
            if self._state in ("committed", "rolled back"):
                return
            self._state = "rolled back"
            if self._memory.database.failed is None:  # else the next start knows whether the bytes count
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

    def _check(self, state: _State) -> None:
        if self._state != state:
            raise RuntimeError(f"the transaction is {self._state}, not {state}")

    def _committed_kind(self, path: str) -> Kind | None:
        entry = self._memory.index.get(path)
        return None if entry is None else entry.info.kind

    def _kind(self, path: str) -> Kind | None:
        """What is at this path, seen from within the transaction."""
        change = self._changes.get(path)
        if change is not None:
            return change.kind
        if any(other.startswith(f"{path}/") and self._changes[other].kind for other in self._changes):
            return "directory"
        return self._committed_kind(path)

    def _has_children(self, folder: str) -> bool:
        if any(parent_of(path) == folder and change.kind for path, change in self._changes.items()):
            return True
        return any(path not in self._changes for path in self._memory.index.children(folder))

    def _check_ancestors(self, path: str) -> None:
        for folder in ancestors_of(path):
            if self._kind(folder) == "file":
                raise Conflict(f"{path!r} cannot be made: {folder!r} is a file; remove it, or use another path")

    def _new_content(self, path: str, pieces: list[_Piece]) -> None:
        self._check("open")
        clean = clean_file_path(path)
        self._check_ancestors(clean)
        if self._kind(clean) == "directory":
            raise Conflict(f"{path!r} is a folder; a file cannot be written there")
        removed = self._changes[clean].removed if clean in self._changes else False
        self._changes[clean] = _Change("file", removed, pieces)

    # Preparing

    def _stage(self, path: str, change: _Change) -> None:
        memory = self._memory
        name = secrets.token_hex(8)
        fd = memory.layer.create(name, memory.staging.fd)
        change.staged = name
        try:
            change.size = self._write_pieces(fd, 0, change.pieces)
            memory.layer.fsync(fd)
        finally:
            os.close(fd)

    def _append(self, path: str, change: _Change) -> None:
        memory = self._memory
        opened = memory.open_file(path, os.O_WRONLY)
        try:
            n_found = os.fstat(opened.fd).st_size
            if n_found < opened.info.size:
                raise damaged(opened.info, n_found)
            if n_found > opened.info.size:
                memory.layer.truncate(opened.fd, opened.info.size)  # a roll-back could not do it
            change.base = opened.info
            change.size = self._write_pieces(opened.fd, opened.info.size, change.pieces)
            memory.layer.fsync(opened.fd)
        finally:
            os.close(opened.fd)

    def _write_pieces(self, fd: int, offset: int, pieces: list[_Piece]) -> int:
        """Write the pieces one after the other; returns the offset after the last."""
        layer = self._memory.layer
        for piece in pieces:
            if isinstance(piece, _Committed):
                opened = self._memory.open_file(piece.path)
                try:
                    n_bytes = layer.copy(opened.fd, fd, opened.info.size, offset)
                finally:
                    os.close(opened.fd)
                if n_bytes < opened.info.size:
                    raise damaged(opened.info, n_bytes)
            elif isinstance(piece, Path):
                n_bytes = self._import(piece, fd, offset)
            else:
                layer.write(fd, piece, offset)
                n_bytes = len(piece)
            offset += n_bytes
        return offset

    def _import(self, source: Path, fd: int, offset: int) -> int:
        try:
            source_fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise BadRequest(f"file {str(source)!r} cannot be read: {error.strerror}") from error
        try:
            return self._memory.layer.copy(source_fd, fd, os.fstat(source_fd).st_size, offset)
        finally:
            os.close(source_fd)

    # Committing, on the writer thread

    def _apply(self, connection: Connection) -> None:
        memory = self._memory
        now = memory.clock()
        entries: dict[str, Entry | None] = {}

        def look(path: str) -> Entry | None:
            return entries[path] if path in entries else memory.index.get(path)

        def publish(path: str, entry: Entry | None) -> None:
            entries[path] = entry
            self._published.append((path, entry))

        def add(path: str, kind: Kind, size: int, staged: str | None) -> None:
            row = {"path": path, "kind": kind, "size": size, "created_ns": now, "modified_ns": now}
            key = connection.execute(_INSERT_FILE, row).inserted_primary_key
            assert key is not None
            publish(path, Entry(FileInfo(id=key[0], **row), staged))  # type: ignore[arg-type]

        def move(path: str, source: str | None) -> None:
            key = connection.execute(_INSERT_MOVE, {"source": source, "target": path}).inserted_primary_key
            assert key is not None
            self._moves.append(Move(path, source, key[0]))

        def forget(path: str, info: FileInfo) -> None:
            if info.kind == "directory" and any(look(child) for child in memory.index.children(path)):
                raise Conflict(f"folder {path!r} is not empty any more; remove what is in it first")
            connection.execute(_DELETE_FILE, {"file_id": info.id})
            publish(path, None)

        if memory.settled_row:
            connection.execute(_DELETE_MOVES, {"settled_row": memory.settled_row})
        for path, change in self._changes.items():
            old = look(path)
            if change.removed and old is not None:
                forget(path, old.info)
                if change.kind != "file":
                    move(path, None)
                old = None
            if change.kind is None:
                connection.execute(_DELETE_UPLOAD, {"of_path": path})
                continue
            for folder in ancestors_of(path):
                above = look(folder)
                if above is None:
                    add(folder, "directory", 0, None)
                    self._moves.append(Move(folder, None, 0))
                elif above.info.kind == "file":
                    raise Conflict(f"{path!r} cannot be made: {folder!r} is a file by now")
            if old is not None and old.info.kind != change.kind:
                raise Conflict(f"{path!r} is a {old.info.kind} by now, and was to be a {change.kind}")
            if change.kind == "directory":
                if old is None:
                    add(path, "directory", 0, None)
                    self._moves.append(Move(path, None, 0))
                continue
            if change.staged is not None:
                move(path, change.staged)
            if path not in self._uploads:
                connection.execute(_DELETE_UPLOAD, {"of_path": path})
            if old is None:
                if change.in_place:
                    raise Conflict(f"{path!r} is gone by now; nothing was appended to it")
                add(path, "file", change.size, change.staged)
            else:
                connection.execute(_UPDATE_FILE, {"file_id": old.info.id, "new_size": change.size, "now": now})
                info = FileInfo(old.info.id, path, "file", change.size, old.info.created_ns, now)
                publish(path, Entry(info, change.staged if change.staged is not None else old.staged))
        for path, upload in self._uploads.items():
            connection.execute(_DELETE_UPLOAD, {"of_path": path})
            connection.execute(_INSERT_UPLOAD, {"path": path, **upload._asdict()})
        for statement, parameters in self._statements:
            connection.execute(statement, parameters)

    def _finish(self) -> None:
        self._state = "committed"
        self._memory.committed(self._published, self._moves)
        self._release()
        self._call(self._on_commit)

    # Undoing

    def _undo(self) -> None:
        """Take prepared bytes away. What cannot be taken away now, the next append or the next start takes away."""
        memory = self._memory
        for path, change in self._changes.items():
            try:
                if change.staged is not None:
                    memory.layer.unlink(change.staged, memory.staging.fd)
                elif change.base is not None:
                    opened = memory.open_file(path, os.O_WRONLY)
                    try:
                        memory.layer.truncate(opened.fd, change.base.size)
                    finally:
                        os.close(opened.fd)
            except (OSError, CanisterError) as error:
                _log.warning("%r could not be rolled back yet: %s", path, error)

    def _release(self) -> None:
        if self._claims:
            self._memory.release(self._claims)
            self._claims = set()

    def _call(self, calls: list[Callable[[], None]]) -> None:
        for call in calls:
            try:
                call()
            except Exception:
                _log.exception("a callback of a transaction failed")
