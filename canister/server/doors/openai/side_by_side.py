"""Several streams of events as one, in the order in which their events come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import TypeVar

T = TypeVar("T")


async def side_by_side(sources: Sequence[AsyncGenerator[T]], at_once: int) -> AsyncGenerator[tuple[int, T]]:
    """Each event with the number of its source. at_once: sources that run; the others wait for one of them to end.

    The first failure ends all of them and is raised. Closed early, it closes those that run.
    """
    if len(sources) == 1:  # one that is alone needs no task of its own
        async with aclosing(sources[0]) as alone:
            async for event in alone:
                yield 0, event
        return
    found: asyncio.Queue[tuple[int, T] | None] = asyncio.Queue()
    places = asyncio.Semaphore(at_once)

    async def pump(number: int, source: AsyncGenerator[T]) -> None:
        async with places, aclosing(source) as events:
            async for event in events:
                found.put_nowait((number, event))

    async def pump_all() -> None:
        try:
            async with asyncio.TaskGroup() as group:
                for number, source in enumerate(sources):
                    group.create_task(pump(number, source))
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        finally:
            found.put_nowait(None)

    task = asyncio.create_task(pump_all())
    try:
        while (numbered := await found.get()) is not None:
            yield numbered
        await task
    finally:
        task.cancel()
        await asyncio.wait([task])
