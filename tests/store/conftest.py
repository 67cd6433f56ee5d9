"""A stable memory in a folder of its own; in memory where the machine has such a disk, for speed."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.store.home import Home


@pytest.fixture
def disk() -> Iterator[Path]:
    """An empty folder on a fast disk."""
    fast = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    path = Path(tempfile.mkdtemp(prefix="store-", dir=fast))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def home(disk: Path) -> Iterator[Home]:
    """An open, empty stable memory."""
    with Home(disk / "home") as home:
        yield home
