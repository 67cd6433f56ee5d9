"""The jobs that wait, in the order in which they are to run. In memory; the journal has those that must not be lost.

The highest multiplier comes first. Among equal multipliers callers take turns: each job has a round, one higher than
its caller's job before, and never lower than that of the job which was taken last. So a flood of one caller delays
another one by a job, not by the flood. Within a round, and everywhere if the queue is strict, who came first is first.

A job that cannot run just now is laid aside under what it waits for, and is not looked at until that is free. So a pop
takes the time of few comparisons, however many jobs wait behind a busy chat or worker.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Final, Generic, Protocol, TypeVar


class Queueable(Protocol):
    """What the queue must know of a job."""

    @property
    def id(self) -> bytes: ...

    @property
    def caller(self) -> str: ...

    @property
    def multiplier(self) -> float: ...


J = TypeVar("J", bound=Queueable)

Place = tuple[float, int, int]
"""Of a job in the order: its multiplier below zero, its round, its arrival."""


class _Stop:
    """The type of STOP."""


STOP: Final = _Stop()
"""Instead of what a job waits for: no job can run now."""


@dataclass(slots=True, eq=False)
class _Entry(Generic[J]):
    place: Place
    job: J
    is_gone: bool = False
    waits_for: Hashable = None

    def __lt__(self, other: _Entry[J]) -> bool:
        return self.place < other.place


@dataclass(slots=True)
class _Turns:
    """Of one caller among jobs of one multiplier: rounds, and how many jobs wait."""

    last: int  # of the job that came last
    taken: int  # of the job that was taken last
    n: int = 0


@dataclass(slots=True)
class _Level:
    """The jobs of one multiplier. A caller who is not in `callers` may have the present round."""

    n: int = 0
    now: int = 0  # the round of the job that was taken last
    callers: dict[str, _Turns] = field(default_factory=dict)

    def join(self, caller: str, *, takes_turn: bool) -> int:
        """The round of a job that has come."""
        self.n += 1
        turns = self.callers.get(caller)
        if turns is None:
            turns = self.callers[caller] = _Turns(self.now - 1, self.now - 1)
        turns.n += 1
        if takes_turn:
            turns.last = max(self.now, turns.last + 1)
            return turns.last
        return self.now

    def leave(self, caller: str, round_: int, *, is_taken: bool) -> None:
        """A caller who takes all jobs back loses no turn by that, and wins none."""
        self.n -= 1
        turns = self.callers[caller]
        turns.n -= 1
        if is_taken:
            self.now = max(self.now, round_)
            turns.taken = max(turns.taken, round_)
        elif not turns.n:
            turns.last = turns.taken
        if not turns.n and turns.last < self.now:
            del self.callers[caller]
        if len(self.callers) > 2 * self.n + 64:
            self.callers = {name: kept for name, kept in self.callers.items() if kept.n or kept.last >= self.now}


class JobQueue(Generic[J]):
    """Not to be used by several threads at once. Times are O(log n), but for those that tell of all jobs."""

    def __init__(self, *, strict: bool = False) -> None:
        """strict: jobs of equal multipliers run in the order in which they came, whoever they are from."""
        self._strict = strict
        self._arrivals = itertools.count()
        self._entries: dict[bytes, _Entry[J]] = {}
        self._levels: dict[float, _Level] = {}
        self._groups: dict[Hashable, list[_Entry[J]]] = {None: []}  # by what they wait for; None: nothing
        self._open: list[tuple[Place, int, Hashable]] = []  # first jobs of groups that are free; some are outdated
        self._closed: set[Hashable] = set()
        self._ties = itertools.count()

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, id: bytes) -> bool:
        return id in self._entries

    def push(self, job: J, *, again: bool = False) -> None:
        """A job that has come. again: it was taken, and its worker is lost; it is first among its equals.

        ValueError when a job with this id waits.
        """
        if job.id in self._entries:
            raise ValueError(f"job {job.id.hex()} waits already")
        level = self._levels.setdefault(job.multiplier, _Level())
        round_ = level.join(job.caller, takes_turn=not (again or self._strict))
        arrival = next(self._arrivals) - (1 << 62 if again else 0)
        entry = _Entry((-job.multiplier, round_, arrival), job)
        self._entries[job.id] = entry
        self._lay(entry, None)

    def pop(self, obstacle: Callable[[J], Hashable | None] = lambda job: None) -> J | None:
        """The first job that can run, taken out; None if there is none.

        obstacle: what a job has to wait for, such as a chat or a worker that is busy: any hashable value, which `free`
        is told later; None if it can run, STOP if no job can. It is asked only for jobs that may be next. Jobs behind
        an obstacle stay aside until `free`. So if all jobs wait for the same, return STOP, or do not pop.
        """
        while (found := self._first()) is not None:
            group, entry = found
            waits_for = obstacle(entry.job)
            if waits_for is STOP:
                self._show(group)
                return None
            if waits_for is None:
                heapq.heappop(self._groups[group])
                self._show(group)
                self._forget(entry, is_taken=True)
                return entry.job
            self._closed.add(waits_for)
            if waits_for != group:
                heapq.heappop(self._groups[group])
                self._show(group)
                self._lay(entry, waits_for)
        return None

    def free(self, *obstacles: Hashable) -> None:
        """Jobs need not wait for these any more; they are asked again."""
        for obstacle in obstacles:
            self._closed.discard(obstacle)
            self._show(obstacle)

    def n_ahead(self, id: bytes, obstacle: Hashable) -> int:
        """How many jobs wait for this obstacle ahead of a job that is asked about it."""
        entry = self._entries.get(id)
        if entry is not None and entry.waits_for == obstacle:
            return 0  # of those who wait only the first one is asked
        return len(self._groups.get(obstacle, ()))

    def remove(self, id: bytes) -> J | None:
        """Take a job out, wherever it stands; None if it does not wait."""
        entry = self._entries.get(id)
        if entry is None:
            return None
        entry.is_gone = True
        self._forget(entry, is_taken=False)
        self._show(entry.waits_for)
        return entry.job

    def get(self, id: bytes) -> J | None:
        entry = self._entries.get(id)
        return None if entry is None else entry.job

    def by_multiplier(self) -> list[tuple[float, int]]:
        """How many jobs wait at each multiplier, the highest first."""
        return sorted(((multiplier, level.n) for multiplier, level in self._levels.items()), reverse=True)

    def n_before(self, multiplier: float) -> int:
        """How many jobs would run before one that comes now with this multiplier, if all equals ran before it."""
        return sum(level.n for other, level in self._levels.items() if other >= multiplier)

    # -- groups

    def _lay(self, entry: _Entry[J], group: Hashable) -> None:
        entry.waits_for = group
        jobs = self._groups.setdefault(group, [])
        heapq.heappush(jobs, entry)
        if jobs[0] is entry:
            self._show(group)

    def _show(self, group: Hashable) -> None:
        """Let the first job of a group be seen, if the group is free. Groups without jobs go."""
        jobs = self._groups.get(group)
        if jobs is None:
            return
        while jobs and jobs[0].is_gone:
            heapq.heappop(jobs)
        if not jobs:
            if group is not None:
                del self._groups[group]
            return
        if group not in self._closed:
            heapq.heappush(self._open, (jobs[0].place, next(self._ties), group))

    def _first(self) -> tuple[Hashable, _Entry[J]] | None:
        """The first job of all free groups. It is not seen again before `_show` of its group."""
        while self._open:
            place, _, group = heapq.heappop(self._open)
            jobs = self._groups.get(group)
            if not jobs or group in self._closed:
                continue
            if jobs[0].is_gone:
                self._show(group)
            elif jobs[0].place == place:
                return group, jobs[0]
        return None

    def _forget(self, entry: _Entry[J], *, is_taken: bool) -> None:
        del self._entries[entry.job.id]
        level = self._levels[entry.job.multiplier]
        level.leave(entry.job.caller, entry.place[1], is_taken=is_taken)
        if not level.n:
            del self._levels[entry.job.multiplier]
