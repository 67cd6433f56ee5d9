"""A file layer and a database that break at operation n, and the image of the disk that a crash leaves.

One operation is one call of the file layer, or one COMMIT. What happens at number n:

    fail     it raises an OSError and does nothing; later ones work again
    full     the same, and the disk is full
    torn     a write brings half of its bytes, then raises; others as `fail`
    crash    it and everything after raises Crash
    tear     a write brings half of its bytes, others all they do; everything after raises Crash
"""

from __future__ import annotations

import errno
import itertools
import os
import shutil
import stat
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sqlalchemy import Connection

from canister.store.database import Database
from canister.store.filesystem import FileLayer

Mode = Literal["fail", "full", "torn", "crash", "tear"]


class Crash(BaseException):
    """The process is dead. No code may catch it."""


class Faults:
    """Counts operations and tells what becomes of each; shared by a file layer and a database."""

    def __init__(self, at: int = 0, mode: Mode = "crash") -> None:
        self.at = at
        self.mode = mode
        self.n_done = 0
        self.is_dead = False
        self.struck = False

    def step(self) -> bool:
        """Count one operation: True when it is to be done by half. Raises OSError or Crash."""
        if self.is_dead:
            raise Crash
        self.n_done += 1
        if self.n_done != self.at:
            return False
        self.struck = True
        if self.mode == "crash":
            self.is_dead = True
            raise Crash
        if self.mode in ("tear", "torn"):
            self.is_dead = self.mode == "tear"
            return True
        self.fail()
        return False

    def fail(self) -> None:
        code = errno.ENOSPC if self.mode == "full" else errno.EIO
        raise OSError(code, os.strerror(code))

    def after_half(self) -> None:
        """What follows the half of an operation."""
        if self.is_dead:
            raise Crash
        self.fail()


@dataclass
class Unsynced:
    """A change that is not on the disk yet: how to undo it, and the file or folder whose fsync makes it last."""

    inode: tuple[int, int]
    undo: Callable[[], object]


_numbers = itertools.count()


class FaultyLayer(FileLayer):
    """As the real one, with faults; and it can forget what was never synced, as a power cut may."""

    def __init__(self, faults: Faults, graveyard: Path, unsynced: list[Unsynced]) -> None:
        self.faults = faults
        self.graveyard = graveyard
        self.unsynced = list(unsynced)
        self._fds: list[int] = []

    def close(self) -> None:
        for fd in self._fds:
            os.close(fd)
        self._fds.clear()

    def forget(self, share: float) -> None:
        """Undo the newest `share` of what was not synced."""
        n_kept = round(len(self.unsynced) * (1 - share))
        for change in reversed(self.unsynced[n_kept:]):
            with suppress(FileNotFoundError):  # inside of a folder that is forgotten as well
                change.undo()

    def _note(self, fd: int, undo: Callable[[int], object]) -> None:
        kept = self._keep(fd)
        self.unsynced.append(Unsynced(_inode(fd), lambda: undo(kept)))

    def _keep(self, fd: int) -> int:
        """Another descriptor of the same file or folder, which shares no lock with the first."""
        is_folder = stat.S_ISDIR(os.fstat(fd).st_mode)
        self._fds.append(os.open(f"/proc/self/fd/{fd}", os.O_RDONLY if is_folder else os.O_RDWR))
        return self._fds[-1]

    def _bury(self, name: str, folder_fd: int) -> Path:
        grave = self.graveyard / str(next(_numbers))
        os.link(name, grave, src_dir_fd=folder_fd)
        return grave

    def _half(self, done: bool) -> None:
        if done:
            self.faults.after_half()

    def create(self, name: str, folder_fd: int) -> int:
        half = self.faults.step()
        if half and self.faults.mode == "torn":
            self.faults.fail()
        fd = super().create(name, folder_fd)
        self._note(folder_fd, lambda at: os.unlink(name, dir_fd=at))
        if half:
            os.close(fd)
            raise Crash
        return fd

    def write(self, fd: int, data: bytes, offset: int) -> None:
        half = self.faults.step()
        kept = self._keep(fd)
        before = os.pread(kept, 1 << 30, offset)
        n_before = os.fstat(fd).st_size

        def undo(at: int) -> None:
            os.pwrite(at, before, offset)
            os.ftruncate(at, n_before)

        self._note(fd, undo)
        super().write(fd, data[: len(data) // 2] if half else data, offset)
        self._half(half)

    def copy(self, source_fd: int, target_fd: int, size: int, offset: int) -> int:
        data = os.pread(source_fd, size, 0)
        self.write(target_fd, data, offset)
        return len(data)

    def truncate(self, fd: int, size: int) -> None:
        half = self.faults.step()
        tail = os.pread(self._keep(fd), 1 << 30, size)
        self._note(fd, lambda at: os.pwrite(at, tail, size))
        if not half or self.faults.mode == "tear":
            super().truncate(fd, size)
        self._half(half)

    def fsync(self, fd: int) -> None:
        half = self.faults.step()
        if not half:
            self.unsynced = [change for change in self.unsynced if change.inode != _inode(fd)]
        self._half(half)

    def rename(self, source: str, source_folder_fd: int, target: str, target_folder_fd: int) -> None:
        half = self.faults.step()
        if half and self.faults.mode == "torn":
            self.faults.fail()
        grave: Path | None = None
        with suppress(FileNotFoundError, PermissionError):  # PermissionError: a folder, then rename fails as well
            grave = self._bury(target, target_folder_fd)
        super().rename(source, source_folder_fd, target, target_folder_fd)
        back_to = self._keep(source_folder_fd)

        def undo(at: int) -> None:
            os.rename(target, source, src_dir_fd=at, dst_dir_fd=back_to)
            if grave is not None:
                os.rename(grave, target, dst_dir_fd=at)

        self._note(target_folder_fd, undo)
        self._half(half)

    def unlink(self, name: str, folder_fd: int) -> None:
        half = self.faults.step()
        if half and self.faults.mode == "torn":
            self.faults.fail()
        grave = self._bury(name, folder_fd)
        super().unlink(name, folder_fd)
        self._note(folder_fd, lambda at: os.rename(grave, name, dst_dir_fd=at))
        self._half(half)

    def mkdir(self, name: str, folder_fd: int) -> None:
        half = self.faults.step()
        if half and self.faults.mode == "torn":
            self.faults.fail()
        super().mkdir(name, folder_fd)
        self._note(folder_fd, lambda at: shutil.rmtree(name, dir_fd=at))
        self._half(half)

    def rmdir(self, name: str, folder_fd: int) -> None:
        half = self.faults.step()
        if half and self.faults.mode == "torn":
            self.faults.fail()
        super().rmdir(name, folder_fd)
        self._note(folder_fd, lambda at: os.mkdir(name, dir_fd=at))
        self._half(half)


class FaultyDatabase(Database):
    """As the real one; each COMMIT is one operation."""

    def __init__(self, path: Path, faults: Faults) -> None:
        super().__init__(path, "canister")
        self.faults = faults

    def _commit(self, connection: Connection) -> None:
        half = self.faults.step()
        if half and self.faults.mode == "torn":
            self.faults.fail()
        super()._commit(connection)
        if half:
            raise Crash


def _inode(fd: int) -> tuple[int, int]:
    found = os.fstat(fd)
    return found.st_dev, found.st_ino
