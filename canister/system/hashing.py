"""SHA-256 of files, read piece by piece."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import BinaryIO

_BLOCK_BYTES = 1 << 20


def sha256_of_file(path: Path) -> str:
    """In lower-case hex. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_start(file: BinaryIO, n_bytes: int) -> str:
    """Of the first n_bytes of an open file, or of all when there are fewer; in lower-case hex. Raises OSError."""
    digest = hashlib.sha256()
    file.seek(0)
    while n_bytes > 0 and (block := file.read(min(n_bytes, _BLOCK_BYTES))):
        digest.update(block)
        n_bytes -= len(block)
    return digest.hexdigest()
