"""`python -m tests.bench.herd_sim`: where chats of a herd go, and how long their turns wait, in virtual time.

The placement is the herd's own (`canister/herd/placement.py`, `ways.py`); workers, chats and deaths are simulated. The
figures of the design stand beside. A turn takes 2.2 s of one of a worker's 8 slots, a chat has 1500 tokens of 12 KiB,
and its user thinks 20 s. A worker has 40 chats in memory, all others of its own on its disk.
"""

from __future__ import annotations

import heapq
import statistics
import time
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count
from random import Random

from canister.herd.placement import Load, aim
from canister.herd.ways import Chat, Link, Move, Speeds, Worker, plan

N_SLOTS = 8
TURN_SECONDS, THINK_SECONDS = 2.2, 20.0
N_TOKENS, ROW_BYTES = 1500, 12 << 10
PREFILL_TPS = N_TOKENS / 9.0
DISK_SECONDS, STORE_SECONDS = 0.04, 0.15
N_IN_MEMORY = 40
LEASE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Scenario:
    """A herd under a load, as a share of all slots. shared: rows of chats are in the object store. n_die: of the
    workers, at half time.
    """

    name: str
    n_workers: int
    load: float
    seconds: float
    shared: bool
    n_die: int = 0


@dataclass(frozen=True, slots=True)
class Waits:
    """Seconds from the arrival of a turn until it begins with its state at hand, in all turns after a third of the
    time.
    """

    n_turns: int
    mean: float
    p99: float
    in_memory: float  # share of turns whose rows were in the worker's memory
    moved: float  # share of turns whose chat went to another worker


DESIGN = {
    "rows shared": "38 / 150 ms",
    "rows not shared": "not told; sticky 124 / 1290 ms",
    "rows shared, 10 of 100 die": "30 / 150 ms",
    "rows not shared, 10 of 100 die": "231 / 9000 ms",
}
SCENARIOS = (
    Scenario("rows shared", 100, 0.7, 300, shared=True),
    Scenario("rows not shared", 100, 0.7, 300, shared=False),
    Scenario("rows shared, 10 of 100 die", 100, 0.6, 300, shared=True, n_die=10),
    Scenario("rows not shared, 10 of 100 die", 100, 0.6, 300, shared=False, n_die=10),
)


@dataclass(slots=True)
class _Worker:
    about: Worker
    running: int = 0
    queue: deque[tuple[int, float]] = field(default_factory=deque)
    aside: deque[tuple[int, float]] = field(default_factory=deque)  # jobs in the herd's queue that wait for this worker
    in_memory: OrderedDict[int, None] = field(default_factory=OrderedDict)
    at_work: set[tuple[int, float]] = field(default_factory=set)  # chat, arrival
    is_dead: bool = False
    is_known_dead: bool = False

    @property
    def n_jobs(self) -> int:
        return self.running + len(self.queue)


