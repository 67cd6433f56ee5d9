"""A curve of the bench of growth: what something takes, by how much there is."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from canister import dispatch
from canister.runtime.canister import Canister
from tests.bench.results import Row
from tests.bench.servers import BenchError

CALLS = 24  # whose median is a point
GOAL = 1.3


@dataclass(frozen=True, slots=True)
class Curve:
    """What something takes, by the number of what there is; it may not grow. fewest: numbers below it are told, but not
    compared with, since a page is not full there, or so few hide behind what is there once.
    """

    name: str
    unit: str
    by: str
    points: list[tuple[int, float]] = field(default_factory=list)
    fewest: int = 0

    def add(self, n: int, value: float) -> None:
        self.points.append((n, value))
        print(f"  {self.name:60} {n:>9} {self.by:14} {value:10.3f} {self.unit}", flush=True)

    def row(self) -> Row:
        """The last point against the first one that says something."""
        compared = [point for point in self.points if point[0] >= self.fewest] or self.points
        (n_first, first), (n_last, last) = compared[0], compared[-1]
        told = ", ".join(f"{value:.3g} at {n:,}".replace(",", " ") for n, value in self.points)
        return Row(
            f"{self.name}: {n_last:,} {self.by} against {n_first:,}".replace(",", " "),
            last,
            first,
            self.unit,
            last / first,
            GOAL,
            at_least=False,
            peer_name=f"{n_first:,} {self.by}".replace(",", " "),
            note=f"{told} {self.unit}",
            samples={"values": [value for _, value in self.points]},
        )


@contextmanager
def took(seconds: list[float]) -> Iterator[None]:
    """Adds the time of processors that this process took meanwhile."""
    begun = time.process_time()
    yield
    seconds.append(time.process_time() - begun)


def milliseconds(seconds: list[float]) -> float:
    return statistics.median(seconds) * 1000


async def execute(canister: Canister, method: str, argument: Any, caller: str) -> Any:
    """The value of a call's reply."""
    row = dispatch.find_method(canister, method)
    reply = await dispatch.execute(canister, row, caller, lambda: argument)
    if reply.error is not None:
        raise BenchError(f"{method}: {reply.error}")
    return reply.value


def scaled(counts: tuple[int, ...], scale: float) -> list[int]:
    """All of them, or two small ones to see whether it runs."""
    return list(counts) if scale == 1 else [counts[0], 2 * counts[0]]
