"""Waits for a server that goes away, as at a crash or a restart, and repeats the work that broke off.

Repeated work must give the same result. A turn of a chat does: its prompt has all messages, and whatever the prompt
cache holds beyond them is dropped.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

import httpx

from canister.cli.talk import view
from canister.client.errors import ClientError, Unreachable

if TYPE_CHECKING:
    from canister.client.methods import MethodCalls

PATIENCE_SECONDS = 30.0  # a large model is loaded again within it, from the page cache
POLL_SECONDS = 0.25
MOST_TIMES = 3  # of the same work, since it may be what crashes the server

T = TypeVar("T")


async def when_back(
    canister: MethodCalls, work: Callable[[], Awaitable[T]], *, patience_seconds: float = PATIENCE_SECONDS
) -> T:
    """Do the work. If the server goes away, wait until its model is loaded again, and do it once more.

    Raises ClientError, and Unreachable if the server is not back in time or goes away each time.
    """
    for _ in range(MOST_TIMES - 1):
        try:
            return await work()
        except Unreachable as error:
            if isinstance(error.__cause__, httpx.TimeoutException):  # it is there, but slow
                raise
            view.say("\nthe server went away; waiting for it …")
            if not await _is_back(canister, patience_seconds):
                raise
    return await work()


async def _is_back(canister: MethodCalls, patience_seconds: float) -> bool:
    end = time.monotonic() + patience_seconds
    while (left := end - time.monotonic()) > 0:
        try:
            await canister.call("ready", timeout_seconds=left)
            return True
        except ClientError:
            await asyncio.sleep(min(POLL_SECONDS, left))
    return False


class Shown:
    """An answer on stdout. An answer that begins anew is shown from where the first one broke off.

    is_raw: leading white space is shown, too. is_silent: nothing is shown.
    """

    def __init__(self, *, is_raw: bool, is_silent: bool) -> None:
        self._is_raw = is_raw
        self._is_silent = is_silent
        self._on_screen = ""
        self.text = ""

    def begin(self) -> None:
        self.text = ""

    def add(self, piece: str) -> None:
        self.text += piece
        text = self.text if self._is_raw else self.text.lstrip()
        if self._is_silent or (text != self._on_screen and self._on_screen.startswith(text)):
            return
        if text.startswith(self._on_screen):
            print(text[len(self._on_screen) :], end="", flush=True)
        else:  # drawn without a seed, it is another answer
            print(f"\n{text}", end="", flush=True)
        self._on_screen = text
