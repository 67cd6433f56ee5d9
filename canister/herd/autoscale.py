"""How many workers a herd should have, by the seconds of work that wait for each slot. Pure.

Running calls do not count for more workers, since there are never more of them than slots. Fewer workers come one at a
time, after a calm, and only if what was busy then would have fitted into those that stay.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

_FULL = 0.7  # share of the slots that may be busy when there is one worker less
_MOST_AT_ONCE = 2.0  # times as many as there are


@dataclass(frozen=True, slots=True)
class ScalePolicy:
    """least, most: workers, both included. wait_seconds: of waiting work for each slot that are too much. calm_seconds:
    without any waiting work, before a worker leaves.
    """

    least: int
    most: int
    wait_seconds: float = 5.0
    calm_seconds: float = 300.0

    def __post_init__(self) -> None:
        if not 1 <= self.least <= self.most:
            raise ValueError(f"workers from {self.least} to {self.most}: give at least 1, and no fewer at most")


@dataclass(frozen=True, slots=True)
class HerdLoad:
    """n_workers: that take jobs, or are being started for that. slots: of one of them. waiting_seconds: what the jobs
    that wait will take in a slot. n_running: jobs in slots.
    """

    n_workers: int
    slots: int
    waiting_seconds: float
    n_running: int


class Autoscaler:
    """Asked every few seconds; remembers the calm and what was busy in it. now: of a clock that only goes forward."""

    def __init__(self, policy: ScalePolicy) -> None:
        self.policy = policy
        self._calm_since: float | None = None
        self._running: deque[tuple[float, int]] = deque()  # in the calm; ever smaller numbers

    def wanted(self, load: HerdLoad, now: float) -> int:
        """How many workers there should be."""
        n = min(max(load.n_workers, self.policy.least), self.policy.most)
        if load.waiting_seconds > 0:
            self._calm_since = None
            self._running.clear()
            return max(n, min(self._for(load, n), self.policy.most))
        if self._calm_since is None:
            self._calm_since = now
        while self._running and self._running[-1][1] <= load.n_running:
            self._running.pop()
        self._running.append((now, load.n_running))
        while self._running[0][0] < now - self.policy.calm_seconds:
            self._running.popleft()
        fits = self._running[0][1] <= _FULL * (n - 1) * load.slots
        if n > self.policy.least and now - self._calm_since >= self.policy.calm_seconds and fits:
            self._calm_since = now  # the next one leaves after another calm
            return n - 1
        return n

    def _for(self, load: HerdLoad, n: int) -> int:
        """As many as bring what waits down to wait_seconds a slot, but not more than some times as many at once."""
        enough = math.ceil(load.waiting_seconds / (self.policy.wait_seconds * max(load.slots, 1)))
        return min(enough, math.ceil(n * _MOST_AT_ONCE))
