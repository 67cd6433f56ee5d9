"""Which worker gets a job: of the chat's owner and two others the one where it could begin first. Pure.

Everything is in seconds: the wait for a slot, and what it costs until the chat's state is there. So a busy owner loses
a chat when moving it is cheaper than waiting, and not before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

SPARE_JOBS = 2  # at a worker beyond its slots, so that none is idle while the next job is on its way


@dataclass(frozen=True, slots=True)
class Load:
    """A worker that may get jobs. jobs: that it has. slots: that it runs at once. call_seconds: that a call takes.

    waiting: jobs that wait in the herd's queue for this worker alone, since it has their chats.
    """

    worker: str
    jobs: int
    slots: int
    call_seconds: float
    waiting: int = 0

    @property
    def has_room(self) -> bool:
        return self.jobs < self.slots + SPARE_JOBS

    @property
    def wait_seconds(self) -> float:
        """Until a slot is free for one more job."""
        return max(0, self.jobs + self.waiting + 1 - self.slots) / self.slots * self.call_seconds


@dataclass(frozen=True, slots=True)
class Rates:
    """What moving a chat takes: a first byte, then bytes, or tokens decoded again. Rates are a second's."""

    first_byte_seconds: float = 0.005
    bytes_per_second: float = 60e6
    tokens_per_second: float = 200.0


def moving_seconds(n_tokens: int, n_row_bytes: int | None, rates: Rates) -> float:
    """Seconds until a chat's state is at a worker that does not have it.

    n_row_bytes: of its KV rows, where another place has them; None: its tokens must be decoded again.
    """
    decoded = n_tokens / rates.tokens_per_second
    if n_row_bytes is None:
        return decoded
    return min(decoded, rates.first_byte_seconds + n_row_bytes / rates.bytes_per_second)


def aim(loads: Sequence[Load], owner: str | None, cost: Callable[[str], float], random: Random) -> Load | None:
    """The worker where a job would begin first: one that has room, or the chat's owner, which the job then waits for.

    None: all have enough to do. owner: that ran the chat last. cost: seconds until the chat's state is at a worker.
    """
    free = [load for load in loads if load.has_room]
    if not free:
        return None
    some = random.sample(free, 2) if len(free) > 2 else free
    seen = [load for load in loads if load.worker == owner] + some
    return min(seen, key=lambda load: (load.wait_seconds + cost(load.worker), load.jobs))


def choose(loads: Sequence[Load], owner: str | None, cost: Callable[[str], float], random: Random) -> str | None:
    """The worker for a job; None: all have enough to do.

    owner: that ran the chat last. cost: seconds until the chat's state is at a worker.
    """
    free = [load for load in loads if load.has_room]
    if not free:
        return None
    some = random.sample(free, 2) if len(free) > 2 else free
    seen = [load for load in free if load.worker == owner] + some
    return min(seen, key=lambda load: (load.wait_seconds + cost(load.worker), load.jobs)).worker
