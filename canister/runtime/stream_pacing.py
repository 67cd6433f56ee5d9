"""Streams of files beside a chat that decodes: they take a small share of the time, and all of it at once when it ends.

The threads of a decode wait for each other after every operation, so whatever takes one of their cores for a while
holds all of them up for as long. So a stream waits after each piece, as long as its work divided by the share that it
may have: of a core where decoding leaves none, and more where it does. Streams wait one after the other, in the order
they come: many of them share what one alone would get. Meanwhile nothing is read from a client's socket, so it is held
up as well, which matters if it runs on the same machine. While nothing decodes, nothing waits.

Nothing here knows files, engines or HTTP; all of it runs on the event loop.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from typing import NamedTuple

PIECE_BYTES = 240 * 1024  # about a millisecond of work, and what the event loop reads at once
IDLE_SECONDS = 0.25  # a chat in short calls decodes on, though nothing does between two of them
SHARE_OF_SPARE = 0.3  # of each core that decoding leaves: client, event loop and worker threads run at the same time
ENOUGH_CORES = 3  # for all of these
WORK_PER_HASH = 7.0  # of receiving, hashing, writing, and of a client on the same machine, in times of a SHA-256
MAX_SECONDS_PER_BYTE = 40e-9  # on no machine are streams slower than the share of 25 MB/s
_PROBE_BYTES = 1024 * 1024
_N_PROBES = 3


class _Turn(NamedTuple):
    over: asyncio.Future[None]
    n_bytes: int


class Pacing:
    """For all streams of a process.

    share: of a core's time beside threads that decode on all cores; 1: nothing ever waits. spare_cores: that what
    decodes leaves to others; infinite while nothing does. n_waits: so far.
    """

    def __init__(self, share: float, spare_cores: Callable[[], float], seconds_per_byte: float) -> None:
        self._share = share
        self._spare_cores = spare_cores
        self._seconds_per_byte = min(seconds_per_byte, MAX_SECONDS_PER_BYTE)
        self._turns: deque[_Turn] = deque()
        self._timer: asyncio.TimerHandle | None = None  # of the first turn; set while there are turns
        self.n_waits = 0

    async def paced(self, blocks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """The same bytes, held up after each piece while that is needed; large blocks come in pieces then."""
        n_bytes = 0
        async for block in blocks:
            for part in self._parts(block):
                yield part
                n_bytes += len(part)
                if n_bytes >= PIECE_BYTES:
                    await self.wait(n_bytes)
                    n_bytes = 0

    async def wait(self, n_bytes: int) -> None:
        """After so many bytes: wait until the next may follow."""
        if self._share_now() >= 1:
            return
        turn = _Turn(asyncio.get_running_loop().create_future(), n_bytes)
        self._turns.append(turn)
        self.n_waits += 1
        if self._timer is None:
            self._begin_turn()
        await turn.over

    def _share_now(self) -> float:
        n_spare = self._spare_cores()
        return 1.0 if n_spare >= ENOUGH_CORES else max(self._share, n_spare * SHARE_OF_SPARE)

    def _parts(self, block: bytes) -> Iterable[bytes]:
        if len(block) <= PIECE_BYTES or self._share_now() >= 1:
            return (block,)
        return (block[start : start + PIECE_BYTES] for start in range(0, len(block), PIECE_BYTES))

    def _begin_turn(self) -> None:
        while self._turns and self._turns[0].over.done():  # cancelled
            self._turns.popleft()
        self._timer = None
        if self._turns:
            seconds = self._turns[0].n_bytes * self._seconds_per_byte / self._share_now()
            self._timer = asyncio.get_running_loop().call_later(seconds, self._end_turn)

    def _end_turn(self) -> None:
        # The first turn is always timed, so that nobody waits for longer than one once the decoding has ended.
        n_over = len(self._turns) if self._share_now() >= 1 else 1
        for _ in range(n_over):
            over = self._turns.popleft().over
            if not over.done():
                over.set_result(None)
        self._begin_turn()


def unpaced() -> Pacing:
    """Nothing ever waits."""
    return Pacing(1.0, lambda: 0, 0.0)


def seconds_per_byte() -> float:
    """What a byte of a stream costs on this machine, roughly: processor time, measured with a SHA-256."""
    data = bytes(_PROBE_BYTES)
    times: list[float] = []
    for _ in range(_N_PROBES):
        begun = time.thread_time()
        hashlib.sha256(data).digest()
        times.append(time.thread_time() - begun)
    return WORK_PER_HASH * min(times) / len(data)
