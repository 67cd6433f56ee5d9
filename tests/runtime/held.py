"""A lock or a place in a gate, held for as long as a block lasts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager


@asynccontextmanager
async def held(acquired: Awaitable[Callable[[], None]]) -> AsyncIterator[None]:
    """acquired: what `NamedLocks.acquire` or `Gate.enter` returned."""
    release = await acquired
    try:
        yield
    finally:
        release()
