"""A worker leaves in order and comes back as a new process, of the version that is installed by then.

    no more jobs → its jobs end, and its rows are stored → stopped → started on its folder → ready

One at a time, so that the others carry the herd meanwhile.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from canister.errors import CanisterUnavailable
from canister.telemetry.logs import get_logger

if TYPE_CHECKING:
    from canister.herd.launch.launcher import WorkerSpec
    from canister.herd.row_store import RowStore
    from canister.herd.workers import Worker, Workers

LEAVE_SECONDS = 120.0  # for its jobs and its rows; what is not done then goes on elsewhere
BACK_SECONDS = 300.0  # to load its model, and to run the control log
LOOK_SECONDS = 0.1

log = get_logger(__name__)


class NotBack(CanisterUnavailable):
    """The new process is not ready. The message says what it does."""

    http_status = 503


class Restarts:
    """Of one leader. spec: of a worker by its id."""

    def __init__(self, workers: Workers, store: RowStore, spec: Callable[[str], WorkerSpec]) -> None:
        self._workers = workers
        self._store = store
        self._spec = spec
        self._one_at_a_time = asyncio.Lock()

    async def restart(self, id: str) -> Worker | None:
        """The new process, which is ready; None: there is no such worker. Raises NotBack, and what a launcher raises
        for a worker that cannot be begun.
        """
        async with self._one_at_a_time:
            former = await self._workers.drain(id)
            if former is None:
                return None
            self._store.drain(id)
            await _until(lambda: self._has_left(former), LEAVE_SECONDS)
            await self._workers.stop(id)
            self._store.gone(id)
            await self._workers.start(self._spec(id))
            await _until(lambda: self._is_back(former), BACK_SECONDS)
            worker = self._workers.get(id)
            if worker is None or not self._is_back(former):
                phase = "not there" if worker is None else worker.phase
                raise NotBack(f"worker {id} was started anew, and is {phase} after {BACK_SECONDS:g} s; see its log")
            log.info("a worker was started anew", worker=id, version=worker.state and worker.state.version)
            return worker

    def _has_left(self, worker: Worker) -> bool:
        return worker.is_gone or not (worker.jobs or worker.n_answers or self._store.pending(worker.id))

    def _is_back(self, former: Worker) -> bool:
        worker = self._workers.get(former.id)
        return worker is not None and worker is not former and worker.phase == "ready"


async def _until(is_so: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not is_so() and time.monotonic() < end:  # noqa: ASYNC110  # several things change it
        await asyncio.sleep(LOOK_SECONDS)
