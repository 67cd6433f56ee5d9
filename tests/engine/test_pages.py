"""Memory that nobody needs goes back to the system, and only that."""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest

from canister.engine.pages import LARGE_BYTES, forget, map_large_blocks, trim_heap
from tests.engine.memory import resident_pages, resident_pages_at

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other systems keep their pages")

T = TypeVar("T")

PAGE = mmap.PAGESIZE


@pytest.mark.parametrize(
    ("first", "n_bytes", "gone"),
    [
        (0, 8 * PAGE, range(8)),
        (1, 8 * PAGE - 1, range(1, 8)),
        (PAGE, 3 * PAGE - 1, range(1, 3)),
        (10, PAGE, range(0)),
        (PAGE + 1, PAGE - 2, range(0)),
        (0, 0, range(0)),
    ],
)
def test_whole_pages_are_forgotten_and_their_neighbours_kept(first: int, n_bytes: int, gone: range) -> None:
    with mmap.mmap(-1, 8 * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        data = np.frombuffer(memory, np.uint8)
        data[:] = 7
        forget(data.ctypes.data + first, n_bytes)
        assert resident_pages(data) == 8 - len(gone)
        assert [page for page in range(8) if not data[page * PAGE : (page + 1) * PAGE].any()] == list(gone)
        assert np.count_nonzero(data) == (8 - len(gone)) * PAGE
        data[:] = 8
        assert resident_pages(data) == 8
        del data


def in_own_process(measured: Callable[[], T]) -> T:
    """Here malloc would take a large block from a hole that the heap has already, and other threads map memory where
    a block was.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(measured).result()


def _given_back() -> int:
    """Bytes that go back, of about a hundred million that were freed."""
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = (
        ctypes.c_void_p,
        [ctypes.c_size_t],
        [ctypes.c_void_p],
    )
    n, size = 1024, 100_000  # below the size that malloc maps by itself
    blocks = [libc.malloc(size) for _ in range(n)]
    try:
        for block in blocks:
            ctypes.memset(block, 7, size)
        kept = blocks[:: n // 8]
        for block in set(blocks) - set(kept):
            libc.free(block)
        before = own_bytes()
        trim_heap()
        gone = before - own_bytes()
        assert all(ctypes.string_at(block, size) == b"\7" * size for block in kept)
        blocks = kept
        return gone
    finally:
        for block in blocks:
            libc.free(block)


def test_freed_memory_goes_back_also_from_below_what_is_still_in_use() -> None:
    assert in_own_process(_given_back) > 50_000_000


def _left_behind() -> list[int]:
    """Resident pages where large blocks were, after each round of freeing them."""
    map_large_blocks()
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = (
        ctypes.c_void_p,
        [ctypes.c_size_t],
        [ctypes.c_void_p],
    )
    size, left = 2 * LARGE_BYTES, []
    for _ in range(8):
        blocks = [libc.malloc(size) for _ in range(3)]
        for block in blocks:
            ctypes.memset(block, 7, size)
            assert resident_pages_at(block, size) >= size // PAGE
        above = libc.malloc(1000)  # what lies above a hole keeps it from going back
        for block in blocks:
            libc.free(block)
        left += [resident_pages_at(block, size) for block in blocks]
        libc.free(above)
    return left


def test_large_blocks_leave_nothing_behind_however_often_they_are_freed() -> None:
    assert in_own_process(_left_behind) == [0] * 24


def own_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE
