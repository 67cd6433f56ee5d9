"""A running herd: mirror, journal, leader and workers, from their start to their end.

started: the mirror's host → `running`: journal, lead, control log, jobs of the leader before, workers → stopped
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from canister.api import codec
from canister.api.management import find_row
from canister.config import Settings
from canister.dispatch import timers
from canister.errors import CanisterError, CanisterTrapped, CanisterUnavailable, MethodNotFound
from canister.herd import inference, replies
from canister.herd.asked_answers import KEPT_METHOD
from canister.herd.autoscale import Autoscaler, ScalePolicy
from canister.herd.balance import TRACK, Balance
from canister.herd.cleaning import Cleaning
from canister.herd.control import ControlLog
from canister.herd.jobs import Job
from canister.herd.journal.journal import Journal
from canister.herd.known_chats import KnownChats
from canister.herd.launch.launcher import Launcher, WorkerSpec
from canister.herd.leader import Leader
from canister.herd.losses import EVER
from canister.herd.messages import Messages
from canister.herd.metrics import CountedObjects, HerdMetrics
from canister.herd.mirror import Mirror
from canister.herd.objects.opening import open_objects
from canister.herd.publishing import Publishing
from canister.herd.readings import Readings
from canister.herd.restarts import Restarts
from canister.herd.routing import class_of
from canister.herd.row_store import RowStore
from canister.herd.scaling import Scaling
from canister.herd.settings import OF_THE_DOOR, HerdSettings, secret_in, worker_options
from canister.herd.shared_keys import SharedKeys
from canister.herd.stored_transfers import StoredTransfers
from canister.herd.ways import Speeds
from canister.herd.workers import Workers
from canister.telemetry.logs import get_logger

if TYPE_CHECKING:
    from canister.api.herd_wire import Done, ModelState
    from canister.api.methods import Method
    from canister.herd.journal.records import JobRow
    from canister.runtime.host import Host

RENEW_SECONDS = 2.0
PURGE_SECONDS = 60.0
CYCLES = "canister_cycle_balance"
MIRROR = "mirror"  # stands for a worker, where the journal asks which one ran a call

log = get_logger(__name__)


class Herd:
    """Made by `running`."""

    def __init__(
        self,
        host: Host,
        journal: Journal,
        leader: Leader,
        workers: Workers,
        control: ControlLog,
        settings: HerdSettings,
        balance: Balance,
    ) -> None:
        self.host = host
        self.journal = journal
        self.leader = leader
        self.workers = workers
        self.control = control
        self.settings = settings
        self.mirror = Mirror(host)
        self.messages = Messages()
        self.readings = Readings(journal, lambda: host.root_key)
        self.balance = balance
        self.inference = inference.Inference(leader, control, settings, balance)
        self.store: RowStore | None = None
        self.metrics: HerdMetrics | None = None
        self.restarts: Restarts | None = None
        self.publishing: Publishing | None = None
        self.left_answers: list[JobRow] = []  # in the background, of the leader before

    async def run_control(self, job: Job, accepted: Callable[[], None]) -> Done:
        """Run an update of what all workers have."""
        return await self.run_here(job, accepted, lambda: self.control.run(job))

    async def run_reading(self, job: Job, accepted: Callable[[], None]) -> Done:
        """Answer a question to the journal that is a job, since its answer may be asked for later."""

        async def read() -> Done:
            arg = codec.decode_args(job.method, job.arg)
            canister = self.mirror.canister(job.canister)
            return replies.of_reply(job.method, await self.readings.read(canister, job.method, job.caller, arg, {}))

        return await self.run_here(job, accepted, read)

    async def run_here(self, job: Job, accepted: Callable[[], None], work: Callable[[], Awaitable[Done]]) -> Done:
        """Run a job in this process, and end it in the journal. accepted: called once it is kept, as far as it is."""
        self.leader.check_leads()
        if job.accepted:
            known = await self.journal.accept(job.as_new(), epoch=self.leader.epoch)
            if known.job.answer is not None:
                return replies.of_answer(known.job.answer)
        elif job.is_kept and (row := await self.journal.find(job.id)) is not None and row.answer is not None:
            job.check_same(row)
            return replies.of_answer(row.answer)
        accepted()
        job.fence = self.leader.tries.next_fence()
        if job.accepted:
            await self.journal.assign(job.id, MIRROR, job.fence, self.leader.epoch)
        started_ns = time.time_ns()
        done = await work()
        return await self.leader.tries.settle(job, MIRROR, done, started_ns) or done

    async def take_up(self) -> None:
        """Go on with the jobs of the leader before."""
        for row in await self.journal.waiting():
            if row.method == inference.METHOD:
                await self._requeue(row)
                self.leader.spawn(self.inference.go_on(_job_of(row, inference.ROW)), f"inference {row.id.hex()[:16]}")
                continue
            if row.method == KEPT_METHOD:
                self.left_answers.append(row)
                continue
            try:
                job = _job_of(row, find_row(row.method))
            except MethodNotFound as error:
                await self.journal.refuse(row.id, self.leader.epoch, replies.to_answer(replies.of_trap(error)))
                continue
            job.rev = self.control.rev(job.canister)
            if class_of(job.method) in ("control", "model", "journal"):
                self.leader.spawn(self._again(row, job), f"again {row.id.hex()[:16]}")
            else:
                await self.leader.take_up(row, job)

    async def _again(self, row: JobRow, job: Job) -> None:
        await self._requeue(row)
        run = self.run_reading if class_of(job.method) == "journal" else self.run_control
        try:
            await run(job, lambda: None)
        except CanisterError as error:  # nobody is there to hear it, and it would never end
            told = CanisterTrapped(f"the call was lost with the process that led this herd before: {error}")
            await self.journal.refuse(row.id, self.leader.epoch, replies.to_answer(replies.of_trap(told)))

    async def _requeue(self, row: JobRow) -> None:
        if row.state == "running":
            await self.journal.requeue(row.id, row.fence, self.leader.epoch, EVER)

    # -- what is known

    def model_of(self, canister: str) -> ModelState | None:
        """The model that a worker has loaded."""
        found = (worker.canister(canister) for worker in self.workers.all if not worker.is_gone)
        return next((one.model for one in found if one is not None and one.model is not None), None)

    def not_ready(self) -> dict[str, str]:
        """By name, why canisters have no worker that could run a call."""
        waiting = {}
        for canister in self.host.canisters:
            if not any(worker.may_run(canister.id, 0) for worker in self.workers.all):
                phases = ", ".join(f"{worker.id} is {worker.phase}" for worker in self.workers.all)
                waiting[canister.name] = f"no worker is ready: {phases or 'none was started'}"
        return waiting

    def observed(self, name: str) -> dict[str, float]:
        """Metrics of a canister, in place of the mirror's."""
        id = self.host.find(name).id
        jobs = [job for job in self.leader.jobs() if job.canister == id]
        n_running = sum(job.worker is not None for job in jobs)
        return {
            "canister_ready": float(name not in self.not_ready()),
            "canister_calls_running": n_running,
            "canister_calls_waiting": len(jobs) - n_running,
            **({} if self.metrics is None or id not in self.metrics.cycles else {CYCLES: self.metrics.cycles[id]}),
        }

    def calls_of(self, canister: str) -> dict[str, object]:
        """The calls that run and wait, for controllers."""
        now_ns = time.time_ns()
        running: list[dict[str, object]] = []
        waiting: dict[str, int] = {}
        for job in self.leader.jobs():
            if job.canister != canister:
                continue
            if job.worker is None:
                waiting[job.caller] = waiting.get(job.caller, 0) + 1
                continue
            seconds = round((now_ns - job.now_ns) / 1e9, 3)
            told = {"caller": job.caller, "method": job.method.name, "seconds": seconds}
            running.append({**told, "phase": f"at worker {job.worker}"})
        return {"running": running, "waiting": [{"caller": who, "calls": n} for who, n in waiting.items()]}


