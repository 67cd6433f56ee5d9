"""Streams of files take a small share of the time beside a chat that decodes, and all of it as soon as decoding ends.

The threads of a decode wait for each other after every operation, so work on one of their cores delays all of them. A
stream therefore waits after each piece for its work divided by the share that it may have. Streams take turns, so many
share what one would get. Nothing is read from a client's socket meanwhile, so the client waits too.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from typing import NamedTuple

PIECE_BYTES = 240 * 1024  # about a millisecond of work, and the most that the event loop reads at once
IDLE_SECONDS = 0.25  # a chat in short calls counts as decoding between them
SHARE_OF_SPARE = 0.3  # of each core that decoding leaves: client, event loop and worker threads run at the same time
ENOUGH_CORES = 3  # for all of these
WORK_PER_HASH = 7.0  # of receiving, hashing, writing, and of a client on the same machine, in times of a SHA-256
MAX_SECONDS_PER_BYTE = 40e-9  # streams are never slower than their share of 25 MB/s
_PROBE_BYTES = 1024 * 1024
_N_PROBES = 3


class _Turn(NamedTuple):
    over: asyncio.Future[None]
    n_bytes: int


class Pacing:
    """For all streams of a process, on the event loop. Knows no files, engines or HTTP.

    share: of a core's time beside threads that decode on all cores; 1: nothing ever waits. spare_cores: cores that
    decoding leaves to others; infinite while nothing decodes. n_waits: so far.
    """

    def __init__(self, share: float, spare_cores: Callable[[], float], seconds_per_byte: float) -> None:
        self._share = share
        self._spare_cores = spare_cores
        self._seconds_per_byte = min(seconds_per_byte, MAX_SECONDS_PER_BYTE)
        self._turns: deque[_Turn] = deque()
        self._timer: asyncio.TimerHandle | None = None  # of the first turn; set while there are turns
        self.n_waits = 0

    async def paced(self, blocks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """The same bytes, delayed after each piece while that is needed. Large blocks then come in pieces."""
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
        # The first turn is always timed, so that nobody waits longer than one turn once decoding has ended.
        n_over = len(self._turns) if self._share_now() >= 1 else 1
        for _ in range(n_over):
            over = self._turns.popleft().over
            if not over.done():
                over.set_result(None)
        self._begin_turn()


def unpaced() -> Pacing:
    """A pacing under which nothing ever waits."""
    return Pacing(1.0, lambda: 0, 0.0)


def seconds_per_byte() -> float:
    """The cost of a stream's byte on this machine, roughly: processor time, measured with a SHA-256."""
    data = bytes(_PROBE_BYTES)
    times: list[float] = []
    for _ in range(_N_PROBES):
        begun = time.thread_time()
        hashlib.sha256(data).digest()
        times.append(time.thread_time() - begun)
    return WORK_PER_HASH * min(times) / len(data)