class Simulation:
    """One run of a scenario. Its outcome depends on the seed alone."""

    def __init__(self, scenario: Scenario, seed: int = 1) -> None:
        self._of = scenario
        self._random = Random(seed)
        self._workers = [_Worker(Worker(f"w{n}", "pool", PREFILL_TPS)) for n in range(scenario.n_workers)]
        self._owner: dict[int, int] = {}
        self._events: list[tuple[float, int, str, int, int, float]] = []
        self._order = count()
        self._unplaced: deque[tuple[int, float]] = deque()
        self._speeds = Speeds(disk=_takes(DISK_SECONDS), store=_takes(STORE_SECONDS))
        self._waits: list[float] = []
        self._n_turns = self._n_in_memory = self._n_moved = 0

    def run(self) -> Waits:
        of = self._of
        n_chats = int(of.n_workers * N_SLOTS * of.load / TURN_SECONDS * (TURN_SECONDS + THINK_SECONDS))
        for chat in range(n_chats):
            self._at(self._random.random() * (TURN_SECONDS + THINK_SECONDS), "asks", chat)
        if of.n_die:
            self._at(of.seconds / 2, "dies")
            self._at(of.seconds / 2 + LEASE_SECONDS, "noticed")
        while self._events:
            now, _, what, chat, worker, arrival = heapq.heappop(self._events)
            if now > of.seconds:
                break
            if what == "asks":
                self._unplaced.append((chat, now))
            elif what == "ends":
                self._end(worker, chat, arrival, now)
            else:
                self._die(what == "noticed", now)
            self._place(now)
        waits = sorted(self._waits)
        n = max(self._n_turns, 1)
        return Waits(
            len(waits),
            statistics.mean(waits),
            waits[int(len(waits) * 0.99)],
            self._n_in_memory / n,
            self._n_moved / n,
        )

    def _place(self, now: float) -> None:
        while self._unplaced:
            chat, arrival = self._unplaced[0]
            loads = [
                Load(f"w{n}", worker.n_jobs, N_SLOTS, TURN_SECONDS, len(worker.aside))
                for n, worker in enumerate(self._workers)
                if not worker.is_known_dead
            ]
            owner = self._owner.get(chat)
            found = aim(
                loads,
                None if owner is None else f"w{owner}",
                lambda worker, chat=chat: self._cost(int(worker[1:]), chat),  # type: ignore[misc]
                self._random,
            )
            if found is None:
                return  # until a worker has room again
            self._unplaced.popleft()
            n = int(found.worker[1:])
            if found.has_room:
                self._workers[n].queue.append((chat, arrival))
                self._begin(n, now)
            else:
                self._workers[n].aside.append((chat, arrival))

    def _begin(self, n: int, now: float) -> None:
        worker = self._workers[n]
        while worker.queue and worker.running < N_SLOTS and not worker.is_dead:
            chat, arrival = worker.queue.popleft()
            cost = self._cost(n, chat)
            owner = self._owner.get(chat)
            self._n_turns += 1
            self._n_in_memory += owner == n and chat in worker.in_memory
            self._n_moved += owner is not None and owner != n
            if now > self._of.seconds / 3:
                self._waits.append(now - arrival + cost)
            self._owner[chat] = n
            worker.in_memory[chat] = None
            worker.in_memory.move_to_end(chat)
            if len(worker.in_memory) > N_IN_MEMORY:
                worker.in_memory.popitem(last=False)
            worker.running += 1
            worker.at_work.add((chat, arrival))
            self._at(now + cost + TURN_SECONDS, "ends", chat, n, arrival)

    def _cost(self, n: int, chat: int) -> float:
        return self._move(n, chat).seconds

    def _move(self, n: int, chat: int) -> Move:
        owner = self._owner.get(chat)
        if owner is None:
            return Move("own", 0.0)  # a new chat
        if owner == n and chat in self._workers[n].in_memory:
            return Move("own", 0.0, N_TOKENS)
        has_died = self._workers[owner].is_known_dead
        held = {} if has_died else {self._workers[owner].about.id: N_TOKENS}
        state = Chat(N_TOKENS, ROW_BYTES, held, N_TOKENS if self._of.shared else 0, "pool")
        return plan(state, self._workers[n].about, (), self._speeds)

    def _end(self, n: int, chat: int, arrival: float, now: float) -> None:
        worker = self._workers[n]
        if worker.is_dead or (chat, arrival) not in worker.at_work:
            return  # it goes on elsewhere, once its worker is known to be dead
        worker.at_work.remove((chat, arrival))
        worker.running -= 1
        self._at(now + self._random.expovariate(1 / THINK_SECONDS), "asks", chat)
        self._begin(n, now)
        self._ask_again(worker)

    def _ask_again(self, worker: _Worker) -> None:
        """Jobs that wait for a worker are placed anew when something has changed there."""
        self._unplaced.extendleft(reversed(worker.aside))
        worker.aside.clear()

    def _die(self, is_noticed: bool, now: float) -> None:
        for worker in self._workers[: self._of.n_die]:
            if not is_noticed:
                worker.is_dead = True
                continue
            worker.is_known_dead = True
            self._unplaced.extend((*worker.queue, *sorted(worker.at_work, key=lambda job: job[1])))
            worker.queue.clear()
            self._ask_again(worker)
            worker.at_work.clear()

    def _at(self, when: float, what: str, chat: int = -1, worker: int = -1, arrival: float = 0.0) -> None:
        heapq.heappush(self._events, (when, next(self._order), what, chat, worker, arrival))


def _takes(seconds: float) -> Link:
    """A link that takes that long for the rows of one chat, and was measured."""
    return Link(seconds / 2, N_TOKENS * ROW_BYTES / (seconds / 2))


def report(scenarios: Sequence[Scenario]) -> str:
    """A table in Markdown."""
    lines = [
        "| 100 workers, owner and two others | wait mean / p99 | design | rows in memory | chat moved | turns |",
        "|---|---|---|---|---|---|",
    ]
    for scenario in scenarios:
        begun = time.process_time()
        waits = Simulation(scenario).run()
        lines.append(
            f"| {scenario.name}, load {scenario.load:g} | {waits.mean * 1e3:.0f} / {waits.p99 * 1e3:.0f} ms "
            f"| {DESIGN[scenario.name]} | {waits.in_memory:.0%} | {waits.moved:.0%} | {waits.n_turns} |"
        )
        print(f"{scenario.name}: {time.process_time() - begun:.0f} s of CPU", flush=True)
    return "\n".join(lines)


def main() -> None:
    print(report(SCENARIOS))


if __name__ == "__main__":
    main()