@dataclass(frozen=True, slots=True)
class Lead:
    """The lead of a herd. It ends with its journal."""

    journal: Journal
    epoch: int


def holder() -> str:
    """This process, for people."""
    return f"{socket.gethostname()} process {os.getpid()}"


@asynccontextmanager
async def running(
    host: Host,
    settings: Settings,
    herd: HerdSettings,
    launcher: Launcher,
    lead: Lead,
    *,
    deposed: Callable[[], None],
) -> AsyncIterator[Herd]:
    """The herd that this process leads, behind a started host. deposed: called when another process leads."""
    async with AsyncExitStack() as held:
        journal, epoch = lead.journal, lead.epoch
        held.push_async_callback(journal.close)
        objects = CountedObjects(await open_objects(herd.objects_place(host.data_dir)))
        held.push_async_callback(objects.close)
        for canister in host.canisters:
            await journal.found(canister.id)
            canister.settings = canister.settings.model_copy(update={OF_THE_DOOR: TRACK})

        workers = Workers(launcher, secret_in(host.data_dir))
        held.push_async_callback(workers.close)
        chats = KnownChats(journal)
        speeds = Speeds()
        store = RowStore(objects, journal, chats, workers.get, speeds)
        if herd.stores_rows:
            chats.told = store.changed
        transfers = StoredTransfers(journal, workers.get, store, speeds)
        leader = Leader(journal, workers, transfers, chats, epoch, herd.limits, deposed=deposed)
        held.push_async_callback(leader.close)
        control = ControlLog(journal, Mirror(host), objects, epoch)
        held.push_async_callback(control.close)
        await control.load([canister.id for canister in host.canisters])
        workers.changed, workers.fed = leader.changed, control.fed

        running = Herd(host, journal, leader, workers, control, herd, Balance(journal, settings.every_canister))
        running.store = store
        held.push_async_callback(running.messages.close)
        leader.begin()
        keys = SharedKeys(journal, host.data_dir, host.keys, epoch)
        await keys.begin()
        leader.spawn(_renew(journal, epoch, keys, deposed), "lead")
        leader.spawn(_purge(journal, settings.every_canister.keep_receipts), "purge")
        metrics = running.metrics = HerdMetrics(leader, workers, transfers, objects)
        leader.spawn(metrics.watch(journal, [canister.id for canister in host.canisters]), "metrics")
        cleaning = Cleaning(journal, leader.chats, leader.is_busy, epoch)
        for canister in host.canisters:
            canister.herd.clean_up = functools.partial(cleaning.run, canister.id)
        leader.spawn(timers.beat(host, timers.OF_CACHES), "timers")
        leader.spawn(store.run(), "rows of chats")
        running.publishing = Publishing(objects, leader.chats, workers)
        leader.spawn(running.publishing.run(), "published prompt caches")
        await running.take_up()
        workers.begin()
        options = worker_options(settings, sorted(_controllers(host)), herd)

        def spec(id: str) -> WorkerSpec:
            return WorkerSpec(id, secret_in(host.data_dir), options, herd.needs)

        running.restarts = Restarts(workers, store, spec)
        if herd.scales:
            workers.leaves = store.drain
            scaler = Autoscaler(ScalePolicy(herd.workers, herd.most_workers or herd.workers))
            leader.spawn(Scaling(workers, leader, store, spec, scaler).run(), "scaling")
        else:
            for number in range(1, herd.workers + 1):
                await workers.start(spec(f"w{number}"))
        log.info("leading", epoch=epoch, workers=herd.workers, journal=herd.journal_url(host.data_dir).split("@")[-1])
        yield running


