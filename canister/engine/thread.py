"""The one thread of a process on which llama.cpp decodes, for all engines that share it.

OpenMP keeps a pool of workers for every thread that has ever decoded, and workers stop spinning when there are more of
them than cores. One decoding thread means one pool. Each engine with work gets one step in turn. When an engine fails,
it is told so and the others go on.
"""

from __future__ import annotations

import math
import queue
import threading
import time
from collections.abc import Callable
from typing import Protocol

from canister.telemetry.logs import get_logger

log = get_logger(__name__)

Command = Callable[[], None]


class Worker(Protocol):
    """Something that takes turns. All of it is called on the decode thread."""

    @property
    def has_work(self) -> bool: ...

    @property
    def mapped_bytes(self) -> int:
        """Bytes of the files that it keeps in memory."""

    @property
    def n_threads(self) -> int:
        """OpenMP threads that a turn uses."""

    def take_turn(self) -> None:
        """One step. The thread hands what it raises to `fail`."""

    def fail(self, error: Exception) -> None:
        """A turn or a command of this worker has failed. Must not raise."""


class DecodeThread:
    """Any thread may post commands, which run in order. Workers take turns as long as one has work. Nothing polls.

    The thread begins with the first command and ends with `close`.
    """

    def __init__(self, name: str = "decode") -> None:
        self._name = name
        self._inbox: queue.SimpleQueue[tuple[Worker, Command] | None] = queue.SimpleQueue()
        self._workers: list[Worker] = []  # on the thread
        self._decoded_at: dict[int, float] = {}  # by number of threads, when the last turn was over; inf: it is not
        self._thread: threading.Thread | None = None
        self._is_closed = False
        self._starting = threading.Lock()

    def post(self, worker: Worker, command: Command) -> None:
        """Run a command of a worker on the thread, between two steps. After `close` nothing happens."""
        with self._starting:
            if self._is_closed:
                return
            if self._thread is None:
                self._thread = threading.Thread(target=self._main, name=self._name, daemon=True)
                self._thread.start()
        self._inbox.put((worker, command))

    def attach(self, worker: Worker) -> None:
        """On the thread: give the worker turns from now on."""
        self._workers.append(worker)

    def detach(self, worker: Worker) -> None:
        """On the thread: no more turns for it."""
        if worker in self._workers:
            self._workers.remove(worker)

    @property
    def mapped_bytes(self) -> int:
        """Bytes of the files that all workers keep in memory."""
        return sum(worker.mapped_bytes for worker in self._workers)

    @property
    def is_shared(self) -> bool:
        """Do several workers take turns? To be asked on the thread."""
        return len(self._workers) > 1

    def n_busy_threads(self, within_seconds: float) -> int:
        """The most threads that decoded at a time within these last seconds. Any thread may ask."""
        since = time.monotonic() - within_seconds
        return max((n for n, at in [*self._decoded_at.items()] if at >= since), default=0)

    def close(self) -> None:
        """End the thread after the commands that came before. Workers should have detached. Not to be called on the
        thread.
        """
        with self._starting:
            self._is_closed = True
            thread = self._thread
        if thread is not None:
            self._inbox.put(None)
            thread.join()

    # -- on the thread

    def _main(self) -> None:
        while self._take_commands():
            for worker in [*self._workers]:
                if worker.has_work:
                    n_threads = worker.n_threads
                    self._decoded_at[n_threads] = math.inf
                    self._guarded(worker, worker.take_turn)
                    self._decoded_at[n_threads] = time.monotonic()
                    if not self._take_commands(may_wait=False):
                        return

    def _take_commands(self, may_wait: bool = True) -> bool:
        """Run the commands that came; wait for one while no worker has work. False: the thread is to end."""
        while True:
            waits = may_wait and not any(worker.has_work for worker in self._workers)
            if not waits and self._inbox.empty():
                return True
            item = self._inbox.get()  # this thread alone takes from it
            if item is None:
                return False
            self._guarded(*item)

    def _guarded(self, worker: Worker, action: Command) -> None:
        try:
            action()
        except Exception as error:
            log.exception("an engine has failed")
            worker.fail(error)
