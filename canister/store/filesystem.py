"""The file layer: every system call that changes a file or folder, and safe ways through folders.

Paths are logical ones. Each part is opened by itself, relative to its folder and with O_NOFOLLOW, so that a symbolic
link in the tree is never followed, not even one that appears in between. Nothing here knows tables.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from canister.errors import BadRequest, Busy, CanisterError, StorageFull, StoreDamaged
from canister.store.paths import name_of, parent_of

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_COPY_BYTES = 8 * 1024 * 1024
_FULL_FSYNC: int | None = getattr(fcntl, "F_FULLFSYNC", None)  # macOS, where fsync stops at the drive's cache


class FileLayer:
    """The changing calls, one method each. Tests replace it with one that fails or tears at call n."""

    def create(self, name: str, folder_fd: int) -> int:
        """Open a new, empty file for writing."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(name, flags, 0o600, dir_fd=folder_fd)

    def write(self, fd: int, data: bytes, offset: int) -> None:
        """Write all of `data` at `offset`."""
        view = memoryview(data)
        while view:
            n_written = os.pwrite(fd, view, offset)
            view, offset = view[n_written:], offset + n_written

    def copy(self, source_fd: int, target_fd: int, size: int, offset: int) -> int:
        """Copy up to `size` bytes from the start of one file to `offset` of another. Returns how many there were.

        The kernel copies where it can, and some file systems then share the blocks.
        """
        n_copied = 0
        while n_copied < size:
            n_wanted = min(size - n_copied, 1 << 30)
            try:
                n = os.copy_file_range(source_fd, target_fd, n_wanted, n_copied, offset + n_copied)
            except (AttributeError, OSError) as error:
                if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
                    raise
                data = os.pread(source_fd, min(n_wanted, _COPY_BYTES), n_copied)
                self.write(target_fd, data, offset + n_copied)
                n = len(data)
            if n == 0:
                break
            n_copied += n
        return n_copied

    def truncate(self, fd: int, size: int) -> None:
        os.ftruncate(fd, size)

    def fsync(self, fd: int) -> None:
        """Bring a file's bytes, or a folder's names, to the disk."""
        if _FULL_FSYNC is not None:
            fcntl.fcntl(fd, _FULL_FSYNC)
        else:
            os.fsync(fd)

    def rename(self, source: str, source_folder_fd: int, target: str, target_folder_fd: int) -> None:
        os.rename(source, target, src_dir_fd=source_folder_fd, dst_dir_fd=target_folder_fd)

    def unlink(self, name: str, folder_fd: int) -> None:
        os.unlink(name, dir_fd=folder_fd)

    def mkdir(self, name: str, folder_fd: int) -> None:
        os.mkdir(name, 0o700, dir_fd=folder_fd)

    def rmdir(self, name: str, folder_fd: int) -> None:
        os.rmdir(name, dir_fd=folder_fd)


