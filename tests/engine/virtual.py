"""An engine without a model: calls that are only numbers, a scheduler, and a clock that steps move on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from canister.engine.schedule.scheduler import Scheduler


@dataclass(eq=False)
class Call:
    """n_prompt, n_rows: still to be decoded. position: tokens in the KV memory. The rest is noted for the tests."""

    caller: str
    key: str | None = None
    n_prompt: int = 0
    n_rows: int = 3
    position: int = 0
    goes_on: bool = True
    is_ahead: bool = False
    n_wanted: int = 0
    is_alone: bool = False
    due: tuple[int, int] | None = None
    added_at: int = 0
    admitted_at: int | None = None
    ended_at: int | None = None
    row_ends: list[float] = field(default_factory=list)

    @property
    def wants_row(self) -> bool:
        return self.n_prompt == 0

    def __post_init__(self) -> None:
        self.n_wanted = self.n_wanted or self.n_prompt


@dataclass(frozen=True)
class Costs:
    """Seconds: of a step of rows, and of a chunk, each with a part for the pass, per token, and for what is before."""

    rows: float = 0.040
    row: float = 0.005
    chunk: float = 0.030
    token: float = 0.004
    attention: float = 0.0

    def of_rows(self, n: int) -> float:
        return self.rows + self.row * n

    def of_chunk(self, n: int, position: int) -> float:
        return self.chunk + self.token * n + self.attention * n * (position + n / 2)


class World:
    """A scheduler with so many slots, and what became of its calls."""

    def __init__(
        self,
        n_slots: int,
        *calls: Call,
        costs: Costs | None = None,
        max_chunk: int = 256,
        max_rows: int | None = None,
        max_pause_seconds: float = 0.2,
        cut_matters: bool = False,
        min_shared: int = 0,
    ) -> None:
        self.now = 0.0
        self.n_steps = 0
        self.costs = costs or Costs()
        self.n_slots = n_slots
        self.scheduler: Scheduler[Call] = Scheduler(
            max_chunk,
            max_rows=max_rows,
            max_pause_seconds=max_pause_seconds,
            cut_matters=cut_matters,
            min_shared=min_shared,
            clock=lambda: self.now,
        )
        self.given: Counter[str] = Counter()
        self.chunks: list[tuple[Call, int]] = []
        self.add(*calls)

    def add(self, *calls: Call) -> None:
        for call in calls:
            call.added_at = self.n_steps
            self.scheduler.add(call)

    def admit(self) -> list[Call]:
        if len(self.scheduler.running) == self.n_slots:
            return []
        admitted = self.scheduler.admit(lambda _: len(self.scheduler.running) < self.n_slots)
        for call in admitted:
            call.admitted_at = self.n_steps
        return admitted

    def step(self) -> None:
        """As the engine does it."""
        self.admit()
        step = self.scheduler.schedule()
        assert len(step.rows) == len(set(step.rows))
        assert all(call.wants_row for call in step.rows)
        rows_seconds = self.costs.of_rows(len(step.rows)) if step.rows else 0.0
        self.now += rows_seconds
        self.n_steps += 1
        for call in step.rows:
            call.n_rows -= 1
            call.row_ends.append(self.now)
            self._decoded(call, 1)
        n_chunks, chunk_seconds = [min(step.n_chunk, call.n_prompt) for call in step.chunks], 0.0
        if step.chunks:
            assert step.n_chunk >= 2
            chunk_seconds = self.costs.of_chunk(len(n_chunks) * max(n_chunks), step.position)
            self.now += chunk_seconds
            for call, n in zip(step.chunks, n_chunks, strict=True):
                call.n_prompt -= n
                self.chunks.append((call, n))
                self._decoded(call, n)
        self.scheduler.account(step, rows_seconds, n_chunks, chunk_seconds)

    def run(self, n_steps: int) -> None:
        for _ in range(n_steps):
            self.step()

    def run_until_ended(self, *calls: Call, within: int) -> None:
        n_before = self.n_steps
        while any(call.ended_at is None for call in calls):
            assert self.n_steps - n_before < within, f"{within} steps were not enough"
            self.step()

    def _decoded(self, call: Call, n: int) -> None:
        call.position += n
        self.given[call.caller] += n
        if call.n_prompt == call.n_rows == 0:
            call.ended_at = self.n_steps
            self.scheduler.remove(call)


class Answer:
    """Of a chat, by calls of so many rows each: the next one comes so many seconds after the end of the one before.

    Meanwhile its row is decoded ahead. What a call may draw at its beginning is told before the step, what is drawn
    behind rows after the step. A row that ends a call draws nothing. told: when tokens were.
    """

    def __init__(self, world: World, name: str, n_rows: int, between: float) -> None:
        self.told: list[float] = []
        self._world, self._name, self._n_rows, self._between = world, name, n_rows, between
        self._ahead: Call | None = None
        self._call = Call(name, name, n_rows=n_rows)
        world.add(self._call)

    def before_step(self) -> None:
        if self._call.ended_at is None:
            return
        if self._ahead is None:
            self._ahead = Call(self._name, self._name, n_rows=10**6, is_ahead=True)
            self._world.add(self._ahead)
        if self._world.now >= self._call.row_ends[-1] + self._between:
            self._world.scheduler.remove(self._ahead)
            self._ahead = None
            self._call = Call(self._name, self._name, n_rows=self._n_rows)
            self._world.add(self._call)
            self.told.append(self._world.now)

    def after_step(self) -> None:
        if self._call.ended_at is None:
            self.told.append(self._world.now)

    @property
    def longest_pause(self) -> float:
        return max(later - earlier for earlier, later in pairwise(self.told))


def pauses(calls: Sequence[Call], since: float = 0.0) -> list[float]:
    """Between two rows of one call, of those after `since`."""
    return [later - earlier for call in calls for earlier, later in pairwise(call.row_ends) if earlier >= since]
