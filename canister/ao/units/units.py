"""What doors use: messages in, results out, on one event loop. Cages, SQL and models block, and run on threads."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol, TypeVar

from canister.ao.journal import messages, money, processes
from canister.ao.journal.connection import Connection
from canister.ao.journal.processes import Used
from canister.ao.lua.cage import LogDamaged, Nursery
from canister.ao.lua.sandbox import Limits
from canister.ao.lua.values import BadValue, Value
from canister.ao.native import worker
from canister.ao.processes.messages import (
    Delivered,
    Done,
    Incoming,
    Page,
    Place,
    ProcessInfo,
    Result,
    client_tags,
    derived_id,
    tag_of,
    tags_of,
)
from canister.ao.processes.models import Models
from canister.ao.processes.program import WORLD, Program, package_reader
from canister.ao.processes.talk import Kept, Talk
from canister.ao.units.herd import TOKEN, prepare
from canister.ao.units.residents import Residents
from canister.ao.units.settling import MAX_WAITING, AlreadySettled, Ran, make, native_result, run_native, settle
from canister.ao.units.timers import interval_ms, send_due
from canister.errors import AccessDenied, BadRequest, Busy, CanisterError, CanisterStopping, NotFound, Trap
from canister.store.database import Database
from canister.system.data_dir import AO_DATABASE

AT_ONCE = 16  # messages of a program that become durable together, if they are quick
SOON_SECONDS = 0.02
MANY_SENT = 50  # so that no transaction is in the way of others for long
AGAIN_SECONDS = 1.0  # until a message is tried again that could not be run just now

T = TypeVar("T")
_log = logging.getLogger(__name__)


class Items(Protocol):
    """What is stored for ever, and named by a message."""

    async def get(self, id: str) -> Incoming | None: ...


@dataclass(frozen=True, slots=True)
class Settings:
    """folder: of `ao.db`. node: the address of this node's wallet. packages: the operator's. model: of native workers.

    has_herd: whether there is a token with a herder and n_workers workers.
    """

    folder: Path
    node: str
    models: Models | None = None
    items: Items | None = None
    packages: Path | None = None
    n_cages: int = 16
    n_workers: int = 2
    model: str = ""
    has_herd: bool = True
    limits: Limits = field(default_factory=Limits)


class Units:
    """Made by `open`. Every method is for the event loop that it was opened on."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._database = Database(settings.folder / AO_DATABASE, "ao")
        self._nursery = Nursery(WORLD)
        self._programs = Residents(settings.n_cages, self._program)
        self._packages = package_reader(settings.packages)
        self._talks: dict[str, Talk] = {}  # of native workers
        self._cages = asyncio.Semaphore(settings.n_cages)
        self._running = ThreadPoolExecutor(settings.n_cages + max(settings.n_workers, 1), "ao program")
        self._reading = ThreadPoolExecutor(4, "ao reader")
        self._drivers: dict[str, asyncio.Task[None]] = {}
        self._again: set[str] = set()
        self._locks: dict[str, asyncio.Lock] = {}
        self._news: dict[str, asyncio.Event] = {}
        self._clock: asyncio.Task[None] | None = None
        self._clock_news = asyncio.Event()
        self._is_closing = False

    @classmethod
    async def open(cls, settings: Settings) -> Units:
        """Goes on with whatever waited. Raises StoreDamaged, Conflict, StorageFull, Busy, as a database does."""
        units = cls(settings)
        await asyncio.to_thread(units._database.open)
        if settings.has_herd:
            about = (settings.node, settings.n_workers, settings.model)
            await units._write(lambda connection: prepare(connection, *about, _now_ms()))
        for process in await units._read(processes.waiting):
            units._wake(process)
        units._clock = asyncio.create_task(units._watch())
        return units

    async def aclose(self) -> None:
        """What is being run is given up, and run again after the next start."""
        self._is_closing = True
        tasks = [*self._drivers.values(), *([self._clock] if self._clock else [])]
        for task in tasks:
            task.cancel()
        if self._settings.models is not None:
            self._settings.models.close()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.to_thread(self._nursery.close)
        await asyncio.to_thread(self._running.shutdown)
        await asyncio.to_thread(self._programs.stop)
        await asyncio.to_thread(self._nursery.close)  # which a program may have started again
        await asyncio.to_thread(self._reading.shutdown)
        await asyncio.to_thread(self._database.close)

    @property
    def node(self) -> str:
        return self._settings.node

    @property
    def n_running(self) -> int:
        """Programs that have a process of the system just now."""
        return self._programs.n_running

    # -- messages in

    async def send(self, message: Incoming) -> Place:
        """A verified message to its process. The same one again gets the same place, and is run once.

        Raises NotFound: no such process; Busy.
        """
        cleaned = replace(message, tags=client_tags(message.tags))
        return await self._post(message.target, cleaned, message.owner)

    async def spawn(self, message: Incoming) -> Place:
        """A process, whose id is the message's; it is made in slot 0."""
        cleaned = replace(message, tags=client_tags(message.tags))

        def put(connection: Connection) -> Place:
            place = make(connection, cleaned, message.owner, _now_ms())
            return place or Place(message.id, 0, message.id)

        place = await self._write(put)
        self._wake(place.process)
        return place

    async def assign(self, process: str, message: str) -> Place:
        """A message that is known here to another process too. Raises NotFound."""
        found = await self.message(message)
        if found is None and self._settings.items is not None:
            found = await self._settings.items.get(message)
        if found is None:
            raise NotFound(f"there is no message {message}")
        return await self._post(process, found, found.owner)

    async def monitor(self, process: str, is_on: bool, caller: str) -> None:
        """Its timer, by its tag Cron-Interval. Raises NotFound, BadRequest, AccessDenied."""
        info = await self.info(process)
        if caller not in (info.owner, self.node):
            raise AccessDenied(f"only the owner of {process} turns its timer on and off")
        every_ms = interval_ms(info.tag("Cron-Interval")) if is_on else None
        due_ms = None if every_ms is None else _now_ms() + every_ms
        await self._write(lambda connection: processes.set_timer(connection, process, every_ms, due_ms))
        self._clock_news.set()

    async def mint(self, account: str, amount: int) -> None:
        """Units of the token, for an account. Raises BadRequest, NotFound: there is no token."""
        tags = tags_of(Action="Mint", Recipient=account, Quantity=amount)
        if amount <= 0:
            raise BadRequest(f"{amount} units cannot be made; a whole number above nothing can")
        id = derived_id("mint", account, amount, time.time_ns())
        place = await self._post(TOKEN, Incoming(id, self.node, TOKEN, b"", tags), self.node)
        done = await self.result(place.process, place.slot, wait_seconds=600)
        if done is not None and any(tag_of(each.tags, "Action") == "Mint-Error" for each in done.result.messages):
            raise BadRequest(f"the token makes no {amount} units for {account[:80]!r}")

    # -- what came of them

    async def result(self, process: str, which: int | str, wait_seconds: float = 0) -> Done | None:
        """Of a slot, or of a message by its id; None while it waits. Raises NotFound."""
        deadline = time.monotonic() + wait_seconds
        while True:
            news = self._news.setdefault(process, asyncio.Event())
            found = await self._read(lambda connection: messages.known(connection, process, which))
            if found is None:
                raise NotFound(f"process {process} has no message {which}")
            left = deadline - time.monotonic()
            if found[1] is not None or left <= 0:
                return found[1]
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(news.wait(), left)

    async def results(
        self,
        process: str,
        *,
        after: int | None = None,
        before: int | None = None,
        newest_first: bool = False,
        limit: int = 25,
    ) -> Page:
        """Of a process, in order of slots. after, before: slots in that order, neither of which is part."""
        await self.info(process)
        return await self._read(lambda each: messages.page(each, process, after, before, newest_first, limit))

    async def current_slot(self, process: str) -> int:
        return (await self.info(process)).n_slots - 1

    async def info(self, process: str) -> ProcessInfo:
        found = await self._read(lambda connection: processes.find(connection, process))
        if found is None:
            raise NotFound(f"there is no process {process[:80]}")
        return found

    async def used(self, process: str) -> Used:
        """What the model of a process has cost."""
        await self.info(process)
        return await self._read(lambda connection: processes.used(connection, process))

    async def message(self, id: str) -> Incoming | None:
        """That a process got, whoever sent it."""
        return await self._read(lambda connection: messages.find(connection, id))

    async def published(self, process: str, path: Sequence[str]) -> Value:
        """What a process publishes, at a path: names in any case, places of lists from 1. Raises NotFound."""
        await self.info(process)
        found: Value = await self._read(lambda connection: processes.published(connection, process))
        for name in path:
            found = _at(found, name)
            if found is None:
                raise NotFound(f"process {process} publishes nothing at {'/'.join(path)[:200]}")
        return found

    async def balance(self, account: str) -> int:
        return await self._read(lambda connection: money.Ledger(connection, TOKEN).balance(account))

    async def dry_run(self, process: str, message: Incoming) -> Result:
        """What would come of a message, which changes nothing and gets no model."""
        info = await self.info(process)
        place = Place(process, info.n_slots, message.id)
        cleaned = replace(message, target=message.target or process, tags=client_tags(message.tags))
        delivered = Delivered(place, cleaned, message.owner, _now_ms())
        if info.kind == "worker":
            return Result()
        if info.kind != "lua":
            return await self._write_undone(lambda each: native_result(each, self.node, info, delivered).result)
        async with self._lock(process), self._cages:
            return await self._on(self._running, lambda: self._handled(info, delivered, None, dry=True).result)

    # -- running

    def _wake(self, process: str) -> None:
        if self._is_closing:
            return
        if process in self._drivers:
            self._again.add(process)
        else:
            self._drivers[process] = asyncio.create_task(self._drive(process))

    async def _drive(self, process: str) -> None:
        """Run what waits, one after the other."""
        try:
            while True:
                self._again.discard(process)
                while not self._is_closing and await self._ran_one(process):
                    pass
                if self._is_closing or process not in self._again:
                    return
        finally:
            del self._drivers[process]

    async def _ran_one(self, process: str) -> bool:
        """The next message. False: there is none."""
        try:
            info, waiting = await self._read(lambda connection: _next(connection, process))
            if info.kind in ("token", "herder"):
                woken = await self._write(lambda each: run_native(each, self.node, process, _now_ms()))
                self._tell(process, woken - {process})
                if info.kind == "herder":
                    self._clock_news.set()
                return process in woken
            if not waiting:
                return False
            await self._settled(info, await self._run(info, waiting))
        except AlreadySettled:
            pass  # and forgotten
        except (CanisterError, Trap) as error:
            _log.warning("process %s waits: %s", process, error)
            await asyncio.sleep(AGAIN_SECONDS)
        return True

    async def _run(self, info: ProcessInfo, waiting: Sequence[Delivered]) -> list[tuple[Delivered, Ran]]:
        """Some of the messages, at least the first."""
        first = waiting[0]
        try:
            if info.kind == "worker":
                return [(first, await self._on(self._running, lambda: self._worked(info, first)))]
            boot = await self._boot(first) if first.place.slot == 0 else None
            async with self._lock(info.id), self._cages:
                return await self._on(self._running, lambda: self._handled_some(info, waiting, boot))
        except (LogDamaged, BadValue) as error:
            _log.error("process %s cannot go on: %s", info.id, error)
            return [(first, Ran(Result(error=f"the process cannot go on: {error}")))]
        except (CanisterError, Trap):
            raise
        except Exception:  # the message is over, or it would be in the way of all others for ever
            _log.exception("a message of process %s", info.id)
            return [(first, Ran(Result(error="the node has failed to run this message; its log tells why")))]

    async def _settled(self, info: ProcessInfo, ran: Sequence[tuple[Delivered, Ran]]) -> None:
        def settled(connection: Connection) -> set[str]:
            now_ms = _now_ms()
            return set().union(*(settle(connection, self.node, info, *each, now_ms) for each in ran))

        try:
            woken = await self._write(settled)
        except Exception:
            if info.kind == "lua":  # it is ahead of the journal
                await self._on(self._reading, lambda: self._programs.forget(info.id))
            self._talks.pop(info.id, None)
            raise
        self._tell(info.id, woken)

    def _tell(self, process: str, woken: set[str]) -> None:
        news = self._news.pop(process, None)
        if news is not None:
            news.set()
        for each in woken:
            self._wake(each)

    async def _boot(self, delivered: Delivered) -> bytes | None:
        """The code that a process begins with."""
        named = delivered.message.tag("On-Boot")
        if named is None:
            return None
        if named.lower() == "data":
            return delivered.message.data
        found = None if self._settings.items is None else await self._settings.items.get(named)
        if found is None:
            shown = re.sub(r"[^A-Za-z0-9_-]", "", named)[:80]
            return f"error('On-Boot names {shown}, which is not stored here', 0)".encode()
        return found.data

    # -- on threads

    def _program(self, info: ProcessInfo) -> Program:
        with self._database.read() as connection:
            log, kept = processes.log(connection, info.id), processes.kept(connection, info.id)
        talk = Talk(info.id, self._settings.models, Kept() if kept is None else Kept.unpack(kept))
        return Program(self._nursery, info, self.node, talk, self._packages, log)

    def _handled_some(
        self, info: ProcessInfo, waiting: Sequence[Delivered], boot: bytes | None
    ) -> list[tuple[Delivered, Ran]]:
        """As many as are done soon: they become durable together. One that fails is the first of the next."""
        done: list[tuple[Delivered, Ran]] = []
        until, n_sent = time.monotonic() + SOON_SECONDS, 0
        for delivered in waiting:
            try:
                done.append((delivered, self._handled(info, delivered, boot, dry=False)))
            except Exception:
                if not done:
                    raise
                return done
            n_sent += len(done[-1][1].result.messages) + len(done[-1][1].result.spawns)
            if boot is not None or n_sent > MANY_SENT or time.monotonic() > until:
                return done
        return done

    def _handled(self, info: ProcessInfo, delivered: Delivered, boot: bytes | None, *, dry: bool) -> Ran:
        with self._programs.used(info) as program:
            n_log, kept = len(program.log), program.talk.kept
            result = program.handle(delivered, self._settings.limits, boot, dry=dry)
            talk = program.talk
            changed = talk.kept.pack() if talk.kept != kept or talk.instructions else None
            return Ran(result, tuple(program.log[n_log:]), changed, Used(talk.instructions, talk.cycles))

    def _worked(self, info: ProcessInfo, delivered: Delivered) -> Ran:
        talk = self._talks.get(info.id)
        if talk is None:
            with self._database.read() as connection:
                kept = processes.kept(connection, info.id)
            talk = Talk(info.id, self._settings.models, Kept() if kept is None else Kept.unpack(kept))
            self._talks[info.id] = talk
        result = worker.handle(talk, info, delivered, self.node)
        return Ran(result, (), talk.kept.pack(), Used(talk.instructions, talk.cycles))

    # -- timers

    async def _watch(self) -> None:
        while True:
            self._clock_news.clear()
            try:
                due_ms, woken = await self._write(lambda each: send_due(each, self.node, _now_ms()))
            except CanisterError as error:
                _log.warning("timers wait: %s", error)
                due_ms, woken = _now_ms() + int(AGAIN_SECONDS * 1000), set[str]()
            for process in woken:
                self._wake(process)
            wait = None if due_ms is None else max(due_ms - _now_ms(), 10) / 1000
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._clock_news.wait(), wait)

    # -- small things

    def _lock(self, process: str) -> asyncio.Lock:
        return self._locks.setdefault(process, asyncio.Lock())

    async def _post(self, process: str, message: Incoming, sender: str) -> Place:
        def put(connection: Connection) -> Place:
            if processes.find(connection, process) is None:
                raise NotFound(f"there is no process {process[:80]}")
            if (known := messages.at(connection, process, message.id)) is not None:
                return known
            if processes.backlog(connection, process) >= MAX_WAITING:
                raise Busy(f"{MAX_WAITING} messages wait for process {process}; try again later")
            place = messages.deliver(connection, process, message, sender, _now_ms())
            assert place is not None
            return place

        place = await self._write(put)
        self._wake(process)
        return place

    async def _on(self, threads: ThreadPoolExecutor, work: Callable[[], T]) -> T:
        if self._is_closing:
            raise CanisterStopping("the units of AO are being stopped")
        return await asyncio.get_running_loop().run_in_executor(threads, work)

    async def _read(self, work: Callable[[Connection], T]) -> T:
        def read() -> T:
            with self._database.read() as connection:
                return work(connection)

        return await self._on(self._reading, read)

    async def _write(self, work: Callable[[Connection], T]) -> T:
        return await asyncio.wrap_future(self._database.submit(work))

    async def _write_undone(self, work: Callable[[Connection], Result]) -> Result:
        def undone(connection: Connection) -> None:
            raise _Undone(work(connection))

        try:
            await self._write(undone)
        except _Undone as found:
            return found.result
        raise AssertionError("a dry run was not undone")


class _Undone(Exception):
    def __init__(self, result: Result) -> None:
        super().__init__()
        self.result = result


def _next(connection: Connection, process: str) -> tuple[ProcessInfo, list[Delivered]]:
    """What a process has to do."""
    info = processes.find(connection, process)
    if info is None:
        raise NotFound(f"there is no process {process[:80]}")
    is_native = info.kind in ("token", "herder")
    return info, [] if is_native else messages.waiting(connection, process, AT_ONCE)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _at(value: Value, name: str) -> Value:
    if isinstance(value, Mapping):
        exact = value.get(name.encode())
        if exact is None and name.isdigit():
            exact = value.get(int(name))
        if exact is not None:
            return exact
        wanted = name.lower().encode()
        return next((each for key, each in value.items() if isinstance(key, bytes) and key.lower() == wanted), None)
    if isinstance(value, Sequence) and not isinstance(value, bytes) and name.isdigit() and 1 <= int(name) <= len(value):
        return value[int(name) - 1]
    return None
