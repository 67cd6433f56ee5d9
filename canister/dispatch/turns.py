"""Whose turn it is: the place of a caller, for a call or a stream, and the deadline of a call.

A call's time runs while it waits for its turn. Its deadline cannot pass once its commit has begun.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, TypeVar

from canister.errors import CallTimeout
from canister.runtime.access import allows
from canister.telemetry import metrics

if TYPE_CHECKING:
    from canister.api.methods import Access, Method
    from canister.runtime.admission import Place
    from canister.runtime.canister import Canister

T = TypeVar("T")


def place_for(canister: Canister, access: Access, caller: str, counted_as: str | None = None) -> Place | NoPlace:
    """The caller's turn. Timers need none, and neither do calls that are about to be refused.

    counted_as: method of a request that nothing else would count, should it be refused.
    """
    calls = canister.admission
    if calls.has_room(caller):
        return calls.enter(caller)
    if caller == canister.id or not allows(canister, caller, access):
        return NoPlace()
    with metrics.refusals(canister.name, counted_as):
        return calls.enter(caller)


def stream_place(canister: Canister, access: Access, caller: str) -> Place | NoPlace:
    """A place for an upload or a download, at once; none for a call that is about to be refused. CallerBusy,
    CanisterBusy.
    """
    if not allows(canister, caller, access):
        return NoPlace()
    with metrics.refusals(canister.name):
        return canister.streams.enter(caller)


class NoPlace(AbstractAsyncContextManager[None]):
    """For work that takes nobody's turn."""

    is_granted = True

    async def __aexit__(self, *_: object) -> None: ...

    def leave(self) -> None: ...


def due_of(canister: Canister) -> float | None:
    """The deadline of a call that begins now, by the event loop's clock; None: never."""
    seconds = canister.settings.call_timeout
    return None if seconds is None else asyncio.get_running_loop().time() + seconds


async def in_time(canister: Canister, method: str, due: float | None, work: Awaitable[T]) -> T:
    """Run the work. At the deadline it is cancelled, and CallTimeout is raised."""
    try:
        async with asyncio.timeout_at(due) as deadline:
            return await work
    except TimeoutError as error:
        if not deadline.expired():
            raise
        raise CallTimeout(canister.id, method, canister.settings.call_timeout or 0.0) from error


@asynccontextmanager
async def turn(canister: Canister, method: Method, place: Place | NoPlace) -> AsyncIterator[float | None]:
    """Hold the place once it is the caller's turn, and return the call's deadline. Raises CallTimeout."""
    due = due_of(canister)
    if place.is_granted:  # there is nothing to wait for
        async with place:
            yield due
        return
    async with AsyncExitStack() as held:
        await in_time(canister, method.name, due, held.enter_async_context(place))
        yield due
