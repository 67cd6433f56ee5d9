"""Decodes the drafts of calls in the place of a step of rows."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from time import perf_counter

from canister.engine.drafting import MOST_TOGETHER, Draft, Drafter
from canister.engine.llama_types import DecodeAborted
from canister.engine.request import Sampled
from canister.engine.runner import Runner
from canister.engine.schedule.scheduler import Scheduler, Step
from canister.engine.task import Task


class Verifier:
    """most: rows of a draft and the token before it; 0: there are no drafts. is_exact: a chat's rows have the same bits
    alone and beside others.
    """

    def __init__(self, most: int, is_exact: bool, runner: Runner, scheduler: Scheduler[Task]) -> None:
        self.drafter = Drafter(most)
        self._is_exact = is_exact
        self._runner = runner
        self._scheduler = scheduler

    def drafts(self, step: Step[Task]) -> list[Draft]:
        """A draft for each row of the step, or none at all: no prompt waits for a draft, and no chat for another's."""
        n = len(step.rows)
        if not self.drafter.most or step.chunks or not 0 < n <= (MOST_TOGETHER if self._is_exact else 1):
            return []
        costs = self._scheduler.chunk_sizer.rows
        seconds_of_one = costs.measured_seconds(1)
        for task in step.rows:
            sequence, habit = task.sequence, task.slot.habit
            if sequence.is_last and not self.drafter.has_place(task.lookup, habit, sequence.history, seconds_of_one):
                return []
        return self.drafter.drafts([task.proposal for task in step.rows], costs.measured_seconds(n), seconds_of_one)

    def decode(
        self,
        tasks: list[Task],
        drafts: list[Draft],
        advance: Callable[[Task, Callable[[], list[Sampled]]], None],
        fail: Callable[[Task, Exception], None],
    ) -> int:
        """Decode each call's next token with its draft, one call after the other. Returns the tokens that count."""
        started = perf_counter()
        n_each: list[int] = []
        for task, draft in zip(tasks, drafts, strict=True):
            n_before, begun = task.sequence.n_done, perf_counter()
            try:
                self._runner.decode_draft(task, draft.tokens)
            except DecodeAborted:
                n_each.append(0)
                continue
            except Exception as error:
                fail(task, error)
                n_each.append(0)
                continue
            advance(task, partial(self._runner.accept, task, draft.tokens))
            n_each.append(task.sequence.n_done - n_before)
            self.drafter.decoded(draft, n_each[-1], perf_counter() - begun)
            self._scheduler.give(task, n_each[-1] - 1)
        self.drafter.settle([task.slot.habit for task in tasks], n_each, perf_counter() - started)
        return sum(n_each)
