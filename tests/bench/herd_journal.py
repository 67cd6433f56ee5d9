"""The journal of a herd: `python -m tests.bench.herd_journal [--database sqlite|postgresql] [--seconds N]`.

Calls settled per second with 1, 8 and 64 that end at the same time (answer, tokens, head, money, log in one commit),
paid jobs accepted (hold and enqueue), and the queue in memory. Both databases wait for the disk. The CPU time is that
of this process, the event loop and the writer together; PostgreSQL's own is not in it.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

from canister.herd.journal import Journal, NewJob, Settled
from canister.herd.queue import JobQueue
from tests.herd.journal.parts import CALLER, CANISTER, CHARGE, Talk, path_of
from tests.herd.postgresql import NotHere, own_server

N_CHATS = 256
TURN = 10  # tokens of a call
ANSWER = bytes(400)
PROMPT = bytes(500)


@contextmanager
def database(kind: str) -> Iterator[str]:
    if kind == "postgresql":
        with own_server(is_durable=True) as server:
            yield server.url()
    else:
        with tempfile.TemporaryDirectory() as folder:
            yield f"sqlite:///{folder}/herd.db"


@asynccontextmanager
async def journal_in(url: str) -> AsyncIterator[Journal]:
    journal = await Journal.open(url)
    try:
        yield journal
    finally:
        await journal.close()


@dataclass(slots=True)
class Measured:
    """What one kind of work took."""

    n: int
    seconds: float
    cpu_seconds: float
    waits: list[float]

    def line(self, name: str) -> str:
        waits = sorted(self.waits)
        p99 = waits[min(len(waits) - 1, int(len(waits) * 0.99))]
        return (
            f"{name}: {self.n / self.seconds:6.0f} a second, waiting {1e3 * statistics.median(waits):.2f} ms "
            f"(p99 {1e3 * p99:.1f}), {1e6 * self.cpu_seconds / self.n:.0f} µs CPU each"
        )


async def measure(together: int, seconds: float, work: Callable[[int], Awaitable[object]]) -> Measured:
    """Run `work` again and again, so many at a time, each group when the one before is done."""
    waits: list[float] = []
    n = 0
    started, cpu = time.perf_counter(), time.process_time()
    while time.perf_counter() - started < seconds:

        async def one(number: int) -> None:
            begun = time.perf_counter()
            await work(number)
            waits.append(time.perf_counter() - begun)

        await asyncio.gather(*map(one, range(n, n + together)))
        n += together
    return Measured(n, time.perf_counter() - started, time.process_time() - cpu, waits)


class Settling:
    """Calls whose jobs were accepted and paid before: each goes on with one of many chats."""

    def __init__(self, journal: Journal, epoch: int) -> None:
        self.journal, self.epoch = journal, epoch
        self.talks = [Talk(path_of(f"c{n}")) for n in range(N_CHATS)]
        self.prepared: dict[int, Settled] = {}

    async def prepare(self, n: int, *, paid: bool) -> None:
        """Jobs, and their workers' replies, ready to be settled."""
        names = [os.urandom(32) for _ in range(n)]
        jobs = [
            NewJob(name, CANISTER, CALLER, "run_update", PROMPT, hold=12, payer=f"p{number % 50}")
            if paid
            else NewJob(name, CANISTER, CALLER, "run_update", PROMPT)
            for number, name in enumerate(names)
        ]
        if paid:
            await asyncio.gather(*map(self.journal.accept, jobs))
        for number, job in enumerate(jobs):
            talk = self.talks[number % N_CHATS]
            if len(talk.tokens) > 1500:
                self.talks[number % N_CHATS] = talk = Talk(path_of(os.urandom(8).hex()))
            self.prepared[number] = Settled(
                *(job.id, self.epoch, 1, "w1"),
                answer=_answer(),
                charge=CHARGE,
                chats=(talk.change(range(TURN)),),
                new=None if paid else job,
            )

    async def settle(self, number: int) -> None:
        outcome = await self.journal.settle(self.prepared.pop(number))
        assert outcome.outcome == "done", outcome


def _answer():  # type: ignore[no-untyped-def]
    from canister.herd.journal import Answer

    return Answer(ANSWER)


async def settled_per_second(journal: Journal, epoch: int, together: int, seconds: float, *, paid: bool) -> str:
    settling = Settling(journal, epoch)
    settling.talks = [Talk(path_of(f"{together} {paid} c{n}")) for n in range(N_CHATS)]
    total = Measured(0, 0.0, 0.0, [])
    while total.seconds < seconds:
        part = max(together * 4, 256)
        await settling.prepare(part, paid=paid)
        left = part
        while left:
            done = await measure_once(together, part - left, settling.settle)
            left -= together
            total.n += done.n
            total.seconds += done.seconds
            total.cpu_seconds += done.cpu_seconds
            total.waits += done.waits
    return total.line(f"  settled, {together:2} together, {'paid' if paid else 'not accepted before'}")


async def measure_once(together: int, first: int, work: Callable[[int], Awaitable[object]]) -> Measured:
    waits: list[float] = []

    async def one(number: int) -> None:
        begun = time.perf_counter()
        await work(number)
        waits.append(time.perf_counter() - begun)

    started, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*map(one, range(first, first + together)))
    return Measured(together, time.perf_counter() - started, time.process_time() - cpu, waits)


async def measure_journal(url: str, seconds: float) -> None:
    async with journal_in(url) as journal:
        epoch = await journal.lead("bench", "nowhere")
        assert epoch is not None
        for n in range(50):
            await journal.mint(f"p{n}", 10**12)

        async def accept(number: int) -> None:
            await journal.accept(
                NewJob(os.urandom(32), CANISTER, CALLER, "run_update", PROMPT, hold=12, payer=f"p{number % 50}")
            )

        for together in (1, 8, 64):
            print((await measure(together, seconds, accept)).line(f"  hold and enqueue, {together:2} together"))
        for paid in (True, False):
            for together in (1, 8, 64):
                print(await settled_per_second(journal, epoch, together, seconds, paid=paid))


@dataclass(frozen=True, slots=True)
class Waiting:
    id: bytes
    caller: str
    multiplier: float


def measure_queue() -> None:
    for n in (1000, 200_000):
        jobs = [Waiting(b"%d" % k, f"c{k % 20}", 1 + k % 10 / 10) for k in range(n)]
        queue: JobQueue[Waiting] = JobQueue()
        started = time.perf_counter()
        for job in jobs:
            queue.push(job)
        pushed = time.perf_counter()
        while queue.pop() is not None:
            pass
        ended = time.perf_counter()
        print(f"queue of {n}: push {1e6 * (pushed - started) / n:.1f} µs, pop {1e6 * (ended - pushed) / n:.1f} µs")


def main() -> None:
    parser = argparse.ArgumentParser(description=sys.modules[__name__].__doc__)
    parser.add_argument("--database", choices=["sqlite", "postgresql"], action="append")
    parser.add_argument("--seconds", type=float, default=3.0)
    given = parser.parse_args()
    measure_queue()
    for kind in given.database or ["sqlite", "postgresql"]:
        try:
            with database(kind) as url:
                print(f"{kind}:")
                asyncio.run(measure_journal(url, given.seconds))
        except NotHere as reason:
            print(f"{kind}: {reason}")


if __name__ == "__main__":
    main()
