"""SHA-256 of files: of all of one, and of its beginning."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from canister.system.hashing import sha256_of_file, sha256_of_start

DATA = bytes(range(256)) * 5000  # more than is read at once


def test_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(DATA)
    assert sha256_of_file(path) == hashlib.sha256(DATA).hexdigest()


@pytest.mark.parametrize("n_bytes", [0, 1, len(DATA) - 1, len(DATA), len(DATA) + 1])
def test_a_beginning_wherever_the_file_was_read_before(tmp_path: Path, n_bytes: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(DATA)
    with path.open("rb") as file:
        file.read(10)
        assert sha256_of_start(file, n_bytes) == hashlib.sha256(DATA[:n_bytes]).hexdigest()
