"""What the system says about the pages of an array."""

from __future__ import annotations

import ctypes
import errno
import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

_PR_SET_THP_DISABLE = 41


def may_be_huge(address: int) -> bool:
    """Has the system been told that the pages around this address may be huge ones?"""
    is_there = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        name, _, rest = line.partition(" ")
        if not name.endswith(":"):
            first, _, stop = name.partition("-")
            is_there = int(first, 16) <= address < int(stop, 16)
        elif is_there and name == "VmFlags:":
            return "hg" in rest.split()
    raise AssertionError(f"there is no memory at {address:#x}")


@contextmanager
def small_pages() -> Iterator[None]:
    """While inside, pages are as small as they can be, also where the system takes huge ones unasked."""
    prctl = ctypes.CDLL(None).prctl
    prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]
    prctl(_PR_SET_THP_DISABLE, 1, 0, 0, 0)
    try:
        yield
    finally:
        prctl(_PR_SET_THP_DISABLE, 0, 0, 0, 0)


def resident_pages(array: NDArray[Any]) -> int:
    """How many of the pages that a contiguous array touches are in memory."""
    return resident_pages_at(array.ctypes.data, array.nbytes)


def resident_pages_at(address: int, n_bytes: int) -> int:
    """How many pages around these bytes are in memory; none where nothing is mapped (any more)."""
    first = address // mmap.PAGESIZE * mmap.PAGESIZE
    n = -(-(address + n_bytes - first) // mmap.PAGESIZE)
    found = (ctypes.c_ubyte * n)()
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]
    if libc.mincore(first, n * mmap.PAGESIZE, found) == 0:
        return sum(each & 1 for each in found)
    assert ctypes.get_errno() == errno.ENOMEM
    return 0 if n == 1 else sum(resident_pages_at(first + i * mmap.PAGESIZE, 1) for i in range(n))