class DiskFolder:
    """A folder on the disk and everything below it, reached by logical paths; `''` is the folder itself."""

    def __init__(self, path: Path, layer: FileLayer) -> None:
        path.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.layer = layer
        self.fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    @contextmanager
    def opened(self, folder: str) -> Iterator[int]:
        """A descriptor of a folder below. Raises OSError: ENOENT, or ENOTDIR and ELOOP for a path that is no real
        folder.
        """
        fd = os.dup(self.fd)
        try:
            for part in folder.split("/") if folder else ():
                deeper = os.open(part, _DIRECTORY, dir_fd=fd)
                os.close(fd)
                fd = deeper
            yield fd
        finally:
            os.close(fd)

    def open_file(self, path: str, flags: int) -> int:
        """Open a regular file that exists. Raises OSError; ELOOP for a symbolic link, EINVAL for a pipe or device."""
        with self.opened(parent_of(path)) as fd:
            opened = os.open(name_of(path), flags | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=fd)
        mode = os.fstat(opened).st_mode
        if stat.S_ISREG(mode):
            return opened
        os.close(opened)
        raise OSError(errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL, "not a regular file", path)

    def lstat(self, path: str) -> os.stat_result | None:
        """The stat of `path` itself, not of what a link points to; None when nothing is there."""
        try:
            with self.opened(parent_of(path)) as fd:
                return os.stat(name_of(path), dir_fd=fd, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def lstat_all(self, folder: str, names: Sequence[str]) -> list[os.stat_result | None]:
        """The stats of these names in a folder; None where nothing is, or when there is no such real folder."""
        try:
            with self.opened(folder) as fd:
                return [_lstat(name, fd) for name in names]
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                raise
            return [None] * len(names)

    def make(self, folder: str) -> set[str]:
        """Make a folder and the missing ones above it. Returns the folders whose names changed and are not
        synced yet.
        """
        changed: set[str] = set()
        above = ""
        for part in folder.split("/") if folder else ():
            with self.opened(above) as fd, suppress(FileExistsError):
                self.layer.mkdir(part, fd)
                changed.add(above)
            above = f"{above}/{part}" if above else part
        return changed

    def put(self, source: str, staging: DiskFolder, target: str) -> set[str]:
        """Move a file from `staging` to `target`, over what is there. Returns the folders whose names changed.

        Nothing happens when the source is gone, since the move was then done before.
        """
        changed = self.make(parent_of(target))
        with self.opened(parent_of(target)) as fd:
            if staging.lstat(source) is not None:
                try:
                    self.layer.rename(source, staging.fd, name_of(target), fd)
                except IsADirectoryError:  # the removal of the folder there was overtaken by this file
                    self.layer.rmdir(name_of(target), fd)
                    self.layer.rename(source, staging.fd, name_of(target), fd)
        return changed | {parent_of(target)}

    def drop(self, path: str) -> set[str]:
        """Remove a file or folder if it is there. A folder that still holds something foreign stays."""
        try:
            with self.opened(parent_of(path)) as fd:
                found = os.stat(name_of(path), dir_fd=fd, follow_symlinks=False)
                if stat.S_ISDIR(found.st_mode):
                    self.layer.rmdir(name_of(path), fd)
                else:
                    self.layer.unlink(name_of(path), fd)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENOTEMPTY, errno.EEXIST):
                raise
        return {parent_of(path)}

    def sync(self, folders: set[str]) -> None:
        """Bring the names in these folders to the disk. For a folder that is gone its parent is among them."""
        for folder in sorted(folders):
            with suppress(FileNotFoundError, NotADirectoryError), self.opened(folder) as fd:
                self.layer.fsync(fd)

    def check_way(self, path: str, kind_of: Callable[[str], str | None]) -> None:
        """Can a file be put at `path`? Raises BadRequest when something that the tables do not know is in the way.

        kind_of: the kind of a path in the tables. A file above, or a folder at `path`, is about to be removed.
        """
        above = ""
        for part in path.split("/")[:-1]:
            above = f"{above}/{part}" if above else part
            found = self.lstat(above)
            if found is None or kind_of(above) == "file":
                return
            if not stat.S_ISDIR(found.st_mode):
                kind = "a symbolic link" if stat.S_ISLNK(found.st_mode) else "not a folder"
                raise BadRequest(
                    f"{path!r} cannot be written: {above!r} is {kind} in {self.path}, which is never followed; "
                    "remove it there, or use another path"
                )
        found = self.lstat(path)
        if found is not None and stat.S_ISDIR(found.st_mode) and kind_of(path) != "directory":
            raise BadRequest(f"{path!r} cannot be written: in {self.path} there is a folder of this name; remove it")


def _lstat(name: str, folder_fd: int) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=folder_fd, follow_symlinks=False)
    except FileNotFoundError:
        return None


def clear_error(error: OSError, path: str, n_bytes: int | None = None) -> CanisterError:
    """Our error for what the operating system reported about `path`, with what to do."""
    what = f"{n_bytes} bytes of {path!r}" if n_bytes is not None else repr(path)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageFull(f"no room on the disk for {what} ({error.strerror}); remove files and try again")
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return Busy(f"too many files are open to reach {path!r} ({error.strerror}); try again, or raise ulimit -n")
    if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.EINVAL):
        return StoreDamaged(
            f"{path!r} is no regular file on the disk any more ({error.strerror}); links are never followed; "
            "remove the path and upload the file again"
        )
    return StoreDamaged(f"{what} cannot be read or written: {error.strerror}; check the disk and its permissions")
