"""A mirror in memory of the tables `files` and `uploads`, so that looking up a file needs no SQL.

Filled once at the start. Only the writer thread changes it, right after a commit, with a whole transaction at once. An
overlay holds what a transaction does before that; transactions committed together see it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Literal, NamedTuple

from canister.errors import StoreDamaged
from canister.store.paths import ancestors_of, parent_of

EntryKind = Literal["file", "directory"]


class FileInfo(NamedTuple):
    """A file or folder as committed. Size in bytes (0 for folders), times in ns since 1970; ids rise with creation."""

    id: int
    path: str
    kind: EntryKind
    size: int
    created_ns: int
    modified_ns: int


class Upload(NamedTuple):
    """The progress of an upload: size and SHA-256 (lower-case hex) so far, and the offset of the last chunk."""

    size: int
    sha256: str
    last_offset: int


class FolderUsage(NamedTuple):
    """The contents of a folder, including all folders below it: files and folders, and the bytes of the files."""

    n_entries: int = 0
    n_bytes: int = 0


class Entry(NamedTuple):
    """What is known of a path. staged: the file's name in the staging folder until it is moved to its place."""

    info: FileInfo
    staged: str | None = None
    upload: Upload | None = None


class FileIndex:
    """Path to entry, and the children of each folder in creation order. Every method may be called by any thread."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}
        self._children: dict[str, dict[str, None]] = {"": {}}
        self._usage: dict[str, FolderUsage] = {}  # by folder
        self._lock = threading.Lock()  # so that nobody sees half of a transaction

    @classmethod
    def filled(cls, entries: Iterable[Entry]) -> FileIndex:
        """An index of all of these, folders before their contents, in a fraction of the time that `publish` takes."""
        index = cls()
        known, children = index._entries, index._children
        n_bytes: dict[str, int] = {"": 0}  # of the files directly in a folder
        for entry in entries:
            _, path, kind, size, _, _ = entry.info
            parent = path.rpartition("/")[0]
            known[path] = entry
            if parent not in children:
                children[parent] = {}
            children[parent][path] = None
            n_bytes[parent] = n_bytes.get(parent, 0) + size
            if kind == "directory" and path not in children:
                children[path] = {}
        used = {folder: [len(inside), n_bytes.get(folder, 0)] for folder, inside in children.items()}
        for folder in sorted(used, key=lambda path: -path.count("/")):  # what is in it before it
            if folder:
                above, own = used[parent_of(folder)], used[folder]
                above[0], above[1] = above[0] + own[0], above[1] + own[1]
        index._usage = {folder: FolderUsage(*own) for folder, own in used.items() if own[0]}
        return index

    @property
    def total_bytes(self) -> int:
        return self.usage("").n_bytes

    def usage(self, folder: str) -> FolderUsage:
        """What is in a folder now."""
        return self._usage.get(folder, FolderUsage())

    def get(self, path: str) -> Entry | None:
        return self._entries.get(path)

    def publish(self, changes: Iterable[tuple[str, Entry | None]]) -> None:
        """Apply a transaction's changes; None removes. Children come after their folders."""
        with self._lock:
            for path, entry in changes:
                old = self._entries.pop(path, None) if entry is None else self._entries.get(path)
                self._count(path, old, entry)
                if entry is None:
                    self._children[parent_of(path)].pop(path, None)
                    self._children.pop(path, None)
                    continue
                self._entries[path] = entry
                self._children.setdefault(parent_of(path), {})[path] = None
                if entry.info.kind == "directory":
                    self._children.setdefault(path, {})

    def _count(self, path: str, old: Entry | None, new: Entry | None) -> None:
        n_entries = (new is not None) - (old is not None)
        n_bytes = (0 if new is None else new.info.size) - (0 if old is None else old.info.size)
        if not n_entries and not n_bytes:
            return
        for folder in ("", *ancestors_of(path)):
            before = self._usage.get(folder, FolderUsage())
            after = FolderUsage(before.n_entries + n_entries, before.n_bytes + n_bytes)
            if after.n_entries or not folder:
                self._usage[folder] = after
            else:
                self._usage.pop(folder, None)

    def folders(self) -> list[str]:
        """All folders, the root too, each after the one that contains it."""
        with self._lock:
            return list(self._children)

    def children(self, folder: str) -> list[str]:
        """The paths directly in a folder, in creation order; none when there is no such folder."""
        with self._lock:
            return list(self._children.get(folder, ()))

    def walk(self, folder: str, max_entries: int) -> list[FileInfo] | None:
        """Everything below a folder, depth first, in creation order; at most max_entries unless that is 0."""
        with self._lock:
            if folder not in self._children:
                return None
            found: list[FileInfo] = []
            waiting = [iter(self._children[folder])]
            while waiting:
                path = next(waiting[-1], None)
                if path is None:
                    waiting.pop()
                    continue
                found.append(self._entries[path].info)
                if len(found) == max_entries:
                    break
                if path in self._children:
                    waiting.append(iter(self._children[path]))
            return found


class Overlay:
    """Changes that are not in the index yet. They are committed together or not at all.

    For the writer thread alone. A transaction has its own overlay above the one that it shares with earlier
    transactions of its group, and adds its changes there when it has come through.
    """

    def __init__(self, below: FileIndex | Overlay) -> None:
        self._below = below
        self._entries: dict[str, Entry | None] = {}  # None: removed

    def get(self, path: str) -> Entry | None:
        return self._entries[path] if path in self._entries else self._below.get(path)

    def put(self, path: str, entry: Entry | None) -> None:
        self._entries[path] = entry

    def update(self, above: Overlay) -> None:
        self._entries.update(above._entries)

    def has_children(self, folder: str) -> bool:
        if any(entry is not None and parent_of(path) == folder for path, entry in self._entries.items()):
            return True
        return any(self.get(path) is not None for path in self._below_children(folder))

    def _below_children(self, folder: str) -> list[str]:
        below = self._below
        if isinstance(below, FileIndex):
            return below.children(folder)
        changed = [path for path in below._entries if parent_of(path) == folder]
        return [*changed, *below._below_children(folder)]


def damaged(info: FileInfo, n_found: int | None) -> StoreDamaged:
    """The error for a file that lost bytes; n_found is None when it is gone."""
    found = "is gone from the disk" if n_found is None else f"has only {n_found} bytes on the disk"
    return StoreDamaged(f"{info.path!r} should have {info.size} bytes and {found}; upload it again or remove it")
