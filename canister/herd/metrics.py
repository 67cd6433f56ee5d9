"""What a herd tells at `/metrics`, beside what every server does. Read when somebody asks; money and objects from time
to time, since that costs a query.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterable, Iterator, Sequence
from typing import TYPE_CHECKING, get_args

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from canister.errors import CanisterUnavailable
from canister.herd.journal.records import Supply
from canister.herd.workers import WorkerPhase
from canister.telemetry.metrics import REGISTRY

if TYPE_CHECKING:
    from canister.herd.journal.journal import Journal
    from canister.herd.leader import Leader
    from canister.herd.objects.objects import Objects, StoredObject
    from canister.herd.stored_transfers import StoredTransfers
    from canister.herd.workers import Workers

LOOK_SECONDS = 15.0
PRICES = (0.0, 1.0, 1.5, 2.0, 5.0, 10.0, 100.0)  # a job counts at the highest of these that its multiplier reaches


class CountedObjects:
    """An `Objects` that counts what is done with it."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self.n: Counter[str] = Counter({"created": 0, "read": 0, "removed": 0})
        self.n_bytes: Counter[str] = Counter({"created": 0, "read": 0})

    async def create(self, key: str, body: AsyncIterable[bytes]) -> bool:
        n_bytes = 0

        async def counted() -> AsyncGenerator[bytes, None]:
            nonlocal n_bytes
            async for block in body:
                n_bytes += len(block)
                yield block

        is_new = await self._objects.create(key, counted())
        self.n["created"] += is_new
        self.n_bytes["created"] += n_bytes
        return is_new

    async def read(self, key: str, start: int = 0) -> AsyncGenerator[bytes, None]:
        async with contextlib.aclosing(self._objects.read(key, start)) as blocks:
            async for block in blocks:
                self.n_bytes["read"] += len(block)
                yield block
        self.n["read"] += 1

    async def size(self, key: str) -> int | None:
        return await self._objects.size(key)

    async def remove(self, key: str) -> None:
        await self._objects.remove(key)
        self.n["removed"] += 1

    def list(self, prefix: str) -> AsyncGenerator[StoredObject, None]:
        return self._objects.list(prefix)

    async def close(self) -> None:
        await self._objects.close()


class HerdMetrics(Collector):
    """Of one leader, from `watch` on."""

    def __init__(self, leader: Leader, workers: Workers, transfers: StoredTransfers, objects: CountedObjects) -> None:
        self._leader = leader
        self._workers = workers
        self._transfers = transfers
        self._objects = objects
        self._supply: Supply | None = None
        self.cycles: dict[str, int] = {}  # that canisters had when they were looked at

    async def watch(self, journal: Journal, canisters: Sequence[str]) -> None:
        """Be among the process's metrics, until cancelled. canisters: their ids."""
        REGISTRY.register(self)
        try:
            while True:
                with contextlib.suppress(CanisterUnavailable):
                    self._supply = await journal.supply()
                    self.cycles = {id: await journal.cycles(id) or 0 for id in canisters}
                await asyncio.sleep(LOOK_SECONDS)
        finally:
            REGISTRY.unregister(self)

    def collect(self) -> Iterator[Metric]:
        yield from self._queue()
        phases = Counter(worker.phase for worker in self._workers.all)
        yield _gauges(
            "canister_herd_workers",
            "Workers, by what they do.",
            "state",
            {phase: phases[phase] for phase in get_args(WorkerPhase)},
        )
        leader, transfers = self._leader, self._transfers
        yield GaugeMetricFamily("canister_herd_epoch", "How often somebody began to lead this herd.", leader.epoch)
        yield _counters(
            "canister_herd_jobs",
            "Jobs that were settled in the journal, went back into the queue, or were refused.",
            "outcome",
            {"settled": leader.tries.n_settled, "requeued": leader.n_requeued, "refused": leader.n_refused},
        )
        ways = {
            "peer": transfers.n_with_rows,
            "store": transfers.n_from_store,
            "decode": transfers.n_tokens_alone,
        }
        yield _counters("canister_herd_moves", "Chats that were brought to a worker, by the way.", "way", ways)
        yield _counters("canister_herd_objects", "Objects, by what was done.", "operation", self._objects.n)
        yield _counters("canister_herd_object_bytes", "Bytes of objects.", "operation", self._objects.n_bytes)
        if self._supply is not None:
            money = {"free": self._supply.free, "held": self._supply.held}
            yield _gauges("canister_herd_money", "Money of all accounts, in the smallest unit.", "kind", money)

    def _queue(self) -> Iterator[Metric]:
        now_ns = time.time_ns()
        n_jobs: Counter[str] = Counter()
        seconds = {f"{price:g}": 0.0 for price in PRICES}
        for job in self._leader.jobs():
            if job.worker is None:
                price = f"{max(price for price in PRICES if price <= max(job.multiplier, 0.0)):g}"
                n_jobs[price] += 1
                seconds[price] = max(seconds[price], (now_ns - job.now_ns) / 1e9)
        told = "Jobs that wait, by the multiplier that they reach."
        yield _gauges("canister_herd_queue_jobs", told, "multiplier", {price: n_jobs[price] for price in seconds})
        told = "Seconds for which the oldest of them has waited."
        yield _gauges("canister_herd_queue_seconds", told, "multiplier", seconds)


def _gauges(name: str, text: str, label: str, values: dict[str, float] | dict[str, int]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=(label,))
    for of, value in values.items():
        family.add_metric((of,), value)
    return family


def _counters(name: str, text: str, label: str, values: dict[str, int]) -> Metric:
    family = CounterMetricFamily(name, text, labels=(label,))
    for of, value in values.items():
        family.add_metric((of,), value)
    return family
