"""Large buffers that are used again, since the first touch of fresh memory is slower than all other work on a state.

Unlike numpy, this asks for no huge pages. On a virtual machine whose memory is itself handed out on first touch they
make the first touch several times slower, and the last one is resident whether it is used or not.
"""

from __future__ import annotations

import mmap
import weakref
from collections import deque

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]

MOST_SPARES = 2  # a chat is read into one and put together in the other
MOST_SPARE_BYTES = 32 << 20  # of each
_STEP_BYTES = 1 << 20  # sizes are multiples of it, so that a buffer also fits the next, slightly longer chat


class Buffers:
    """Hands out arrays and keeps the memory of the last large ones that nobody refers to any more. Any thread may call
    it.
    """

    def __init__(self) -> None:
        self._spare: deque[mmap.mmap] = deque(maxlen=MOST_SPARES)

    @property
    def spare_bytes(self) -> int:
        return sum(len(memory) for memory in [*self._spare])

    def take(self, n: int) -> Bytes:
        """n bytes of any content. The memory comes back when the array and all views of it are gone."""
        if n < _STEP_BYTES:
            return np.empty(n, np.uint8)
        room = -(-(n + n // 16) // _STEP_BYTES) * _STEP_BYTES
        memory = self._spare_of(n, 2 * room) or mmap.mmap(-1, room, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        whole = np.frombuffer(memory, np.uint8)
        if len(memory) <= MOST_SPARE_BYTES:
            weakref.finalize(whole, self._spare.append, memory).atexit = False
        return whole[:n]

    def _spare_of(self, n_least: int, n_most: int) -> mmap.mmap | None:
        for memory in [*self._spare]:
            if n_least <= len(memory) <= n_most:
                try:
                    self._spare.remove(memory)
                except ValueError:
                    continue  # another thread was faster
                return memory
        return None


def resident_bytes(array: NDArray[np.generic]) -> int:
    """Bytes of the memory that an array keeps: its own, or all of the buffer that it is a part of."""
    base = array.base
    return max(array.nbytes, base.nbytes) if isinstance(base, np.ndarray) else array.nbytes
