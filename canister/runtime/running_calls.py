"""The calls that a canister runs at the moment, and waiting until they have ended."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Protocol

from canister.metering.meter import CallMeter
from canister.state.unit_of_work import UnitOfWork


class RunningCall(Protocol):
    """A running call. meter: of a call that decodes tokens."""

    work: UnitOfWork
    method: str
    meter: CallMeter | None


class Counted:
    """A context in which a call is running."""

    __slots__ = ("_call", "_calls")

    def __init__(self, calls: RunningCalls, call: RunningCall) -> None:
        self._calls = calls
        self._call = call

    def __enter__(self) -> None:
        self._calls.begin(self._call)

    def __exit__(self, *_: object) -> None:
        self._calls.end(self._call)


class RunningCalls:
    """Calls with the tasks that run them. On the event loop."""

    def __init__(self) -> None:
        self._tasks: dict[RunningCall, asyncio.Task[object] | None] = {}
        self._one_over = asyncio.Event()

    def counted(self, call: RunningCall) -> Counted:
        """Counts a call among the running ones, as long as the context lasts."""
        return Counted(self, call)

    def begin(self, call: RunningCall) -> None:
        self._tasks[call] = asyncio.current_task()

    def end(self, call: RunningCall) -> None:
        del self._tasks[call]
        self._one_over.set()

    def __iter__(self) -> Iterator[RunningCall]:
        """The oldest first."""
        return iter(list(self._tasks))

    def __len__(self) -> int:
        return len(self._tasks)

    def cancel(self) -> None:
        """Cancel the tasks of all."""
        for task in [task for task in self._tasks.values() if task is not None]:
            task.cancel()

    async def over(self, *, but: RunningCall | None = None) -> None:
        """Wait until the calls that run now have ended, except this one."""
        waited_for = [call for call in self._tasks if call is not but]
        while any(call in self._tasks for call in waited_for):
            self._one_over.clear()
            await self._one_over.wait()
