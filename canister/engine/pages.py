"""Memory that nobody needs goes back to the system: freed pieces of the heap, and KV cells that were never used.

And what is read again and again as a whole may lie in huge pages. Where a system does not offer it, nothing happens.
"""

from __future__ import annotations

import ctypes
import mmap
import sys

LARGE_BYTES = 4 << 20  # what is not smaller is mapped by itself, and unmapped when it is freed
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h


def map_large_blocks() -> None:
    """Keep large blocks out of the heap, for the whole process; idempotent.

    glibc raises its limit with each such block that is freed, up to 32 MB: then buffers of contexts and states of
    chats lie in the heap, share their pages with whatever was there before, and leave holes.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, LARGE_BYTES)
        mallopt(_M_TRIM_THRESHOLD, 2 * LARGE_BYTES)  # as glibc itself chooses it; a set limit leaves it at 128 KB


def trim_heap() -> None:
    """Hand back the pages of freed memory; some milliseconds.

    glibc keeps them, also those that llama.cpp's contexts for measuring leave behind, and what is allocated next lies
    in them: a compute buffer of which little is used would then be resident in full.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim.argtypes, trim.restype = [ctypes.c_size_t], ctypes.c_int
        trim(0)


def forget(address: int, n_bytes: int) -> None:
    """Make this private, anonymous memory, as far as it is whole pages, zeros that take no room until written."""
    if sys.platform == "linux":
        _advise(address, n_bytes, mmap.MADV_DONTNEED)


def use_huge_pages(address: int, n_bytes: int) -> None:
    """Whole pages of this memory that are written for the first time from now on may be huge ones."""
    if sys.platform == "linux":
        _advise(address, n_bytes, mmap.MADV_HUGEPAGE)


def _advise(address: int, n_bytes: int, advice: int) -> None:
    first = -(-address // mmap.PAGESIZE) * mmap.PAGESIZE
    stop = (address + n_bytes) // mmap.PAGESIZE * mmap.PAGESIZE
    if first < stop:
        madvise = ctypes.CDLL(None).madvise
        madvise.argtypes, madvise.restype = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int], ctypes.c_int
        madvise(first, stop - first, advice)
