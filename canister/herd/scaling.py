"""Keeps a herd at as many workers as it should have: starts those that are missing, and lets those leave that are too
many.

A worker that leaves gets no more jobs, ends those that it has, and gives the rows of its chats away, before it is
stopped.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING

from canister.errors import CanisterError, Trap
from canister.herd.autoscale import Autoscaler, HerdLoad
from canister.telemetry.logs import get_logger

if TYPE_CHECKING:
    from canister.herd.launch.launcher import WorkerSpec
    from canister.herd.leader import Leader
    from canister.herd.row_store import RowStore
    from canister.herd.workers import Worker, Workers

LOOK_SECONDS = 5.0
RETRY_SECONDS = 15.0  # before a worker is started again that could not be started
LEAVE_SECONDS = 120.0  # for its jobs and its rows

log = get_logger(__name__)


class Scaling:
    """Of one leader. Workers are w1, w2, …; the last one leaves first."""

    def __init__(
        self,
        workers: Workers,
        leader: Leader,
        store: RowStore,
        spec: Callable[[str], WorkerSpec],
        autoscaler: Autoscaler,
    ) -> None:
        self._workers = workers
        self._leader = leader
        self._store = store
        self._spec = spec
        self._scaler = autoscaler
        self._changing: dict[str, asyncio.Task[None]] = {}
        self._there: set[str] = set()  # started, or being started; not those that leave
        self._not_before: dict[str, float] = {}

    async def run(self) -> None:
        """Until cancelled."""
        try:
            while True:
                self.look(time.monotonic())
                await asyncio.sleep(LOOK_SECONDS)
        finally:
            for task in self._changing.values():
                task.cancel()

    def look(self, now: float) -> None:
        """Begin what is to be done now."""
        wanted = self._scaler.wanted(self._load(), now)
        if wanted != len(self._there):
            log.info("the herd changes", workers=len(self._there), wanted=wanted, waiting=self._leader.n_queued)
        for id in (f"w{n}" for n in range(1, wanted + 1)):
            if id not in self._there and id not in self._changing and now >= self._not_before.get(id, now):
                self._there.add(id)
                self._change(id, self._start(id))
        for id in sorted(self._there, key=_number, reverse=True)[: max(len(self._there) - wanted, 0)]:
            if id not in self._changing:
                self._there.discard(id)
                self._change(id, self._leave(id))

    def _load(self) -> HerdLoad:
        ready = [worker for worker in self._workers.all if worker.phase == "ready"]
        slots = [max((one.slots for one in worker.state.canisters), default=1) for worker in ready if worker.state]
        seconds = [worker.call_seconds for worker in ready]
        n_running = sum(len(worker.jobs) for worker in ready)
        # As long as no worker is ready, nobody knows what a call takes.
        waiting = self._leader.n_queued * sum(seconds) / len(seconds) if seconds else 0.0
        return HerdLoad(len(self._there), max(1, sum(slots) // len(slots)) if slots else 1, waiting, n_running)

    async def _start(self, id: str) -> None:
        try:
            await self._workers.start(self._spec(id))
        except (CanisterError, Trap) as error:
            log.error("a worker could not be started, and is tried again", worker=id, reason=str(error))
            self._there.discard(id)
            self._not_before[id] = time.monotonic() + RETRY_SECONDS

    async def _leave(self, id: str) -> None:
        worker = await self._workers.drain(id)
        if worker is None:
            return
        end = time.monotonic() + LEAVE_SECONDS
        while not self._is_empty(worker) and time.monotonic() < end:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
        await self._workers.stop(id)
        self._store.gone(id)

    def _is_empty(self, worker: Worker) -> bool:
        return worker.is_gone or not (worker.jobs or self._store.pending(worker.id))

    def _change(self, id: str, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work, name=f"change of {id}")
        self._changing[id] = task
        task.add_done_callback(lambda _: self._changing.pop(id, None))


def _number(id: str) -> int:
    return int(id[1:])
