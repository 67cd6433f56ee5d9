"""Admission: how many pieces of work run at once, which is next when there are more, and which are refused.

Each caller has a queue, and free places go round the waiting callers, one each. So a caller with a thousand calls
delays another's single call by one place at most. Who may call at all is decided elsewhere.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from canister.config import CanisterSettings
from canister.errors import CallerBusy, CanisterBusy


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """How many may run and how many may wait, in all and of one caller, and the settings that say so.

    waiting, waiting_of_caller: 0 for work that begins at once or not at all.
    """

    running: int
    running_of_caller: int
    waiting: int
    waiting_of_caller: int
    what: str = "calls"
    setting: str = "max_queue"
    setting_of_caller: str = "max_queue_per_caller"


def of_calls(settings: CanisterSettings) -> QueueLimits:
    return QueueLimits(
        settings.max_calls, settings.max_calls_per_caller, settings.max_queue, settings.max_queue_per_caller
    )


def of_streams(settings: CanisterSettings) -> QueueLimits:
    """Streams do not wait: their clients hold back what they have not sent yet."""
    return QueueLimits(
        settings.max_streams, settings.max_streams_per_caller, 0, 0, "streams", "max_streams", "max_streams_per_caller"
    )


class Admission:
    """For one event loop. `enter` gives places, and leaving them gives them back."""

    def __init__(self, name: str, limits: QueueLimits) -> None:
        """name: of the canister, for messages."""
        self._name = name
        self._limits = limits
        self._running: dict[str, int] = {}  # by caller
        self._queues: OrderedDict[str, deque[Place]] = OrderedDict()  # by caller; the first one is next
        self._n_running = self._n_waiting = 0

    @property
    def n_running(self) -> int:
        return self._n_running

    @property
    def n_waiting(self) -> int:
        return self._n_waiting

    def waiting(self) -> dict[str, int]:
        """How many pieces of work wait for their turn, by caller."""
        return {caller: len(queue) for caller, queue in self._queues.items()}

    def has_room(self, caller: str) -> bool:
        """Would this caller's work begin at once?"""
        # While there are free places, every waiting caller is at its own limit.
        return self._n_running < self._limits.running and self._may_run(caller)

    def enter(self, caller: str) -> Place:
        """A place, to be entered with `async with` and left in any case. Raises CallerBusy or CanisterBusy: try again
        later.
        """
        place = Place(self, caller)
        if self.has_room(caller):
            self._grant(place)
            return place
        self._check_queues(caller)
        place.turn = asyncio.get_running_loop().create_future()
        self._queues.setdefault(caller, deque()).append(place)
        self._n_waiting += 1
        self._admit()
        return place

    def _check_queues(self, caller: str) -> None:
        limits = self._limits
        n_own = len(self._queues.get(caller, ()))
        if n_own >= limits.waiting_of_caller and (n_own or not self._may_run(caller)):
            raise CallerBusy(
                f"Canister {self._name}: {self._running.get(caller, 0)} {limits.what} of this caller are running and "
                f"{n_own} are waiting, its limit ({limits.setting_of_caller} = "
                f"{limits.waiting_of_caller or limits.running_of_caller}); wait for some of them, then try again"
            )
        if self._n_waiting >= limits.waiting or n_own >= limits.waiting_of_caller:
            raise CanisterBusy(
                f"Canister {self._name}: {self._n_running} {limits.what} are running and {self._n_waiting} are "
                f"waiting, the limit for all callers together ({limits.setting} = "
                f"{limits.waiting or limits.running}); try again later"
            )

    def _may_run(self, caller: str) -> bool:
        return self._running.get(caller, 0) < self._limits.running_of_caller

    def _grant(self, place: Place) -> None:
        self._n_running += 1
        self._running[place.caller] = self._running.get(place.caller, 0) + 1
        place.is_granted = True
        if place.turn is not None and not place.turn.done():
            place.turn.set_result(None)

    def _admit(self) -> None:
        """Give free places to the work that is next."""
        n_passed_over = 0
        while self._n_running < self._limits.running and n_passed_over < len(self._queues):
            caller, queue = next(iter(self._queues.items()))
            if not self._may_run(caller):
                n_passed_over += 1
            else:
                n_passed_over = 0
                self._n_waiting -= 1
                self._grant(queue.popleft())
                if not queue:
                    del self._queues[caller]
                    continue
            self._queues.move_to_end(caller)

    def leave(self, place: Place) -> None:
        """Give a place back, or stop waiting for it; may be repeated."""
        if place.is_over:
            return
        place.is_over = True
        caller = place.caller
        if place.is_granted:
            self._n_running -= 1
            self._running[caller] -= 1
            if not self._running[caller]:
                del self._running[caller]
        else:
            queue = self._queues[caller]
            queue.remove(place)
            self._n_waiting -= 1
            if not queue:
                del self._queues[caller]
        self._admit()


class Place:
    """One piece of work that waits for its turn or has it."""

    def __init__(self, admission: Admission, caller: str) -> None:
        self.caller = caller
        self.is_granted = False
        self.is_over = False
        self.turn: asyncio.Future[None] | None = None  # None: it did not have to wait
        self._admission = admission

    def leave(self) -> None:
        self._admission.leave(self)

    async def __aenter__(self) -> Self:
        try:
            if self.turn is not None:
                await self.turn
        except BaseException:
            self.leave()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.leave()
