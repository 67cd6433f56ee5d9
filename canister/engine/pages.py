"""Memory that nobody needs goes back to the system: freed pieces of the heap, and KV cells that were never used.

Both only save memory. Where a system does not offer it, nothing happens.
"""

from __future__ import annotations

import ctypes
import mmap
import sys


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
    if sys.platform != "linux":
        return
    first = -(-address // mmap.PAGESIZE) * mmap.PAGESIZE
    stop = (address + n_bytes) // mmap.PAGESIZE * mmap.PAGESIZE
    if first < stop:
        madvise = ctypes.CDLL(None).madvise
        madvise.argtypes, madvise.restype = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int], ctypes.c_int
        madvise(first, stop - first, mmap.MADV_DONTNEED)
