"""Timers: each tick is a message from a canister to itself, through dispatch like any other.

Whether a timer runs, and how often, is durable state, so a restarted server goes on ticking.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from canister.dispatch.requests import execute, find_method
from canister.errors import Trap
from canister.telemetry.logs import get_logger

if TYPE_CHECKING:
    from canister.runtime.canister import Canister
    from canister.runtime.host import Host
    from canister.state.settings import State

log = get_logger(__name__)

LOOK_SECONDS = 1.0  # how late a tick, or a change of a timer's settings, may be noticed
CYCLE_PERIOD_SECONDS = 3600


@dataclass(frozen=True, slots=True)
class Timer:
    """method: what a tick calls, without argument. period_seconds: None while the timer is off."""

    method: str
    period_seconds: Callable[[State], int | None]


TIMERS = (
    Timer("cache_cleanup_now", lambda state: state.cleanup_period_seconds if state.cleanup_on else None),
    Timer("cycle_balance_start_timer", lambda state: CYCLE_PERIOD_SECONDS if state.cycle_timer_on else None),
)


OF_CACHES = TIMERS[:1]


async def beat(host: Host, timers: Sequence[Timer] = TIMERS) -> None:
    """Tick for the present canisters, until cancelled."""
    clocks: dict[Canister, list[_Clock]] = {}
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        clocks = {
            canister: clocks.get(canister) or [_Clock(canister, timer) for timer in timers]
            for canister in host.canisters
        }
        for clock in [clock for own in clocks.values() for clock in own]:
            if clock.is_due():
                await clock.tick()


class _Clock:
    """When one timer of one canister is due. A change of the period counts from the last tick, or from its start."""

    def __init__(self, canister: Canister, timer: Timer) -> None:
        self._canister = canister
        self._timer = timer
        self._since: float | None = None

    def is_due(self) -> bool:
        period = self._timer.period_seconds(self._canister.state)
        now = time.monotonic()
        if period is None:
            self._since = None
            return False
        if self._since is None:
            self._since = now
        return now - self._since >= period

    async def tick(self) -> None:
        self._since = time.monotonic()
        method = find_method(self._canister, self._timer.method)
        try:
            reply = await execute(self._canister, method, self._canister.id, lambda: None)
        except Trap as trap:
            log.warning("timer failed", canister=self._canister.name, method=method.name, reason=str(trap))
            return
        if reply.error is not None:
            log.warning("timer refused", canister=self._canister.name, method=method.name, reason=str(reply.error))
