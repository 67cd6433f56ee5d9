"""What runs the messages that wait: one driver a process, on threads, and what comes of each goes to the journal."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from weakref import WeakValueDictionary

from canister.ao.journal import messages, processes
from canister.ao.journal.connection import Connection
from canister.ao.journal.processes import Used
from canister.ao.lua.calls import Entry, LogDamaged
from canister.ao.lua.keeper import Nursery
from canister.ao.lua.values import BadValue
from canister.ao.native import worker
from canister.ao.processes.messages import Delivered, ProcessInfo, Result
from canister.ao.processes.program import WORLD, History, Program, package_reader
from canister.ao.processes.talk import Kept, Talk
from canister.ao.units.access import Journal
from canister.ao.units.residents import Residents
from canister.ao.units.settings import Settings
from canister.ao.units.settling import AlreadySettled, Ran, run_native, settle
from canister.errors import CanisterError, NotFound, Trap

AT_ONCE = 16  # messages of a program that become durable together, if they are quick
SOON_SECONDS = 0.02
MANY_SENT = 50  # so that no transaction is in the way of others for long
AGAIN_SECONDS = 1.0  # until a message is tried again that could not be run just now

_log = logging.getLogger(__name__)


class Runner:
    """tell: who waits for news of a process is told. moved: after each message of a herder, whose leases may be new."""

    def __init__(
        self, settings: Settings, journal: Journal, tell: Callable[[str], None], moved: Callable[[], None]
    ) -> None:
        self._settings, self._journal = settings, journal
        self._tell_who_waits, self._moved = tell, moved
        self._nursery = Nursery(WORLD)
        self._programs = Residents(settings.n_cages, self._program)
        self._packages = package_reader(settings.packages)
        self._talks: dict[str, Talk] = {}  # of native workers
        self._cages = asyncio.Semaphore(settings.n_cages)
        self._threads = ThreadPoolExecutor(settings.n_cages + max(settings.n_workers, 1), "ao program")
        self._drivers: dict[str, asyncio.Task[None]] = {}
        self._again: set[str] = set()
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self.halted: dict[str, str] = {}  # processes whose logs do not give their states here, and why

    @property
    def n_running(self) -> int:
        """Programs that have a process of the system just now."""
        return self._programs.n_running

    def wake(self, process: str) -> None:
        """It has something to do."""
        if self._journal.is_closing or process in self.halted:
            return
        if process in self._drivers:
            self._again.add(process)
        else:
            self._drivers[process] = asyncio.create_task(self._drive(process))

    async def dry_run(self, info: ProcessInfo, delivered: Delivered) -> Result:
        """What a program would make of a message."""
        self.check(info.id)
        async with self._lock(info.id), self._cages:
            try:
                return await self._journal.on(
                    self._threads, lambda: self._handled(info, delivered, None, dry=True).result
                )
            except LogDamaged as error:
                self._halt(info.id, error)
                raise

    def check(self, process: str) -> None:
        """Raises LogDamaged for one whose messages wait until its state can be had."""
        if process in self.halted:
            raise LogDamaged(self.halted[process])

    def _halt(self, process: str, error: LogDamaged) -> None:
        _log.error("process %s waits, and nothing of it is lost: %s", process, error)
        self.halted[process] = str(error)
        self._tell_who_waits(process)

    async def stop(self) -> None:
        """After the journal is told that it closes. What is being run is given up."""
        drivers = list(self._drivers.values())
        for driver in drivers:
            driver.cancel()
        if self._settings.models is not None:
            self._settings.models.close()
        await asyncio.gather(*drivers, return_exceptions=True)
        await asyncio.to_thread(self._nursery.close)
        await asyncio.to_thread(self._threads.shutdown)
        await asyncio.to_thread(self._programs.stop)
        await asyncio.to_thread(self._nursery.close)  # which a program may have started again

    # -- one process

    async def _drive(self, process: str) -> None:
        """Run what waits, one after the other."""
        try:
            while True:
                self._again.discard(process)
                while not self._journal.is_closing and await self._ran_one(process):
                    pass
                if self._journal.is_closing or process not in self._again:
                    return
        finally:
            del self._drivers[process]

    async def _ran_one(self, process: str) -> bool:
        """The next message. False: there is none."""
        settings = self._settings
        try:
            info, waiting = await self._journal.read(lambda connection: _next(connection, process))
            if info.kind in ("token", "herder"):
                woken = await self._journal.write(
                    lambda each: run_native(each, settings.node, process, now_ms(), settings.lease_ms)
                )
                self._tell(process, woken - {process})
                if info.kind == "herder":
                    self._moved()
                return process in woken
            if not waiting:
                return False
            await self._settled(info, await self._run(info, waiting))
        except AlreadySettled:
            pass  # and forgotten
        except LogDamaged as error:
            self._halt(process, error)
            return False
        except (CanisterError, Trap) as error:
            _log.warning("process %s waits: %s", process, error)
            await asyncio.sleep(AGAIN_SECONDS)
        return True

    async def _run(self, info: ProcessInfo, waiting: Sequence[Delivered]) -> list[tuple[Delivered, Ran]]:
        """Some of the messages, at least the first."""
        first = waiting[0]
        try:
            if info.kind == "worker":
                return [(first, await self._journal.on(self._threads, lambda: self._worked(info, first)))]
            boot = await self._boot(first) if first.place.slot == 0 else None
            async with self._lock(info.id), self._cages:
                return await self._journal.on(self._threads, lambda: self._handled_some(info, waiting, boot))
        except BadValue as error:
            _log.error("process %s cannot go on: %s", info.id, error)
            return [(first, Ran(Result(error=f"the process cannot go on: {error}")))]
        except (CanisterError, Trap):
            raise
        except Exception:  # the message is over, or it would be in the way of all others for ever
            _log.exception("a message of process %s", info.id)
            return [(first, Ran(Result(error="the node has failed to run this message; its log tells why")))]

    async def _settled(self, info: ProcessInfo, ran: Sequence[tuple[Delivered, Ran]]) -> None:
        def settled(connection: Connection) -> set[str]:
            now, node, has_room = now_ms(), self._settings.node, self._journal.has_room(self._settings.most_bytes)
            return set().union(*(settle(connection, node, info, *each, now, has_room=has_room) for each in ran))

        try:
            woken = await self._journal.write(settled)
        except Exception:
            if info.kind == "lua":  # it is ahead of the journal
                await asyncio.to_thread(self._programs.forget, info.id)
            self._talks.pop(info.id, None)
            raise
        self._tell(info.id, woken)

    def _tell(self, process: str, woken: set[str]) -> None:
        self._tell_who_waits(process)
        for each in woken:
            self.wake(each)

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

    def _lock(self, process: str) -> asyncio.Lock:
        return self._locks.setdefault(process, asyncio.Lock())

    # -- on threads

    def _program(self, info: ProcessInfo) -> Program:
        settings, talk = self._settings, self._talk(info)
        history = self._journal.read_here(lambda each: self._history(each, info.id))
        return Program(self._nursery, info, settings.node, talk, self._packages, history, settings.snapshot_every)

    def _history(self, connection: Connection, process: str) -> History:
        snapshot = processes.snapshot(connection, process)
        first = snapshot.n_calls - 1 if snapshot else 0

        def earlier() -> list[Entry]:
            return self._journal.read_here(lambda each: processes.log(each, process, 0, first))

        return History(processes.log(connection, process, first), snapshot, first, earlier)

    def _talk(self, info: ProcessInfo) -> Talk:
        kept = self._journal.read_here(lambda each: processes.kept(each, info.id))
        return Talk(info.id, self._settings.models, Kept() if kept is None else Kept.unpack(kept))

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
            n_calls, kept = program.n_calls, program.talk.kept
            result = program.handle(delivered, self._settings.limits, boot, dry=dry)
            talk = program.talk
            changed = talk.kept.pack() if talk.kept != kept or talk.instructions else None
            told = replace(result, receipts=tuple(talk.receipts))
            used, snapshot = Used(talk.instructions, talk.cycles), None if dry else program.new_snapshot()
            return Ran(told, program.since(n_calls), changed, used, snapshot)

    def _worked(self, info: ProcessInfo, delivered: Delivered) -> Ran:
        talk = self._talks.get(info.id)
        if talk is None:
            talk = self._talks[info.id] = self._talk(info)
        result = worker.handle(talk, info, delivered, self._settings.node)
        told = replace(result, receipts=tuple(talk.receipts))
        return Ran(told, (), talk.kept.pack(), Used(talk.instructions, talk.cycles))


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def _next(connection: Connection, process: str) -> tuple[ProcessInfo, list[Delivered]]:
    """What a process has to do."""
    info = processes.find(connection, process)
    if info is None:
        raise NotFound(f"there is no process {process[:80]}")
    is_native = info.kind in ("token", "herder")
    return info, [] if is_native else messages.waiting(connection, process, AT_ONCE)
