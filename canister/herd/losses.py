"""The ways in which a try of a job comes to nothing, and what becomes of the job then.

not begun   the worker says so: it goes back into the queue, and nothing is counted
lost        nobody knows what the worker has done: another one is asked, as often as a job may be tried
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Literal

from canister.api.herd_wire import Conflict
from canister.errors import Trap
from canister.herd.jobs import Job, StreamBroken
from canister.herd.tries import Deposed
from canister.herd.worker_client import WorkerLost
from canister.telemetry.logs import get_logger

if TYPE_CHECKING:
    from canister.herd.journal.journal import Journal
    from canister.herd.workers import Worker, Workers

BUSY_SECONDS = 0.05  # before a worker that said it was busy is asked again
EVER = 1 << 30  # tries that the journal is to allow: they are counted here

Fate = Literal["again", "dropped"] | Trap
"""Of a job: into the queue again, forgotten since nobody waits for it, or refused for this reason."""

log = get_logger(__name__)


class WorkersLost(Trap):
    """The call was tried as often as it may be, and each worker was lost with it. SYS_TRANSIENT of the IC."""

    reject_code = 2
    error_code = "IC0202"
    http_status = 503


class Losses:
    """Of one epoch of a leader. max_tries: workers that may be lost with one job."""

    def __init__(self, journal: Journal, workers: Workers, epoch: int, max_tries: int) -> None:
        self._journal = journal
        self._workers = workers
        self._epoch = epoch
        self._max_tries = max_tries

    async def not_begun(self, job: Job, worker: Worker, conflict: Conflict) -> Fate:
        """The worker has not begun it. Raises Deposed."""
        match conflict.why:
            case "rev":
                worker.revs[job.canister] = conflict.rev
            case "draining":
                worker.is_draining = True
            case "epoch":
                log.error("a worker has seen a later leader", worker=worker.id, epoch=conflict.epoch)
                raise Deposed
            case _:
                await asyncio.sleep(BUSY_SECONDS)
        return await self._back(job)

    async def lost(self, job: Job, worker: Worker, error: WorkerLost) -> Fate:
        """Nobody knows what the worker has done of it. Another one may have to say the same again. Raises Deposed."""
        if job.is_dropped:
            return "dropped"
        await self._workers.suspect(worker)
        process = (worker.id, worker.ref.generation)
        log.warning("a call's worker was lost", job=job.id.hex()[:16], process=process, reason=str(error))
        if process in job.lost_with:
            await asyncio.sleep(BUSY_SECONDS)  # it is dying, and its socket still takes connections
        if error.was_asked:
            job.lost_with.add(process)
        if job.text is not None and job.text.has_begun and not worker.is_exact(job.canister):
            told = f"{error}. Its model is not exact, so no other worker can go on with this text: send the call again"
            return StreamBroken(told)
        if job.tries >= self._max_tries:
            told = f"the call was given to {job.tries} workers, and each was lost with it, so it is not tried again"
            return WorkersLost(f"{told}; nothing of it was kept or charged")
        return await self._back(job)

    async def _back(self, job: Job) -> Fate:
        if job.is_dropped:
            return "dropped"
        if job.accepted and await self._journal.requeue(job.id, job.fence, self._epoch, EVER) == "stale":
            row = await self._journal.find(job.id)
            if row is None or row.state != "queued":  # else its assignment never became durable
                raise Deposed
        return "again"
