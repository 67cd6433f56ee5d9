"""Kept answers that are being made at the moment: what there is of each so far, and who waits for more.

A listener gets everything from the start, then new parts as they come. On the event loop. `dispatch` makes and keeps
the answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")


class LiveAnswer(Generic[T]):
    """task: makes it. goes_on: also without listeners; otherwise the last listener's leaving cancels the task.

    is_cancelled: by its caller. failure: for listeners, why it ended early.
    """

    def __init__(self, *, goes_on: bool) -> None:
        self.goes_on = goes_on
        self.task: asyncio.Task[None] | None = None
        self.is_cancelled = False
        self.failure: Exception | None = None
        self.n_listeners = 0
        self._parts: list[T] = []
        self._is_over = False
        self._more = asyncio.Event()

    @property
    def parts(self) -> Sequence[T]:
        return self._parts

    def add(self, part: T) -> None:
        self._parts.append(part)
        self._more.set()

    def over(self) -> None:
        """Nothing more will come."""
        self._is_over = True
        self._more.set()

    async def listen(self) -> AsyncGenerator[T]:
        """All parts from the first one, then new ones as they come, until it has ended."""
        self.n_listeners += 1
        try:
            n_given = 0
            while True:
                while n_given < len(self._parts):
                    n_given += 1
                    yield self._parts[n_given - 1]
                if self._is_over:
                    return
                more = self._more
                await more.wait()
                if more is self._more:
                    self._more = asyncio.Event()
        finally:
            self.n_listeners -= 1
            if not self.n_listeners and not self.goes_on:
                self.stop()

    def cancel(self) -> None:
        """Make no more of it, not even for listeners."""
        self.is_cancelled = True
        self.stop()

    def stop(self) -> None:
        """Make no more of it. What its committed calls gave is kept."""
        if self.task is not None:
            self.task.cancel()


class LiveAnswers(Generic[T]):
    """The live answers of one canister, by id."""

    def __init__(self) -> None:
        self._live: dict[str, LiveAnswer[T]] = {}

    def __iter__(self) -> Iterator[LiveAnswer[T]]:
        return iter(list(self._live.values()))

    def find(self, id: str) -> LiveAnswer[T] | None:
        return self._live.get(id)

    def add(self, id: str, live: LiveAnswer[T]) -> None:
        self._live[id] = live

    def remove(self, id: str) -> None:
        del self._live[id]

    async def stopped(self) -> None:
        """Stop all, and wait until none is being made."""
        while tasks := [live.task for live in self._live.values() if live.task is not None]:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
