"""The journal for an event loop: what is read blocks threads of its own, what is written goes through one writer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar, cast

from canister.ao.journal.connection import Connection
from canister.errors import CanisterStopping
from canister.store.database import Database
from canister.system.data_dir import AO_DATABASE

N_READERS = 4
T = TypeVar("T")


class Journal:
    """folder: of its file. Every method but `read_here` is for one event loop."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / AO_DATABASE
        self._database = Database(self._path, "ao")
        self._readers = ThreadPoolExecutor(N_READERS, "ao reader")
        self.is_closing = False

    async def open(self) -> None:
        """Raises StoreDamaged, Conflict, StorageFull, Busy, as a database does."""
        await asyncio.to_thread(self._database.open)

    async def close(self) -> None:
        await asyncio.to_thread(self._readers.shutdown)
        await asyncio.to_thread(self._database.close)

    async def on(self, threads: ThreadPoolExecutor, work: Callable[[], T]) -> T:
        """Raises CanisterStopping once `is_closing` is set."""
        if self.is_closing:
            raise CanisterStopping("the units of AO are being stopped")
        return await asyncio.get_running_loop().run_in_executor(threads, work)

    def has_room(self, most_bytes: int | None) -> bool:
        """Whether its file is smaller. None: always."""
        return most_bytes is None or self._path.stat().st_size < most_bytes

    def read_here(self, work: Callable[[Connection], T]) -> T:
        """On the thread that asks."""
        with self._database.read() as connection:
            return work(connection)

    async def read(self, work: Callable[[Connection], T]) -> T:
        return await self.on(self._readers, lambda: self.read_here(work))

    async def write(self, work: Callable[[Connection], T]) -> T:
        return await asyncio.wrap_future(self._database.submit(work))

    async def write_undone(self, work: Callable[[Connection], T]) -> T:
        """What it would give; nothing is written."""

        def undone(connection: Connection) -> None:
            raise _Undone(work(connection))

        try:
            await self.write(undone)
        except _Undone as found:
            return cast(T, found.result)
        raise AssertionError("what was to be undone was not")


class _Undone(Exception):
    def __init__(self, result: object) -> None:
        super().__init__()
        self.result: object = result
