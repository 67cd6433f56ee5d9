"""What a disk may hold after a crash: a log of the changes of a folder, and the folder rebuilt from part of them.

Files and folders are numbered like inodes. Of the changes before the crash there are kept

    killed     all: the process died, the machine went on
    torn       all, and half of the write that came next
    lost       those alone that an fsync of their file, or of their folder, has brought to the disk
    some       those, and of the others any, in any combination: the disk reorders what is not synced

A name that is synced before the bytes of its file leaves a file without them, as POSIX allows.
"""

from __future__ import annotations

import os
import random
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Policy = Literal["killed", "torn", "lost", "some"]


@dataclass(frozen=True)
class Write:
    node: int
    offset: int
    data: bytes


@dataclass(frozen=True)
class Truncate:
    node: int
    size: int


@dataclass(frozen=True)
class Sync:
    node: int


@dataclass(frozen=True)
class Add:
    """A new file or folder."""

    folder: int
    name: str
    node: int
    is_folder: bool


@dataclass(frozen=True)
class Remove:
    folder: int
    name: str


@dataclass(frozen=True)
class Rename:
    """Atomic, as journals make it; durable with its target folder, also if the first name of `node` never was."""

    source: int
    name: str
    folder: int
    new_name: str
    node: int


Change = Write | Truncate | Sync | Add | Remove | Rename


@dataclass
class Tree:
    """Contents by number; number 0 is the root."""

    files: dict[int, bytearray] = field(default_factory=dict)
    folders: dict[int, dict[str, int]] = field(default_factory=lambda: {0: {}})

    def copy(self) -> Tree:
        return Tree(
            {node: bytearray(data) for node, data in self.files.items()},
            {node: dict(names) for node, names in self.folders.items()},
        )

    def apply(self, change: Change) -> None:
        """Do a change as far as what it needs is there."""
        match change:
            case Write(node, offset, data):
                content = self.files.setdefault(node, bytearray())
                content.extend(bytes(max(0, offset - len(content))))
                content[offset : offset + len(data)] = data
            case Truncate(node, size):
                content = self.files.setdefault(node, bytearray())
                del content[size:]
                content.extend(bytes(size - len(content)))
            case Add(folder, name, node, is_folder):
                self._names(folder)[name] = node
                if is_folder:
                    self._names(node)
                else:
                    self.files.setdefault(node, bytearray())
            case Remove(folder, name):
                self._names(folder).pop(name, None)
            case Rename(source, name, folder, new_name, node):
                self._names(source).pop(name, None)
                self._names(folder)[new_name] = node

    def _names(self, folder: int) -> dict[str, int]:
        return self.folders.setdefault(folder, {})

    def write_to(self, target: Path, node: int = 0) -> None:
        target.mkdir()
        for name, child in self.folders.get(node, {}).items():
            if child in self.folders:
                self.write_to(target / name, child)
            else:
                (target / name).write_bytes(self.files.get(child, b""))


@dataclass
class Log:
    """The changes of a folder since `begin`, in their order."""

    root: Path
    start: Tree = field(default_factory=Tree)
    changes: list[Change] = field(default_factory=list)
    _nodes: dict[tuple[int, int], int] = field(default_factory=dict)  # inode → number
    _next: int = 1

    @classmethod
    def begin(cls, root: Path) -> Log:
        """Everything that is there now counts as synced."""
        log = cls(root)
        log._nodes[_inode(os.stat(root))] = 0
        for folder, _, _ in os.walk(root):
            here = log.node_at(folder)
            for entry in os.scandir(folder):
                found = entry.stat(follow_symlinks=False)
                if entry.name.endswith("-shm"):
                    continue  # shared memory dies with the machine
                node = log.number(found)
                log.start.folders[here][entry.name] = node
                if stat.S_ISDIR(found.st_mode):
                    log.start.folders[node] = {}
                else:
                    log.start.files[node] = bytearray(Path(entry.path).read_bytes())
        return log

    def number(self, found: os.stat_result) -> int:
        """Of a new file or folder: the kernel gives inodes again, we do not."""
        self._nodes[_inode(found)] = self._next
        self._next += 1
        return self._next - 1

    def node_of(self, found: os.stat_result) -> int | None:
        return self._nodes.get(_inode(found))

    def node_at(self, path: str | Path) -> int:
        return self._nodes[_inode(os.stat(path))]

    def note(self, change: Change) -> None:
        self.changes.append(change)

    def at(self, n: int, policy: Policy, seed: int = 0) -> Tree:
        """What the disk holds when the crash comes after n changes."""
        tree = self.start.copy()
        dice = random.Random(seed)
        synced = self._synced(n)
        for number, change in enumerate(self.changes[:n]):
            if policy in ("killed", "torn") or number in synced:
                tree.apply(change)
            elif policy == "some" and dice.random() < 0.5:
                if isinstance(change, Write) and dice.random() < 0.3:
                    change = Write(change.node, change.offset, change.data[: dice.randrange(len(change.data) + 1)])
                tree.apply(change)
        if policy == "torn" and n < len(self.changes) and isinstance(following := self.changes[n], Write):
            tree.apply(Write(following.node, following.offset, following.data[: len(following.data) // 2]))
        return tree

    def _synced(self, n: int) -> set[int]:
        """Which of the first n changes are surely on the disk."""
        found: set[int] = set()
        synced_nodes: set[int] = set()
        for number in range(n - 1, -1, -1):
            change = self.changes[number]
            if isinstance(change, Sync):
                synced_nodes.add(change.node)
                continue
            held_by = change.node if isinstance(change, Write | Truncate) else change.folder
            if held_by in synced_nodes:
                found.add(number)
        return found


def _inode(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino
