"""A watched disk: everything that this process changes below a folder is noted, and number n of it can be made to fail.

It stands below all code of ours, whatever that does: in place of the functions of `os`, and of the functions by which
SQLite itself writes, truncates, syncs, makes and removes files (its io methods, patched in the loaded library). So real
SQLite meets the errors, and a commit is not one step but as many as it takes on the disk.
"""

from __future__ import annotations

import _sqlite3
import ctypes
import errno
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from ctypes import CFUNCTYPE, POINTER, Structure, c_char_p, c_int, c_int64, c_void_p
from pathlib import Path
from typing import Any, Literal

from tests.crash.images import Add, Change, Log, Remove, Rename, Sync, Truncate, Write

Fault = Literal["EIO", "ENOSPC"]

_IOERR_WRITE, _IOERR_FSYNC, _IOERR_TRUNCATE, _IOERR_DELETE, _FULL, _CANTOPEN = 778, 1034, 1546, 2570, 13, 14
_WAL_OR_JOURNAL = 0x00080000 | 0x00000800
_OPEN_CREATE = 0x4


class Disk:
    """log: what was changed. Number `at` of the changes from `arm` on fails; `struck` tells that it did."""

    def __init__(self, root: Path) -> None:
        self.root = str(root.resolve())
        self.log = Log.begin(root)
        self.at = 0
        self.fault: Fault = "EIO"
        self.n_done = 0
        self.struck = False
        self.lock = threading.RLock()

    def arm(self, at: int, fault: Fault) -> None:
        self.at, self.fault, self.n_done, self.struck = at, fault, 0, False

    def strikes(self) -> bool:
        """Count a change: is it the one that is to fail?"""
        self.n_done += 1
        if self.n_done != self.at:
            return False
        self.struck = True
        return True

    def check(self) -> None:
        if self.strikes():
            code = errno.ENOSPC if self.fault == "ENOSPC" else errno.EIO
            raise OSError(code, os.strerror(code))

    def holds(self, path: str | os.PathLike[str] | bytes, dir_fd: int | None = None) -> str | None:
        """The full path, if it lies below the root."""
        text = os.fsdecode(path)
        if dir_fd is not None and not os.path.isabs(text):
            text = os.path.join(_path_of(dir_fd), text)
        text = os.path.abspath(text)
        return text if text.startswith(self.root + os.sep) else None

    def node(self, fd: int) -> int | None:
        """The number of an open file or folder of ours."""
        return self.log.node_of(os.fstat(fd))

    def note(self, change: Change) -> None:
        self.log.note(change)

    @contextmanager
    def watched(self) -> Iterator[Disk]:
        with _patched_os(self), _patched_sqlite(self):
            yield self


def _path_of(fd: int) -> str:
    return os.readlink(f"/proc/self/fd/{fd}")


# -- the functions of os

_real: dict[str, Any] = {name: getattr(os, name) for name in dir(os)}


@contextmanager
def _patched_os(disk: Disk) -> Iterator[None]:
    functions = _functions(disk)
    for name, function in functions.items():
        setattr(os, name, function)
    try:
        yield
    finally:
        for name in functions:
            setattr(os, name, _real[name])


def _functions(disk: Disk) -> dict[str, Callable[..., Any]]:
    def open_(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        full = disk.holds(path, dir_fd) if flags & (os.O_CREAT | os.O_TRUNC) else None
        if full is None:
            return int(_real["open"](path, flags, mode, dir_fd=dir_fd))
        with disk.lock:
            is_new = not os.path.lexists(full)
            if is_new or flags & os.O_TRUNC:
                disk.check()
            fd = int(_real["open"](path, flags, mode, dir_fd=dir_fd))
            if is_new:
                _note_new(disk, full, is_folder=False)
            elif flags & os.O_TRUNC:
                disk.note(Truncate(disk.log.node_at(full), 0))
            return fd

    def pwrite(fd: int, data: Any, offset: int) -> int:
        with disk.lock:
            node = disk.node(fd)
            if node is None:
                return int(_real["pwrite"](fd, data, offset))
            disk.check()
            n_written = int(_real["pwrite"](fd, data, offset))
            disk.note(Write(node, offset, bytes(memoryview(data).cast("B")[:n_written])))
            return n_written

    def pwritev(fd: int, buffers: Any, offset: int, flags: int = 0) -> int:
        return pwrite(fd, b"".join(bytes(part) for part in buffers), offset)

    def write(fd: int, data: Any) -> int:
        node = disk.node(fd)
        if node is None:
            return int(_real["write"](fd, data))
        n_written = pwrite(fd, data, os.lseek(fd, 0, os.SEEK_CUR))
        os.lseek(fd, n_written, os.SEEK_CUR)
        return n_written

    def copy_file_range(source: int, target: int, count: int, from_: int | None = None, to: int | None = None) -> int:
        if disk.node(target) is None or from_ is None or to is None:
            return int(_real["copy_file_range"](source, target, count, from_, to))
        data = os.pread(source, count, from_)
        return pwrite(target, data, to) if data else 0

    def ftruncate(fd: int, size: int) -> None:
        with disk.lock:
            node = disk.node(fd)
            if node is not None:
                disk.check()
            _real["ftruncate"](fd, size)
            if node is not None:
                disk.note(Truncate(node, size))

    def fsync(fd: int) -> None:
        with disk.lock:
            node = disk.node(fd)
            if node is None:
                _real["fsync"](fd)
                return
            disk.check()  # the disk of a test is memory: noted is synced
            disk.note(Sync(node))

    def rename(source: Any, target: Any, *, src_dir_fd: int | None = None, dst_dir_fd: int | None = None) -> None:
        old, new = disk.holds(source, src_dir_fd), disk.holds(target, dst_dir_fd)
        assert (old is None) == (new is None), (source, target)
        with disk.lock:
            if old is None or new is None:
                _real["rename"](source, target, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)
                return
            disk.check()
            _real["rename"](source, target, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)
            (folder, name), (new_folder, new_name) = os.path.split(old), os.path.split(new)
            node_at = disk.log.node_at
            if disk.log.node_of(os.stat(new)) is None:
                # Written by Python's own open(), which is not watched, as what may be lost at any time is.
                _note_new(disk, new, is_folder=False)
                disk.note(Write(node_at(new), 0, Path(new).read_bytes()))
                return
            disk.note(Rename(node_at(folder), name, node_at(new_folder), new_name, node_at(new)))

    def removing(real: str) -> Callable[..., None]:
        def remove(path: Any, *, dir_fd: int | None = None) -> None:
            full = disk.holds(path, dir_fd)
            with disk.lock:
                if full is not None:
                    disk.check()
                _real[real](path, dir_fd=dir_fd)
                if full is not None:
                    folder, name = os.path.split(full)
                    disk.note(Remove(disk.log.node_at(folder), name))

        return remove

    def mkdir(path: Any, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        full = disk.holds(path, dir_fd)
        with disk.lock:
            if full is not None and not os.path.lexists(full):
                disk.check()
            _real["mkdir"](path, mode, dir_fd=dir_fd)
            if full is not None:
                _note_new(disk, full, is_folder=True)

    def unforeseen(name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            raise AssertionError(f"os.{name} is not watched; add it to tests/crash/disk.py")

        return call

    return {
        "open": open_,
        "pwrite": pwrite,
        "pwritev": pwritev,
        "write": write,
        "copy_file_range": copy_file_range,
        "ftruncate": ftruncate,
        "fsync": fsync,
        "fdatasync": fsync,
        "rename": rename,
        "replace": rename,
        "unlink": removing("unlink"),
        "remove": removing("remove"),
        "rmdir": removing("rmdir"),
        "mkdir": mkdir,
    } | {name: unforeseen(name) for name in ("link", "symlink", "truncate", "posix_fallocate", "writev")}


def _note_new(disk: Disk, path: str, *, is_folder: bool) -> None:
    folder, name = os.path.split(path)
    node = disk.log.number(os.stat(path))
    disk.note(Add(disk.log.node_at(folder), name, node, is_folder))


# -- the functions of SQLite's files


class _File(Structure):
    _fields_ = (("methods", c_void_p),)


_Open = CFUNCTYPE(c_int, c_void_p, c_void_p, c_void_p, c_int, c_void_p)  # SQLite keeps the pointer to the name
_Delete = CFUNCTYPE(c_int, c_void_p, c_char_p, c_int)
_Write = CFUNCTYPE(c_int, c_void_p, c_void_p, c_int, c_int64)
_Truncate = CFUNCTYPE(c_int, c_void_p, c_int64)
_Sync = CFUNCTYPE(c_int, c_void_p, c_int)


class _Methods(Structure):
    _fields_ = (
        ("version", c_int),
        ("close", c_void_p),
        ("read", c_void_p),
        ("write", c_void_p),
        ("truncate", c_void_p),
        ("sync", c_void_p),
        ("others", c_void_p * 13),
    )


class _Vfs(Structure):
    _fields_ = (
        ("version", c_int),
        ("file_size", c_int),
        ("max_path", c_int),
        ("next", c_void_p),
        ("name", c_char_p),
        ("data", c_void_p),
        ("open", c_void_p),
        ("delete", c_void_p),
    )


def _pointer(function: Any) -> int:
    return ctypes.cast(function, c_void_p).value or 0


class _SqliteFiles:
    """Stands between SQLite and the files of one watched disk at a time.

    Made once and for all, for open connections keep pointing here; without a disk everything passes through.
    """

    def __init__(self) -> None:
        library = ctypes.CDLL(_sqlite3.__file__)
        library.sqlite3_vfs_find.restype = POINTER(_Vfs)
        self.disk: Disk | None = None
        self._vfs = library.sqlite3_vfs_find(None).contents
        self._real_open, self._real_delete = _Open(self._vfs.open), _Delete(self._vfs.delete)
        self._paths: dict[int, str] = {}  # by the address of the open file
        self._originals: dict[int, _Methods] = {}  # by the same
        self._patched: dict[int, _Methods] = {}  # by the address of the original methods
        self._unsynced_names: set[str] = set()  # journals whose folder SQLite syncs with their first bytes
        self._of_vfs = [_Open(self._open), _Delete(self._delete)]
        self._of_files = [_Write(self._write), _Truncate(self._truncate), _Sync(self._sync)]

    def watch(self, disk: Disk) -> None:
        self.disk = disk
        self._vfs.open, self._vfs.delete = map(_pointer, self._of_vfs)

    def end(self) -> None:
        self.disk = None
        self._vfs.open, self._vfs.delete = _pointer(self._real_open), _pointer(self._real_delete)

    def _watched(self, path: str | None) -> Disk | None:
        disk = self.disk
        return disk if disk is not None and path is not None and disk.holds(path) is not None else None

    def _open(self, vfs: int, name: int | None, file: int, flags: int, out_flags: int | None) -> int:
        path = None if name is None else os.fsdecode(ctypes.string_at(name))
        disk = self._watched(path)
        if disk is None or path is None:
            return int(self._real_open(vfs, name, file, flags, out_flags))
        with disk.lock:
            is_new = bool(flags & _OPEN_CREATE) and not os.path.lexists(path)
            if is_new and disk.strikes():
                ctypes.cast(file, POINTER(_File)).contents.methods = None
                return _FULL if disk.fault == "ENOSPC" else _CANTOPEN
            code = int(self._real_open(vfs, name, file, flags, out_flags))
            opened = ctypes.cast(file, POINTER(_File)).contents
            if code == 0 and opened.methods:
                if is_new:
                    _note_new(disk, path, is_folder=False)
                    if flags & _WAL_OR_JOURNAL:
                        self._unsynced_names.add(path)
                self._take(file, opened, path)
            return code

    def _take(self, file: int, opened: _File, path: str) -> None:
        address = int(opened.methods or 0)
        if address not in self._patched:
            patched = _Methods.from_buffer_copy(ctypes.cast(address, POINTER(_Methods)).contents)
            patched.write, patched.truncate, patched.sync = map(_pointer, self._of_files)
            self._patched[address] = patched
        self._originals[file] = ctypes.cast(address, POINTER(_Methods)).contents
        self._paths[file] = path
        opened.methods = ctypes.addressof(self._patched[address])

    def _delete(self, vfs: int, name: bytes, sync_folder: int) -> int:
        path = os.fsdecode(name)
        disk = self._watched(path)
        if disk is None:
            return int(self._real_delete(vfs, name, sync_folder))
        with disk.lock:
            if not os.path.lexists(path):
                return int(self._real_delete(vfs, name, sync_folder))
            if disk.strikes():
                return _IOERR_DELETE
            code = int(self._real_delete(vfs, name, sync_folder))
            if code == 0:
                folder, base = os.path.split(path)
                disk.note(Remove(disk.log.node_at(folder), base))
                if sync_folder:
                    disk.note(Sync(disk.log.node_at(folder)))
            return code

    def _change(self, file: int, code: int, change: Callable[[int], Change], real: Callable[[], int]) -> int:
        path = self._paths[file]
        disk = self._watched(path)
        if disk is None:
            return real()
        with disk.lock:
            if disk.strikes():
                return _FULL if disk.fault == "ENOSPC" and code != _IOERR_FSYNC else code
            result = real()
            if result == 0:
                with suppress(FileNotFoundError):  # its folder is gone: nobody will miss it
                    disk.note(change(disk.log.node_at(path)))
                    if code == _IOERR_FSYNC and path in self._unsynced_names:
                        self._unsynced_names.discard(path)
                        disk.note(Sync(disk.log.node_at(os.path.dirname(path))))
            return result

    def _write(self, file: int, data: int, n_bytes: int, offset: int) -> int:
        real = _Write(self._originals[file].write)
        return self._change(
            file,
            _IOERR_WRITE,
            lambda node: Write(node, offset, ctypes.string_at(data, n_bytes)),
            lambda: int(real(file, data, n_bytes, offset)),
        )

    def _truncate(self, file: int, size: int) -> int:
        real = _Truncate(self._originals[file].truncate)
        return self._change(file, _IOERR_TRUNCATE, lambda node: Truncate(node, size), lambda: int(real(file, size)))

    def _sync(self, file: int, flags: int) -> int:
        return self._change(file, _IOERR_FSYNC, Sync, lambda: 0)


_sqlite_files: list[_SqliteFiles] = []


@contextmanager
def _patched_sqlite(disk: Disk) -> Iterator[None]:
    if not _sqlite_files:
        _sqlite_files.append(_SqliteFiles())
    _sqlite_files[0].watch(disk)
    try:
        yield
    finally:
        _sqlite_files[0].end()
