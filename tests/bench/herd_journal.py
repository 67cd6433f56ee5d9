"""The journal of a herd: `python -m tests.bench.herd_journal [--database sqlite|postgresql] [--seconds N]`.

Jobs accepted with their fee (hold and enqueue), and calls settled (answer, ten tokens of a chat, head, money, cycles,
log row), with 1, 8 and 64 at a time, each of which waits for its commit. Both databases wait for the disk. Then the
queue in memory. CPU is that of this process and, behind the plus, that of PostgreSQL's processes.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from canister.herd.journal import Answer, Journal, NewJob, Settled
from canister.herd.queue import JobQueue
from tests.herd.journal.parts import CALLER, CANISTER, CHARGE, Talk, path_of
from tests.herd.postgresql import NotHere, PostgreSQL, own_server

N_CHATS = 256
N_PAYERS = 50
LONGEST_CHAT = 1500  # tokens
TOKENS = range(10)  # of a call
ANSWER = Answer(bytes(400))
PROMPT = bytes(500)
TOGETHER = (1, 8, 64)
BATCH = 512  # calls whose jobs are made ready before the clock runs


@contextmanager
def database(kind: str) -> Iterator[tuple[str, PostgreSQL | None]]:
    """URL of an empty one, and its server."""
    if kind == "postgresql":
        with own_server(is_durable=True) as server:
            yield server.url(), server
    else:
        with tempfile.TemporaryDirectory() as folder:
            yield f"sqlite:///{folder}/herd.db", None


class Clock:
    """Counts what is done while it runs, and what that takes."""

    def __init__(self, server: PostgreSQL | None) -> None:
        self._server = server
        self.n = 0
        self.seconds = self.cpu_seconds = self.server_seconds = 0.0
        self.waits: list[float] = []

    async def run(self, together: int, work: Sequence[Callable[[], Awaitable[object]]]) -> None:
        """All of the work, so much at a time: each part when the one before is done."""
        started, cpu, server = time.perf_counter(), time.process_time(), self._server_cpu()
        for first in range(0, len(work), together):
            await asyncio.gather(*map(self._timed, work[first : first + together]))
        self.seconds += time.perf_counter() - started
        self.cpu_seconds += time.process_time() - cpu
        self.server_seconds += self._server_cpu() - server
        self.n += len(work)

    async def _timed(self, work: Callable[[], Awaitable[object]]) -> None:
        started = time.perf_counter()
        await work()
        self.waits.append(time.perf_counter() - started)

    def _server_cpu(self) -> float:
        if self._server is None:
            return 0.0
        pids = [
            self._server.pid,
            *map(int, Path(f"/proc/{self._server.pid}/task/{self._server.pid}/children").read_text().split()),
        ]
        ticks = 0
        for pid in pids:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def tell(self, name: str) -> None:
        waits = sorted(self.waits)
        p99 = waits[int(len(waits) * 0.99)]
        cpu = f"{1e6 * self.cpu_seconds / self.n:.0f}"
        if self._server is not None:
            cpu += f" + {1e6 * self.server_seconds / self.n:.0f}"
        print(
            f"  {name:42} {self.n / self.seconds:6.0f} a second, {1e3 * statistics.median(waits):5.1f} ms each, "
            f"p99 {1e3 * p99:5.1f}; CPU {cpu} µs",
            flush=True,
        )


def job(number: int, *, paid: bool) -> NewJob:
    money = {"hold": 12, "payer": f"payer {number % N_PAYERS}"} if paid else {}
    return NewJob(os.urandom(32), CANISTER, CALLER, "run_update", PROMPT, **money)  # type: ignore[arg-type]


async def accepting(journal: Journal, clock: Clock, together: int, seconds: float) -> None:
    while clock.seconds < seconds:
        jobs = [job(number, paid=True) for number in range(BATCH)]
        await clock.run(together, [lambda one=one: journal.accept(one) for one in jobs])


async def settling(journal: Journal, epoch: int, clock: Clock, together: int, seconds: float, *, paid: bool) -> None:
    """Calls that go on with many chats in turns. paid: their jobs were accepted before, which is not measured."""
    talks = [Talk(path_of(os.urandom(8).hex())) for _ in range(N_CHATS)]
    while clock.seconds < seconds:
        jobs = [job(number, paid=paid) for number in range(BATCH)]
        if paid:
            await asyncio.gather(*map(journal.accept, jobs))
        steps = []
        for number, new in enumerate(jobs):
            if len(talks[number % N_CHATS].tokens) > LONGEST_CHAT:
                talks[number % N_CHATS] = Talk(path_of(os.urandom(8).hex()))
            change = talks[number % N_CHATS].change(TOKENS)
            told = Settled(new.id, epoch, 1, "w1", ANSWER, "ok", CHARGE, (change,), new=None if paid else new)
            steps.append(lambda told=told: settled(journal, told))
        await clock.run(together, steps)


async def settled(journal: Journal, told: Settled) -> None:
    outcome = await journal.settle(told)
    assert outcome.outcome == "done", outcome


async def measure_journal(url: str, server: PostgreSQL | None, seconds: float) -> None:
    journal = await Journal.open(url)
    epoch = await journal.lead("bench", "nowhere")
    assert epoch is not None
    for number in range(N_PAYERS):
        await journal.mint(f"payer {number}", 10**12)
    for together in TOGETHER:
        clock = Clock(server)
        await accepting(journal, clock, together, seconds)
        clock.tell(f"hold and enqueue, {together} together")
    for paid in (True, False):
        for together in TOGETHER:
            clock = Clock(server)
            await settling(journal, epoch, clock, together, seconds, paid=paid)
            clock.tell(f"settle, {together} together, {'paid' if paid else 'unpaid, not accepted before'}")
    await journal.close()


@dataclass(frozen=True, slots=True)
class Waiting:
    id: bytes
    caller: str
    multiplier: float


def measure_queue() -> None:
    print("queue in memory:")
    for n in (1000, 200_000):
        jobs = [Waiting(b"%d" % k, f"c{k % 20}", 1 + k % 10 / 10) for k in range(n)]
        queue: JobQueue[Waiting] = JobQueue()
        started = time.perf_counter()
        for one in jobs:
            queue.push(one)
        pushed = time.perf_counter()
        while queue.pop() is not None:
            pass
        ended = time.perf_counter()
        print(f"  {n} jobs: push {1e6 * (pushed - started) / n:.1f} µs, pop {1e6 * (ended - pushed) / n:.1f} µs")


def main() -> None:
    parser = argparse.ArgumentParser(description=sys.modules[__name__].__doc__)
    parser.add_argument("--database", choices=["sqlite", "postgresql"], action="append", help="both by default")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each figure")
    given = parser.parse_args()
    measure_queue()
    for kind in given.database or ["sqlite", "postgresql"]:
        print(f"{kind}:")
        try:
            with database(kind) as (url, server):
                asyncio.run(measure_journal(url, server, given.seconds))
        except NotHere as reason:
            print(f"  {reason}")


if __name__ == "__main__":
    main()
