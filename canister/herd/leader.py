"""The leader: every call of the herd goes through its queue to a worker, and ends in the journal, once.

    entered → queue, by price and turns → a worker that can begin → settled → answered

A worker that is lost loses its jobs to others. It may have run them: what only it knows of is passed over, since the
journal takes the end of a job only on top of the chat's present head, and from the leader that there is now.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Hashable
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any

from canister.api.herd_wire import Done
from canister.errors import CallerBusy, CanisterBusy, CanisterStopping, LeadershipLost, Trap
from canister.herd import replies
from canister.herd.jobs import Job
from canister.herd.known_chats import Key, KnownChats
from canister.herd.losses import EVER, Fate, Losses, WorkersLost
from canister.herd.placement import aim
from canister.herd.prefixes import Prefixes
from canister.herd.queue import JobQueue
from canister.herd.tries import Deposed, Tries
from canister.herd.worker_client import WorkerConflict, WorkerLost, WorkerRefused
from canister.herd.workers import end
from canister.telemetry.logs import get_logger

if TYPE_CHECKING:
    from canister.herd.journal.journal import Journal
    from canister.herd.journal.records import JobRow
    from canister.herd.transfers import Transfers
    from canister.herd.workers import Worker, Workers

DUE_SECONDS = 0.5  # how often jobs are looked through for those that have waited too long

log = get_logger(__name__)


class WaitedTooLong(Trap):
    """The call did not get its turn in time."""

    reject_code = 2
    error_code = "IC0202"
    http_status = 503


@dataclass(frozen=True, slots=True)
class Limits:
    """max_tries: workers that may be lost with one job. max_jobs: that run and wait at once, and of one caller."""

    max_tries: int = 2
    max_jobs: int = 10_000
    max_jobs_per_caller: int = 160


class Leader:
    """Of one epoch, on one event loop. Begun once, closed once."""

    def __init__(
        self,
        journal: Journal,
        workers: Workers,
        transfers: Transfers,
        chats: KnownChats,
        epoch: int,
        limits: Limits,
        *,
        deposed: Callable[[], None] = lambda: None,
    ) -> None:
        """deposed: called when another process leads."""
        self.journal = journal
        self.workers = workers
        self.epoch = epoch
        self.chats = chats
        self.prefixes = Prefixes(chats, transfers, self.is_busy, self.spawn)
        self.tries = Tries(journal, chats, transfers, self.prefixes, epoch)
        self.n_requeued = self.n_refused = 0
        self.last_multiplier = 1.0  # of the job with a price that was given away last
        self._transfers = transfers
        self._losses = Losses(journal, workers, epoch, limits.max_tries)
        self._limits = limits
        self._tell_deposed = deposed
        self._queue: JobQueue[Job] = JobQueue()
        self._jobs: dict[bytes, Job] = {}
        self._busy: set[Key] = set()  # chats of jobs that a worker has
        self._waiting_for: set[Hashable] = set()  # workers, in whatever form
        self._of_caller: Counter[str] = Counter()
        self._random = Random()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closing = False

    # -- life

    def begin(self) -> None:
        self.spawn(self._watch_due(), "due jobs")

    async def close(self) -> None:
        """Let nothing more begin, and give up what runs; the journal keeps what it has accepted."""
        self._closing = True
        for job in list(self._jobs.values()):
            job.fail(CanisterStopping("the herd is stopping; call again, with the same id or key if it had one"))
        while self._tasks:  # what ends may spawn something, which ends too
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def spawn(self, work: Coroutine[Any, Any, object], name: str) -> asyncio.Task[Any]:
        """Work that ends with the leader."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # -- what is known

    @property
    def n_jobs(self) -> int:
        """Jobs that wait or run."""
        return len(self._jobs)

    @property
    def n_queued(self) -> int:
        return len(self._queue)

    def by_multiplier(self) -> list[tuple[float, int]]:
        """How many jobs wait at each multiplier, the highest first."""
        return self._queue.by_multiplier()

    def jobs(self) -> list[Job]:
        """All that wait or run."""
        return list(self._jobs.values())

    def find(self, id: bytes) -> Job | None:
        """A job that has not ended."""
        return self._jobs.get(id)

    def is_busy(self, chat: Key) -> bool:
        """Does a worker have a job of this chat?"""
        return chat in self._busy

    def waits(self, job: Job) -> bool:
        """Does it stand in the queue?"""
        return job.id in self._queue

    def reprice(self, job: Job, multiplier: float) -> None:
        """Let a job have another place, if it still waits: the last among its new equals."""
        waits = self._queue.remove(job.id) is not None
        job.multiplier = multiplier
        if waits:
            self._line_up(job)

    # -- jobs come

    async def run(self, job: Job, accepted: Callable[[], None] = lambda: None) -> Done:
        """Run a job, or join the one of its id, and return its end. If the caller gives up, so does the job, unless it
        goes on. accepted: called once the job is kept, as far as it is.
        """
        await self.enter(job)
        accepted()
        try:
            return await job.outcome()
        except asyncio.CancelledError:
            if not job.goes_on:
                self._drop(job)
            raise

    async def enter(self, job: Job) -> None:
        """Take a job in; its `done` tells its end. Of a known id, it gets the end of that one. Raises CallerBusy,
        CanisterBusy, JournalUnavailable, and Conflict when its id was another call's.
        """
        self.check_leads()
        same = self._jobs.get(job.id)
        if same is not None:
            _follow(job, same)
            return
        self._check_room(job)
        self._note(job)
        try:
            await self._recall(job)
        except BaseException as error:
            job.fail(error if isinstance(error, Exception) else CanisterStopping("the call was cancelled"))
            self._forget(job)
            raise
        if job.done.done():
            self._forget(job)
        else:
            self._line_up(job)

    async def take_up(self, row: JobRow, job: Job) -> None:
        """A job that the journal has from the leader before this one, whose worker may have run it."""
        if row.state == "running":
            await self.journal.requeue(row.id, row.fence, self.epoch, EVER)
        self._note(job)
        self._line_up(job)

    def check_leads(self) -> None:
        """Raise CanisterStopping if nothing may begin here any more."""
        if self._closing:
            raise CanisterStopping("this herd is stopping or led by another process; try again")

    async def _recall(self, job: Job) -> None:
        """Let the journal accept it, or end it as the journal knows that it has ended."""
        if job.accepted:
            accepted = await self.journal.accept(job.as_new(), epoch=self.epoch)
            answer = None if accepted.is_new else accepted.job.answer
        elif job.goes_on:
            row = await self.journal.find(job.id)
            if row is not None:
                job.check_same(row)
            answer = None if row is None else row.answer
        else:
            return
        if answer is not None:
            job.end(replies.of_answer(answer))

    def _note(self, job: Job) -> None:
        self._jobs[job.id] = job
        self._of_caller[job.caller] += 1

    def _check_room(self, job: Job) -> None:
        n_own, limits = self._of_caller[job.caller], self._limits
        if n_own >= limits.max_jobs_per_caller:
            raise CallerBusy(
                f"Canister {job.canister}: {n_own} calls of this caller are running and waiting in this herd, its "
                "limit; wait for some of them, then try again"
            )
        if len(self._jobs) >= limits.max_jobs:
            raise CanisterBusy(
                f"Canister {job.canister}: {len(self._jobs)} calls are running and waiting in this herd, the limit for "
                "all callers together; try again later"
            )

    def _line_up(self, job: Job, *, again: bool = False) -> None:
        self._queue.push(job, again=again)
        self.pump()

    # -- jobs go

    def _end(self, job: Job, done: Done) -> None:
        job.end(done)
        self._forget(job)

    def _forget(self, job: Job) -> None:
        if self._jobs.get(job.id) is not job:
            return
        del self._jobs[job.id]
        self._of_caller[job.caller] -= 1
        if not self._of_caller[job.caller]:
            del self._of_caller[job.caller]
        self._queue.remove(job.id)

    def _drop(self, job: Job) -> None:
        """Nobody wants it any more. What a worker does of it meanwhile is not settled."""
        job.is_dropped = True
        if job.lease is not None:
            end(job.lease)
        elif job.worker is None:
            self._forget(job)

    async def refuse(self, job: Job, trap: Trap) -> None:
        """Answer why not. What was paid for it goes back."""
        self.n_refused += 1
        if job.accepted:
            await self.journal.refuse(job.id, self.epoch, replies.to_answer(replies.of_trap(trap)))
        job.fail(trap)
        self._forget(job)

    async def _watch_due(self) -> None:
        """Refuse jobs that did not get their turn in time."""
        while True:
            await asyncio.sleep(DUE_SECONDS)
            now_ns = time.time_ns()
            for job in self.jobs():
                if job.due_ns is not None and job.due_ns < now_ns and job.worker is None:
                    self._queue.remove(job.id)
                    await self.refuse(job, WaitedTooLong("the call did not get its turn in time, and was not begun"))

    # -- to the workers

    def changed(self) -> None:
        """A worker has come, gone, or can take more."""
        self._queue.free(*self._waiting_for)
        self._waiting_for.clear()
        self.pump()

    def pump(self) -> None:
        """Give jobs to workers that can take them."""
        while not self._closing and len(self._queue):
            chosen: list[Worker] = []

            def obstacle(job: Job, chosen: list[Worker] = chosen) -> Hashable:
                return self._obstacle(job, chosen)

            job = self._queue.pop(obstacle)
            if job is None:
                return
            worker = chosen[-1]
            job.worker = worker.id
            worker.jobs.add(job)
            self._busy.update(job.keys)
            if job.is_priced:
                self.last_multiplier = job.multiplier
            self.spawn(self._serve(job, worker), f"job {job.id.hex()[:16]}")

    def _obstacle(self, job: Job, chosen: list[Worker]) -> Hashable:
        """What a job waits for; None, and its worker in `chosen`, if it can begin."""
        busy = next((key for key in job.keys if key in self._busy), None)
        if busy is not None:
            return busy
        able = {worker.id: worker for worker in self.workers.all if worker.may_run(job.canister, job.rev)}
        chat = self.chats.at_hand(job.keys[0]) if job.chats else None
        owner, seconds = self.prefixes.costs(job, chat, able)
        loads = [worker.load(job.canister, self._queue.n_ahead(job.id, _full(worker.id))) for worker in able.values()]
        load = aim(loads, owner, seconds, self._random)
        if load is not None and load.has_room:
            chosen.append(able[load.worker])
            return None
        # A job that waits for the worker that has its chat keeps nobody else from the others.
        waits_for = ("workers", job.canister, job.rev) if load is None else _full(load.worker)
        self._waiting_for.add(waits_for)
        return waits_for

    async def _serve(self, job: Job, worker: Worker) -> None:
        """One try of a job, at a worker."""
        again = False
        try:
            again = await self._tried(job, worker)
        except (Deposed, LeadershipLost):
            self.depose()
        except Exception as error:
            log.exception("a job of the herd failed", job=job.id.hex(), worker=worker.id)
            job.fail(error)
            self._forget(job)
        finally:
            job.worker = None
            worker.jobs.discard(job)
            self._busy.difference_update(job.keys)
            self._queue.free(*job.keys)
        if again and not self._closing:
            self.n_requeued += 1
            self._line_up(job, again=True)
        self.changed()

    async def _tried(self, job: Job, worker: Worker) -> bool:
        """Try a job at a worker. True: it has to be tried again. Raises Deposed, LeadershipLost."""
        began = time.monotonic()
        fate: Fate
        try:
            done = await self.tries.run(job, worker)
        except WorkerConflict as error:
            fate = await self._losses.not_begun(job, worker, error.conflict)
        except WorkerLost as error:
            fate = await self._losses.lost(job, worker, error)
        except Trap as trap:
            fate = trap
        except WorkerRefused as error:
            fate = WorkersLost(str(error))
        else:
            worker.took(time.monotonic() - began)
            self._end(job, done)
            return False
        if isinstance(fate, Trap):
            await self.refuse(job, fate)
        elif fate == "dropped":
            self._forget(job)
        return fate == "again"

    def depose(self) -> None:
        """Another process leads: give up all that is under way."""
        if self._closing:
            return
        log.error("another process leads this herd now", epoch=self.epoch)
        self._closing = True
        for job in self.jobs():
            job.fail(CanisterStopping("another process leads this herd now; call again, with the same id or key"))
        self._tell_deposed()


def _follow(job: Job, same: Job) -> None:
    """Let a job end as the one of the same id does."""

    def over(future: asyncio.Future[Done]) -> None:
        error = future.exception()
        if error is None:
            job.end(future.result())
        else:
            job.fail(error)

    same.done.add_done_callback(over)


def _full(worker: str) -> Hashable:
    """What jobs wait for that only this worker is to run, since it has their chats."""
    return ("worker", worker)
