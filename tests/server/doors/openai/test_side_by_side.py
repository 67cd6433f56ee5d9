"""Streams of events side by side: their order, how many run at once, and how they end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest

from canister.server.doors.openai.side_by_side import side_by_side

pytestmark = pytest.mark.anyio


class Sources:
    """Streams that tell when they begin and end. n_running: those that have begun and not ended."""

    def __init__(self) -> None:
        self.n_running = self.n_most = 0

    async def some(self, *events: str, fails: bool = False) -> AsyncGenerator[str]:
        self.n_running += 1
        self.n_most = max(self.n_most, self.n_running)
        try:
            for event in events:
                await asyncio.sleep(0)
                yield event
            if fails:
                raise ValueError("no more")
        finally:
            self.n_running -= 1

    async def endless(self) -> AsyncGenerator[str]:
        while True:
            async with aclosing(self.some("again")) as events:
                async for event in events:
                    yield event


@pytest.mark.parametrize("at_once", [1, 2, 3])
async def test_each_event_has_the_number_of_its_source(at_once: int) -> None:
    sources = Sources()
    streams = [sources.some("a", "b"), sources.some(), sources.some("c")]
    numbered = [one async for one in side_by_side(streams, at_once)]
    assert sorted(numbered) == [(0, "a"), (0, "b"), (2, "c")]
    assert [event for number, event in numbered if number == 0] == ["a", "b"]
    assert 1 <= sources.n_most <= at_once


@pytest.mark.parametrize("n", [1, 2])
async def test_a_failure_ends_all_and_is_raised(n: int) -> None:
    sources = Sources()
    streams = [sources.some("a", fails=True), *(sources.endless() for _ in range(n - 1))]
    with pytest.raises(ValueError, match="no more"):
        _ = [one async for one in side_by_side(streams, n)]
    assert sources.n_running == 0


@pytest.mark.parametrize("n", [1, 3])
async def test_closed_early_it_closes_those_that_run(n: int) -> None:
    sources = Sources()
    async with aclosing(side_by_side([sources.some(*"abc") for _ in range(n)], n)) as numbered:
        async for _ in numbered:
            break
    assert sources.n_running == 0
