"""The SQL of a transaction: changes of files as rows, and what is to be published and moved once they are committed.

Runs on the writer thread only, one transaction after the other. It sees the committed state, and the changes of earlier
transactions in the same commit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from sqlalchemy import Connection, bindparam, delete, insert, update

from canister.errors import Conflict
from canister.store.changes import Change
from canister.store.index import Entry, EntryKind, FileInfo, Overlay, Upload
from canister.store.journal import Move, insert_redo
from canister.store.paths import ancestors_of
from canister.store.statements import Prepared
from canister.store.tables import files, uploads

_INSERT_FILE = Prepared(insert(files), "path", "kind", "size", "created_ns", "modified_ns")
_UPDATE_FILE = Prepared(
    update(files)
    .where(files.c.id == bindparam("file_id"))
    .values(size=bindparam("new_size"), modified_ns=bindparam("now_ns"))
)
_DELETE_FILE = Prepared(delete(files).where(files.c.id == bindparam("file_id")))
_INSERT_UPLOAD = Prepared(insert(uploads), "path", "size", "sha256", "last_offset")
_DELETE_UPLOAD = Prepared(delete(uploads).where(uploads.c.path == bindparam("of_path")))


class FileCommit:
    """Writes rows and gathers their consequences. Raises Conflict if another transaction has changed what they rest on.

    view: the changes of earlier transactions in the same group. When this transaction has come through, its own `view`
    is added to them.
    """

    def __init__(self, connection: Connection, view: Overlay, now_ns: int) -> None:
        self.view = Overlay(view)
        self.published: list[tuple[str, Entry | None]] = []  # for the index, in the order of events
        self.moves: list[Move] = []
        self._connection = connection
        self._now_ns = now_ns

    def apply(self, changes: Mapping[str, Change]) -> None:
        removed = [path for path, change in changes.items() if change.removed]
        for path in sorted(removed, key=lambda path: -path.count("/")):  # the contents of a folder before the folder
            old = self.view.get(path)
            if old is not None:
                self._remove(path, old)
                if changes[path].kind != "file":  # a file is renamed over it
                    self._move(Move("drop", path))
        for path, change in changes.items():
            if change.kind is None:
                continue
            self._make_folders(ancestors_of(path))
            old = self.view.get(path)
            if old is not None and old.info.kind != change.kind:
                raise Conflict(f"{path!r} is a {old.info.kind} by now, and was to be a {change.kind}; try again")
            self._write(path, change, old)

    def note_uploads(self, notes: Iterable[tuple[str, Upload]]) -> None:
        for path, upload in notes:
            entry = self.view.get(path)
            if entry is None or entry.info.kind != "file":
                raise Conflict(f"{path!r} is no file by now; begin the upload anew at offset 0")
            if entry.upload is not None:
                _DELETE_UPLOAD.run(self._connection, {"of_path": path})
            _INSERT_UPLOAD.run(self._connection, {"path": path, **upload._asdict()})
            self._publish(path, entry._replace(upload=upload))

    def _publish(self, path: str, entry: Entry | None) -> None:
        self.view.put(path, entry)
        self.published.append((path, entry))

    def _move(self, move: Move) -> None:
        self.moves.append(insert_redo(self._connection, move))

    def _remove(self, path: str, old: Entry) -> None:
        if old.info.kind == "directory" and self.view.has_children(path):
            raise Conflict(f"folder {path!r} is not empty any more; remove what is in it first")
        _DELETE_FILE.run(self._connection, {"file_id": old.info.id})
        self._forget_upload(path, old)
        self._publish(path, None)

    def _make_folders(self, paths: list[str]) -> None:
        for path in paths:
            entry = self.view.get(path)
            if entry is None:
                self._publish(path, Entry(self._insert(path, "directory", 0)))
                self.moves.append(Move("make", path))
            elif entry.info.kind == "file":
                raise Conflict(f"{path!r} is a file by now, and was to be a folder; try again")

    def _write(self, path: str, change: Change, old: Entry | None) -> None:
        if change.staged is not None:
            self._move(Move("put", path, source=change.staged, data=change.redo))
        elif change.redo:
            self._move(Move("append", path, offset=change.size - len(change.redo), data=change.redo))
        if old is None:
            if change.in_place:
                raise Conflict(f"{path!r} is gone by now; nothing was appended to it")
            self._publish(path, Entry(self._insert(path, "file", change.size), change.staged))
            return
        row = {"file_id": old.info.id, "new_size": change.size, "now_ns": self._now_ns}
        _UPDATE_FILE.run(self._connection, row)
        self._forget_upload(path, old)
        info = FileInfo(old.info.id, path, "file", change.size, old.info.created_ns, self._now_ns)
        self._publish(path, Entry(info, old.staged if change.in_place else change.staged))

    def _insert(self, path: str, kind: EntryKind, size: int) -> FileInfo:
        now = self._now_ns
        row = {"path": path, "kind": kind, "size": size, "created_ns": now, "modified_ns": now}
        key = _INSERT_FILE.run(self._connection, row).lastrowid
        assert key is not None
        return FileInfo(key, path, kind, size, now, now)

    def _forget_upload(self, path: str, old: Entry) -> None:
        if old.upload is not None:
            _DELETE_UPLOAD.run(self._connection, {"of_path": path})
