"""What doors use: messages in, results out, on one event loop. Cages, SQL and models block, and run on threads."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from weakref import WeakValueDictionary

from canister.ao.journal import messages, money, processes
from canister.ao.journal.connection import Connection
from canister.ao.journal.processes import Used
from canister.ao.lua.values import Value
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
from canister.ao.units.access import Journal
from canister.ao.units.herd import TOKEN, prepare
from canister.ao.units.running import AGAIN_SECONDS, Runner, now_ms
from canister.ao.units.settings import Settings
from canister.ao.units.settling import MAX_WAITING, make, native_result
from canister.ao.units.timers import interval_ms, send_due
from canister.errors import AccessDenied, BadRequest, Busy, CanisterError, NotFound, StorageFull

_log = logging.getLogger(__name__)


class Units:
    """Made by `open`. Every method is for the event loop that it was opened on."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._journal = Journal(settings.folder)
        self._clock: asyncio.Task[None] | None = None
        self._clock_news = asyncio.Event()
        self._news: WeakValueDictionary[str, asyncio.Event] = WeakValueDictionary()  # as long as somebody waits
        self._runner = Runner(settings, self._journal, self._tell, self._clock_news.set)

    @classmethod
    async def open(cls, settings: Settings) -> Units:
        """Goes on with whatever waited. Raises StoreDamaged, Conflict, StorageFull, Busy, as a database does."""
        units = cls(settings)
        await units._journal.open()
        if settings.has_herd:
            about = (settings.node, settings.n_workers, settings.model, settings.lease_ms)
            await units._journal.write(lambda connection: prepare(connection, *about, now_ms()))
        for process in await units._journal.read(processes.waiting):
            units._runner.wake(process)
        units._clock = asyncio.create_task(units._watch())
        return units

    async def aclose(self) -> None:
        """What is being run is given up, and run again after the next start."""
        self._journal.is_closing = True
        if self._clock is not None:
            self._clock.cancel()
            await asyncio.gather(self._clock, return_exceptions=True)
        await self._runner.stop()
        await self._journal.close()

    @property
    def node(self) -> str:
        return self._settings.node

    @property
    def n_running(self) -> int:
        """Programs that have a process of the system just now."""
        return self._runner.n_running

    # -- messages in

    async def send(self, message: Incoming) -> Place:
        """A verified message to its process. The same one again gets the same place, and is run once.

        Raises NotFound: no such process; Busy; StorageFull.
        """
        cleaned = replace(message, tags=client_tags(message.tags))
        return await self._post(message.target, cleaned, message.owner)

    async def spawn(self, message: Incoming) -> Place:
        """A process, whose id is the message's; it is made in slot 0. Raises StorageFull."""
        self._check_room()
        cleaned = replace(message, tags=client_tags(message.tags))

        def put(connection: Connection) -> Place:
            place = make(connection, cleaned, message.owner, now_ms())
            return place or Place(message.id, 0, message.id)

        place = await self._journal.write(put)
        self._runner.wake(place.process)
        return place

    async def assign(self, process: str, message: str) -> Place:
        """A message that is known here to another process too, from whoever sent it. Raises NotFound."""
        known = await self._journal.read(lambda connection: messages.find(connection, message))
        if known is not None:
            return await self._post(process, known.message, known.sender)
        found = None if self._settings.items is None else await self._settings.items.get(message)
        if found is None:
            raise NotFound(f"there is no message {message}")
        return await self._post(process, replace(found, tags=client_tags(found.tags)), found.owner)

    async def monitor(self, process: str, is_on: bool, caller: str) -> None:
        """Its timer, by its tag Cron-Interval. Raises NotFound, BadRequest, AccessDenied."""
        info = await self.info(process)
        if caller not in (info.owner, self.node):
            raise AccessDenied(f"only the owner of {process} turns its timer on and off")
        every_ms = interval_ms(info.tag("Cron-Interval")) if is_on else None
        due_ms = None if every_ms is None else now_ms() + every_ms
        await self._journal.write(lambda connection: processes.set_timer(connection, process, every_ms, due_ms))
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
        """Of a slot, or of a message by its id; None while it waits. Raises NotFound; LogDamaged: it waits until the
        world that its process was made in is there.
        """
        deadline = time.monotonic() + wait_seconds
        while True:
            news = self._news.setdefault(process, asyncio.Event())
            found = await self._journal.read(lambda connection: messages.known(connection, process, which))
            if found is None:
                raise NotFound(f"process {process} has no message {which}")
            if found[1] is None:
                self._runner.check(process)
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
        return await self._journal.read(lambda each: messages.page(each, process, after, before, newest_first, limit))

    async def current_slot(self, process: str) -> int:
        return (await self.info(process)).n_slots - 1

    async def info(self, process: str) -> ProcessInfo:
        found = await self._journal.read(lambda connection: processes.find(connection, process))
        if found is None:
            raise NotFound(f"there is no process {process[:80]}")
        return found

    async def used(self, process: str) -> Used:
        """What the model of a process has cost."""
        await self.info(process)
        return await self._journal.read(lambda connection: processes.used(connection, process))

    async def message(self, id: str) -> Incoming | None:
        """That a process got, whoever sent it."""
        found = await self._journal.read(lambda connection: messages.find(connection, id))
        return None if found is None else found.message

    async def published(self, process: str, path: Sequence[str]) -> Value:
        """What a process publishes, at a path: names in any case, places of lists from 1. Raises NotFound."""
        await self.info(process)
        found: Value = await self._journal.read(lambda connection: processes.published(connection, process))
        for name in path:
            found = _at(found, name)
            if found is None:
                raise NotFound(f"process {process} publishes nothing at {'/'.join(path)[:200]}")
        return found

    async def balance(self, account: str) -> int:
        return await self._journal.read(lambda connection: money.Ledger(connection, TOKEN).balance(account))

    async def dry_run(self, process: str, message: Incoming) -> Result:
        """What would come of a message, which changes nothing and gets no model."""
        info = await self.info(process)
        place = Place(process, info.n_slots, message.id)
        cleaned = replace(message, target=message.target or process, tags=client_tags(message.tags))
        delivered = Delivered(place, cleaned, message.owner, now_ms())
        if info.kind == "worker":
            return Result()
        lease_ms = self._settings.lease_ms
        if info.kind != "lua":
            return await self._journal.write_undone(
                lambda each: native_result(each, self.node, info, delivered, lease_ms).result
            )
        return await self._runner.dry_run(info, delivered)

    # -- timers

    async def _watch(self) -> None:
        while True:
            self._clock_news.clear()
            try:
                has_room = self._journal.has_room(self._settings.most_bytes)
                due = partial(send_due, node=self.node, now_ms=now_ms(), has_room=has_room)
                due_ms, woken = await self._journal.write(due)
            except CanisterError as error:
                _log.warning("timers wait: %s", error)
                due_ms, woken = now_ms() + int(AGAIN_SECONDS * 1000), set[str]()
            for process in woken:
                self._runner.wake(process)
            wait = None if due_ms is None else max(due_ms - now_ms(), 10) / 1000
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._clock_news.wait(), wait)

    # -- small things

    def _check_room(self) -> None:
        if not self._journal.has_room(self._settings.most_bytes):
            raise StorageFull(
                f"the node has stored the {self._settings.most_bytes} bytes that it may; see --ao-storage"
            )

    async def _post(self, process: str, message: Incoming, sender: str) -> Place:
        self._check_room()

        def put(connection: Connection) -> Place:
            if processes.find(connection, process) is None:
                raise NotFound(f"there is no process {process[:80]}")
            if (known := messages.at(connection, process, message.id)) is not None:
                return known
            if processes.backlog(connection, process) >= MAX_WAITING:
                raise Busy(f"{MAX_WAITING} messages wait for process {process}; try again later")
            place = messages.deliver(connection, process, message, sender, now_ms())
            assert place is not None
            return place

        place = await self._journal.write(put)
        self._runner.wake(process)
        return place

    def _tell(self, process: str) -> None:
        news = self._news.pop(process, None)
        if news is not None:
            news.set()


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
