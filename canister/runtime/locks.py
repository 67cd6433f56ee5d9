"""Locks for asyncio: one lock per name, and a gate that many may share or one may have alone. Both are fair."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial


class NamedLocks:
    """A lock per name, made when needed and dropped when free. Waiters get it in order."""

    def __init__(self) -> None:
        self._locks: dict[str, tuple[asyncio.Lock, int]] = {}

    def __len__(self) -> int:
        """How many somebody holds or waits for."""
        return len(self._locks)

    def is_held(self, name: str) -> bool:
        """True while somebody holds the lock or waits for it."""
        return name in self._locks

    async def acquire(self, name: str) -> Callable[[], None]:
        """Hold a lock until the returned function is called."""
        lock, users = self._locks.get(name) or (asyncio.Lock(), 0)
        self._locks[name] = (lock, users + 1)
        try:
            await lock.acquire()
        except BaseException:
            self._leave(name)
            raise
        return partial(self._release, name)

    def _release(self, name: str) -> None:
        self._locks[name][0].release()
        self._leave(name)

    def _leave(self, name: str) -> None:
        lock, users = self._locks[name]
        if users == 1:
            del self._locks[name]
        else:
            self._locks[name] = (lock, users - 1)


class Gate:
    """Shared by many or held by one. First come, first served: a waiter for the whole gate holds later sharers back."""

    def __init__(self) -> None:
        self._sharers = 0
        self._alone = False
        self._waiting: deque[tuple[bool, asyncio.Future[None]]] = deque()

    async def enter(self, *, alone: bool = False) -> Callable[[], None]:
        """Share it, or have it alone, until the returned function is called."""
        await self._enter(alone)
        return partial(self._leave, alone)

    def _leave(self, alone: bool) -> None:
        if alone:
            self._alone = False
        else:
            self._sharers -= 1
        self._admit()

    async def _enter(self, alone: bool) -> None:
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((alone, place))
        self._admit()
        try:
            await place
        except asyncio.CancelledError:
            if not place.cancelled():  # admitted and cancelled at once: give the place back
                self._leave(alone)
            self._admit()
            raise

    def _admit(self) -> None:
        while self._waiting and not self._alone:
            alone, place = self._waiting[0]
            if place.cancelled():
                self._waiting.popleft()
                continue
            if alone and self._sharers:
                return
            self._waiting.popleft()
            if alone:
                self._alone = True
            else:
                self._sharers += 1
            place.set_result(None)
