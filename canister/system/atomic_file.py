"""Small files that are whole or absent, also after a power cut: written beside their place, synced, then put there.

Only their owner may read them (0600). For files beside the canisters: keys, identities, notes. `store` has the files in
stable memory.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path


def write(path: Path, content: bytes) -> None:
    """Write a file, or give it new contents. Raises OSError, and the file is then unchanged."""
    _put(path, content, os.replace)


def create(path: Path, content: bytes) -> None:
    """Write a new file; FileExistsError if there is one."""
    _put(path, content, _link)


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
