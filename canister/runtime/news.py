"""How often something has happened, for those who wait for the next time."""

from __future__ import annotations

import asyncio
from contextlib import suppress


class News:
    """A count that is waited for. For one event loop."""

    def __init__(self) -> None:
        self.n = 0
        self._next = asyncio.Event()

    def tell(self) -> None:
        self.n += 1
        self._next.set()
        self._next = asyncio.Event()  # who is about to wait for the one before sees that it is set

    async def wait(self, n: int, seconds: float) -> int:
        """The count, as soon as it is another one than n, or after some seconds."""
        if self.n == n:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._next.wait(), seconds)
        return self.n