def _controllers(host: Host) -> set[str]:
    return {host.identity.principal, *host.settings.controller}


async def _renew(journal: Journal, epoch: int, keys: SharedKeys, deposed: Callable[[], None]) -> None:
    """Notice when another process leads, and let it have the API keys that were made meanwhile."""
    while True:
        await asyncio.sleep(RENEW_SECONDS)
        try:
            if not await journal.renew(epoch):
                deposed()
                return
            await keys.give()
        except CanisterUnavailable as error:
            log.warning("the journal does not answer", reason=str(error))


async def _purge(journal: Journal, keep_receipts: int) -> None:
    while True:
        await asyncio.sleep(PURGE_SECONDS)
        with contextlib.suppress(CanisterUnavailable):
            await journal.purge(time.time_ns(), keep_receipts)


def _job_of(row: JobRow, method: Method) -> Job:
    return Job(
        id=row.id,
        canister=row.canister,
        caller=row.caller,
        method=method,
        arg=row.arg,
        chats=row.chats,
        now_ns=row.made_ns,
        settles=True,
        accepted=True,
        goes_on=True,
        multiplier=row.multiplier,
        hold=row.hold,
        payer=row.payer,
        due_ns=row.due_ns,
        kept_until_ns=row.kept_until_ns,
    )
