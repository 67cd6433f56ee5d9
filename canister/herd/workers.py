"""The workers of a herd as its leader knows them: which are there, what each does, and which are lost.

Each worker is asked for its state again and again; one that is silent for LEASE_SECONDS is taken for dead, whether it
is. It may come back: what it did meanwhile is fenced off.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Literal

from canister.api.herd_wire import CanisterState, State
from canister.herd.jobs import Job
from canister.herd.launch.launcher import Launcher, WorkerEnded, WorkerRef, WorkerSpec, WorkerStarted
from canister.herd.placement import Load
from canister.herd.worker_client import WorkerClient, WorkerLost, WorkerRefused
from canister.telemetry.logs import get_logger

LEASE_SECONDS = 5.0
BEAT_SECONDS = 1.0
HASTY_BEAT_SECONDS = 0.1  # while a worker is starting or loading its model
FIRST_CALL_SECONDS = 1.0  # that a call is taken to need, until one has been seen
STOP_SECONDS = 20.0  # for a worker that has nothing to do any more
WEIGHT = 0.1  # of the last call in the mean

WorkerPhase = Literal["starting", "loading", "ready", "draining", "silent", "ended"]

log = get_logger(__name__)


@dataclass(eq=False, slots=True)
class Worker:
    """One process of a worker.

    changed: told when it can take more. state: as it told last; None: it has not answered yet. seen: when, monotonic.
    revs: of the control log, by canister's id, that it has run. is_lost: its process has ended. leases: of the requests
    that it is asked; they end when it is gone. n_answers: whole ones that it makes.
    """

    ref: WorkerRef
    client: WorkerClient
    changed: Callable[[], None] = lambda: None
    state: State | None = None
    seen: float = field(default_factory=time.monotonic)
    leases: set[asyncio.Timeout] = field(default_factory=set)
    is_lost: bool = False
    is_silent: bool = False
    is_draining: bool = False
    jobs: set[Job] = field(default_factory=set)
    n_answers: int = 0
    revs: dict[str, int] = field(default_factory=dict)
    call_seconds: float = FIRST_CALL_SECONDS
    n_done: int = 0
    refusal: str = ""

    @property
    def id(self) -> str:
        return self.ref.id

    @property
    def is_gone(self) -> bool:
        """Its jobs must go elsewhere; it may come back."""
        return self.is_lost or self.is_silent

    @asynccontextmanager
    async def leased(self) -> AsyncIterator[asyncio.Timeout]:
        """Wait for it only as long as it is there, and the lease is not ended. Raises WorkerLost."""
        lease = asyncio.timeout(None)
        try:
            async with lease:
                if self.is_gone:
                    raise TimeoutError
                self.leases.add(lease)
                yield lease
        except TimeoutError:
            raise WorkerLost(f"worker {self.id} is gone") from None
        finally:
            self.leases.discard(lease)

    @asynccontextmanager
    async def answering(self) -> AsyncIterator[None]:
        """Let it make one more whole answer, as long as it is there. Raises WorkerLost."""
        self.n_answers += 1
        try:
            async with self.leased():
                yield
        finally:
            self.n_answers -= 1
            self.changed()  # it has room for jobs again

    def end_leases(self) -> None:
        """Nobody waits for it any more: whoever does gets WorkerLost."""
        for lease in self.leases:
            end(lease)

    def canister(self, id: str) -> CanisterState | None:
        if self.state is None:
            return None
        return next((one for one in self.state.canisters if one.id == id), None)

    def slots(self, canister: str) -> int:
        found = self.canister(canister)
        return 1 if found is None else max(1, found.slots)

    def may_run(self, canister: str, rev: int) -> bool:
        """May it get a job of this canister now, as far as it has room?"""
        found = self.canister(canister)
        if found is None or found.loading or self.is_gone or self.phase == "draining":
            return False
        return self.revs.get(canister, 0) >= rev

    def is_exact(self, canister: str) -> bool:
        """Do its chats get the same tokens at every worker like it?"""
        found = self.canister(canister)
        return found is not None and found.model is not None and found.model.exact

    def load(self, canister: str, waiting: int = 0) -> Load:
        """waiting: jobs of the queue that wait for this worker."""
        return Load(self.id, len(self.jobs) + self.n_answers, self.slots(canister), self.call_seconds, waiting)

    def took(self, seconds: float) -> None:
        """A call took so long here."""
        self.n_done += 1
        self.call_seconds += (seconds - self.call_seconds) * (WEIGHT if self.n_done > 1 else 1.0)

    @property
    def phase(self) -> WorkerPhase:
        if self.is_lost:
            return "ended"
        if self.is_silent:
            return "silent"
        if self.is_draining or (self.state is not None and self.state.draining):
            return "draining"
        if self.state is None:
            return "starting"
        return "loading" if any(one.loading for one in self.state.canisters) else "ready"


def end(lease: asyncio.Timeout) -> None:
    """Let nobody wait under this lease any more. It may have ended before, while whoever has it still cleans up."""
    if not lease.expired():
        lease.reschedule(asyncio.get_running_loop().time())


class Workers:
    """Starts workers, watches them, and tells when something has changed for their jobs."""

    def __init__(self, launcher: Launcher, secret: bytes) -> None:
        self._launcher = launcher
        self._secret = secret
        self.changed: Callable[[], None] = lambda: None  # a worker has come, gone, or can take more
        self._workers: dict[str, Worker] = {}
        self._drained: set[str] = set()  # also when their processes are started again
        self._tasks: set[asyncio.Task[None]] = set()
        self.leaves: Callable[[str], None] = lambda id: None  # a worker gets no more jobs
        self.fed: Callable[[Worker], None] = lambda worker: None  # sees to a worker's control log

    @property
    def all(self) -> Iterable[Worker]:
        return self._workers.values()

    def get(self, id: str | None) -> Worker | None:
        return None if id is None else self._workers.get(id)

    def begin(self) -> None:
        """Follow what the launcher tells."""
        self._spawn(self._follow(), "workers")

    async def start(self, spec: WorkerSpec) -> None:
        """Begin a worker; one that was drained gets jobs again."""
        self._drained.discard(spec.id)
        await self._launcher.start(spec)

    async def close(self) -> None:
        """End all workers."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._launcher.close()
        await asyncio.gather(*(worker.client.close() for worker in self._workers.values()), return_exceptions=True)

    async def stop(self, id: str) -> None:
        """End a worker for good; what it still does is lost."""
        worker = self._workers.get(id)
        if worker is not None:
            await self._launcher.stop(worker.ref, STOP_SECONDS)

    async def drain(self, id: str) -> Worker | None:
        """Give a worker no more jobs."""
        worker = self._workers.get(id)
        if worker is not None:
            worker.is_draining = True
            self._drained.add(id)
            self.leaves(id)
            with contextlib.suppress(WorkerLost, WorkerRefused):
                await worker.client.drain()
        return worker

    async def suspect(self, worker: Worker) -> None:
        """A request to it broke off: is it still there? If not, it gets nothing until it answers."""
        if worker.is_gone:
            return
        try:
            await worker.client.state()
        except (WorkerLost, WorkerRefused) as error:
            if not worker.is_gone:
                log.warning("a worker does not answer", worker=worker.id, reason=str(error), jobs=len(worker.jobs))
                worker.is_silent = True
                worker.end_leases()
                self.changed()

    async def _follow(self) -> None:
        async for event in self._launcher.events():
            if isinstance(event, WorkerStarted):
                self._came(event.ref)
            elif isinstance(event, WorkerEnded):
                worker = self._workers.get(event.ref.id)
                if worker is not None and worker.ref == event.ref:
                    self._lose(worker, event.reason)
                    if not event.returns:
                        del self._workers[worker.id]

    def _came(self, ref: WorkerRef) -> None:
        former = self._workers.get(ref.id)
        if former is not None:
            self._lose(former, "another process took its place")
        worker = Worker(ref, WorkerClient(ref, self._secret), self.changed, is_draining=ref.id in self._drained)
        self._workers[ref.id] = worker
        self._spawn(self._watch(worker), f"watch {ref.id}")

    def _lose(self, worker: Worker, reason: str) -> None:
        if worker.is_lost:
            return
        if worker.jobs:
            log.warning("a worker is lost", worker=worker.id, reason=reason, jobs=len(worker.jobs))
        worker.is_lost = True
        worker.end_leases()
        self._spawn(worker.client.close(), "close")
        self.changed()

    async def _watch(self, worker: Worker) -> None:
        """Ask it for its state as long as it lives."""
        while not worker.is_lost:
            await self._look(worker)
            await asyncio.sleep(BEAT_SECONDS if worker.phase == "ready" else HASTY_BEAT_SECONDS)

    async def _look(self, worker: Worker) -> None:
        before = worker.phase
        try:
            worker.state = await worker.client.state()
        except WorkerRefused as error:
            if worker.refusal != str(error):
                log.error("a worker does not work for this herd", worker=worker.id, reason=str(error))
            worker.refusal = str(error)
        except WorkerLost:
            if worker.state is not None and time.monotonic() - worker.seen > LEASE_SECONDS and not worker.is_silent:
                log.error("a worker is silent", worker=worker.id, jobs=len(worker.jobs))
                worker.is_silent = True
                worker.end_leases()
        else:
            worker.seen, worker.refusal = time.monotonic(), ""
            if worker.is_silent:
                log.info("a worker is back", worker=worker.id)
                worker.is_silent = False
            for one in worker.state.canisters:
                worker.revs[one.id] = max(one.rev, worker.revs.get(one.id, 0))
            self.fed(worker)
        if worker.phase != before:
            self.changed()

    def _spawn(self, work: Coroutine[None, None, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
