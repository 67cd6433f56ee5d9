"""Gives memory back to the system: freed pieces of the heap, and KV cells that were never used.

It also puts memory that is read as a whole again and again into huge pages. Where a system offers none of this, nothing
happens.
"""

from __future__ import annotations

import ctypes
import mmap
import sys

LARGE_BYTES = 4 << 20  # blocks of this size or larger are mapped by themselves, and unmapped when they are freed
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h


def map_large_blocks() -> None:
    """Keep large blocks out of the heap, for the whole process. May be called again.

    glibc raises its limit with each such block that is freed, up to 32 MB. Without this, buffers of contexts and states
    of chats would lie in the heap, share pages with whatever was there before, and leave holes.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, LARGE_BYTES)
        mallopt(_M_TRIM_THRESHOLD, 2 * LARGE_BYTES)  # glibc's own choice, which it drops to 128 KB once a limit is set


def trim_heap() -> None:
    """Hand back the pages of freed memory. Takes some milliseconds.

    glibc keeps them, also those that llama.cpp's measuring contexts leave behind, and puts the next allocations there.
    A compute buffer that is little used would then be resident in full.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim.argtypes, trim.restype = [ctypes.c_size_t], ctypes.c_int
        trim(0)


def forget(address: int, n_bytes: int) -> None:
    """Make whole pages of this private, anonymous memory zeros, which take no room until they are written."""
    if sys.platform == "linux":
        _advise(address, n_bytes, mmap.MADV_DONTNEED)


def use_huge_pages(address: int, n_bytes: int) -> None:
    """Let the system use huge pages for whole pages of this memory that are first written from now on."""
    if sys.platform == "linux":
        _advise(address, n_bytes, mmap.MADV_HUGEPAGE)


def _advise(address: int, n_bytes: int, advice: int) -> None:
    first = -(-address // mmap.PAGESIZE) * mmap.PAGESIZE
    stop = (address + n_bytes) // mmap.PAGESIZE * mmap.PAGESIZE
    if first < stop:
        madvise = ctypes.CDLL(None).madvise
        madvise.argtypes, madvise.restype = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int], ctypes.c_int
        madvise(first, stop - first, advice)
