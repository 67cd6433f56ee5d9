"""Files that are whole or absent, also after a power cut: written beside their place, synced, then put there.

Small ones may be read by their owner alone (0600): keys, identities, notes beside the canisters. `store` has the files
in stable memory.
"""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


def write(path: Path, content: bytes) -> None:
    """Write a file, or give it new contents. Raises OSError, and the file is then unchanged."""
    _put(path, content, os.replace)


def create(path: Path, content: bytes) -> None:
    """Write a new file; FileExistsError if there is one."""
    _put(path, content, _link)


@contextmanager
def writing(path: Path) -> Iterator[BinaryIO]:
    """A file of any size, put there when the block ends, and readable as others that its owner makes.

    An error of the block is raised, and what was there before stays. Raises OSError.
    """
    staged = path.with_name(f".{path.name[:100]}.{secrets.token_hex(6)}.part")
    try:
        with staged.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(staged, path)
    except BaseException:
        staged.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make sure that what was put into a folder or removed from it stays so."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _put(path: Path, content: bytes, put: Callable[[Path, Path], None]) -> None:
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    staged = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        put(staged, path)
    except BaseException:
        staged.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def _link(staged: Path, path: Path) -> None:
    os.link(staged, path)  # unlike a rename it never replaces
    staged.unlink()
