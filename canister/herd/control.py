"""The control log: updates of what every worker has, such as access, limits and files, each run by all in one order.

    appended to the journal → run in the mirror, which answers → run by every worker before it gets a later job

The mirror has no model. So `load_model` is answered by the first worker that has run it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine, Sequence
from typing import TYPE_CHECKING

from canister.api.herd_wire import Control, Done
from canister.api.management import find_row
from canister.errors import CanisterError, Conflict, Trap
from canister.herd.journal.records import ControlEntry
from canister.herd.objects import blobs
from canister.herd.routing import class_of
from canister.herd.worker_client import WorkerConflict, WorkerLost, WorkerRefused
from canister.telemetry.logs import get_logger

if TYPE_CHECKING:
    from canister.herd.jobs import Job
    from canister.herd.journal.journal import Journal
    from canister.herd.mirror import Mirror
    from canister.herd.objects.objects import Objects
    from canister.herd.workers import Worker

MAX_IN_LOG = 64 * 1024  # bytes of an argument; larger ones lie in the objects
MAX_ARG_BYTES = 16 * 1024 * 1024
KEPT_ENTRIES = 1000  # at hand, of one canister
RETRY_SECONDS = 0.5

log = get_logger(__name__)


class ControlLog:
    """Of one leader. Loaded once; then `run` appends, and `fed` brings workers up to it."""

    def __init__(self, journal: Journal, mirror: Mirror, objects: Objects, epoch: int) -> None:
        self._journal = journal
        self._mirror = mirror
        self._objects = objects
        self._epoch = epoch
        self._revs: dict[str, int] = {}
        self._at_hand: dict[str, dict[int, ControlEntry]] = {}
        self._order: dict[str, asyncio.Lock] = {}
        self._firsts: dict[tuple[str, int], asyncio.Future[Done]] = {}
        self._feeding: dict[Worker, asyncio.Task[None]] = {}
        self._grown = asyncio.Event()

    def rev(self, canister: str) -> int:
        """Of the last entry that all later jobs need."""
        return self._revs.get(canister, 0)

    async def load(self, canisters: Sequence[str]) -> None:
        """Bring the mirror up to the end of the log, where a former leader may have stopped in the middle."""
        for canister in canisters:
            done = self._mirror.rev(canister)
            while entries := await self._journal.control_since(canister, done):
                for entry in entries:
                    if class_of(find_row(entry.method)) != "model":
                        await self._mirror.run(entry, await self._arg(entry))
                    done = entry.rev
            self._revs[canister] = done

    async def close(self) -> None:
        for task in self._feeding.values():
            task.cancel()
        await asyncio.gather(*self._feeding.values(), return_exceptions=True)
        for future in self._firsts.values():
            future.cancel()

    async def run(self, job: Job) -> Done:
        """Append a call to the log, and return its answer."""
        async with self._order.setdefault(job.canister, asyncio.Lock()):
            entry = await self._known(job)
            if entry is None:
                entry = await self._append(job)
                self._revs[job.canister] = entry.rev
                self._keep(entry)
            if class_of(job.method) == "model":
                made: asyncio.Future[Done] = asyncio.get_running_loop().create_future()
                first = self._firsts.setdefault((job.canister, entry.rev), made)
            self._grown.set()
            if class_of(job.method) != "model":
                return await self._mirror.run(entry, job.arg)
        try:
            return await asyncio.shield(first)  # somebody else may wait for it too
        finally:
            self._firsts.pop((job.canister, entry.rev), None)

    async def _known(self, job: Job) -> ControlEntry | None:
        """The entry of a job that came before, and ended nowhere but in the log, since this process or a former leader
        was ended there. Raises Conflict when its id was another call's.
        """
        entry = await self._journal.control_of(job.canister, job.id) if job.is_kept else None
        if entry is None:
            return None
        if (job.caller, job.method.name, job.arg) != (entry.caller, entry.method, await self._arg(entry)):
            raise Conflict(f"the same id was used for another call, of {entry.method}")
        return entry

    async def _append(self, job: Job) -> ControlEntry:
        stored = None
        if len(job.arg) > MAX_IN_LOG:
            stored = bytes.fromhex(await blobs.put(self._objects, job.arg))
        arg = job.arg if stored is None else None
        told = (job.canister, job.caller, job.method.name)
        id = job.id if job.is_kept else None
        rev = await self._journal.append_control(self._epoch, *told, arg, job.now_ns, object=stored, job=id)
        return ControlEntry(job.canister, rev, job.caller, job.method.name, arg, stored, job.now_ns)

    def _keep(self, entry: ControlEntry) -> None:
        kept = self._at_hand.setdefault(entry.canister, {})
        kept[entry.rev] = entry
        while len(kept) > KEPT_ENTRIES:
            del kept[next(iter(kept))]

    # -- workers

    def fed(self, worker: Worker) -> None:
        """See to it that a worker that answers gets what it has not run yet, for as long as it lives."""
        if worker not in self._feeding and worker.state is not None:
            task = asyncio.create_task(self._feed(worker), name=f"control of {worker.id}")
            self._feeding[worker] = task
            task.add_done_callback(lambda _: self._feeding.pop(worker, None))

    async def _feed(self, worker: Worker) -> None:
        while not worker.is_lost:
            self._grown.clear()
            waited = [key for key, first in self._firsts.items() if not first.done()]
            again = [(of, rev) for of, rev in waited if worker.revs.get(of, 0) >= rev]
            behind = [one for one in self._revs if worker.revs.get(one, 0) < self._revs[one]]
            if worker.is_silent or not (again or behind):
                await _within(RETRY_SECONDS, self._grown.wait())
                continue
            try:
                for canister, rev in again:
                    await self._answer_again(worker, canister, rev)
                for canister in behind:
                    await self._feed_canister(worker, canister)
            except WorkerLost:
                await asyncio.sleep(RETRY_SECONDS)
            except (CanisterError, Trap) as error:
                log.error("a worker cannot follow the control log", worker=worker.id, reason=str(error))
                await asyncio.sleep(RETRY_SECONDS)
            except Exception:
                log.exception("a worker cannot follow the control log", worker=worker.id)
                await asyncio.sleep(RETRY_SECONDS)

    async def _feed_canister(self, worker: Worker, canister: str) -> None:
        for entry in await self._since(canister, worker.revs.get(canister, 0)):
            try:
                done = await self._told(worker, entry)
            except WorkerConflict as error:
                if error.conflict.why != "rev":
                    raise WorkerRefused(f"worker {worker.id} does not take the control log: {error}") from None
                worker.revs[canister] = error.conflict.rev
                return
            worker.revs[canister] = entry.rev
            first = self._firsts.get((canister, entry.rev))
            if first is not None and not first.done():
                first.set_result(done)
            worker.changed()

    async def _answer_again(self, worker: Worker, canister: str, rev: int) -> None:
        """Somebody waits for the first answer to an entry that the worker has run before."""
        entry = (await self._journal.control_since(canister, rev - 1, 1))[0]
        outcome: Done | Conflict
        try:
            outcome = await self._told(worker, entry)
        except WorkerConflict as error:
            outcome = Conflict(f"the call was run, and its answer is forgotten: {error}")
        first = self._firsts.get((canister, rev))
        if first is None or first.done():
            return
        if isinstance(outcome, Done):
            first.set_result(outcome)
        else:
            first.set_exception(outcome)

    async def _told(self, worker: Worker, entry: ControlEntry) -> Done:
        told = (entry.caller, entry.method, await self._arg(entry), entry.now_ns)
        return await worker.client.control(Control(entry.rev, self._epoch, entry.canister, *told))

    async def _since(self, canister: str, rev: int) -> Sequence[ControlEntry]:
        kept = self._at_hand.get(canister, {})
        last = self._revs[canister]
        if all(number in kept for number in range(rev + 1, last + 1)):
            return [kept[number] for number in range(rev + 1, last + 1)]
        return await self._journal.control_since(canister, rev)

    async def _arg(self, entry: ControlEntry) -> bytes:
        if entry.arg is not None:
            return entry.arg
        assert entry.object is not None
        return await blobs.get(self._objects, entry.object.hex(), MAX_ARG_BYTES)


async def _within(seconds: float, work: Coroutine[None, None, object]) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(work, seconds)
