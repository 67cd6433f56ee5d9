"""Collects what is proposed to follow in chats, and decodes the drafts in the place of a step of rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from time import perf_counter

import numpy as np

from canister.engine.drafting.drafter import MOST_TOGETHER, Draft, Drafter, Proposal
from canister.engine.drafting.habit import CallerHabits, Habit
from canister.engine.drafting.lookup import CallerTexts
from canister.engine.drafting.model import CREDIT
from canister.engine.llama_types import DecodeAborted
from canister.engine.load.loaded import Loaded
from canister.engine.request import Sampled, Tokens
from canister.engine.runner import Runner
from canister.engine.schedule.scheduler import Scheduler, Step
from canister.engine.task import Task

ENOUGH_SEEN = 12  # guesses of a caller's chats, after which it is known about what they are like


class Verifier:
    """Of one engine, on the decode thread. What may follow is looked up, guessed by a small model, or both."""

    def __init__(self, loaded: Loaded, runner: Runner, scheduler: Scheduler[Task]) -> None:
        info = loaded.info
        self.drafter = Drafter(info.n_verified)
        self._texts = CallerTexts()
        self._is_exact = info.policy.is_exact
        self._looks_up = "ngram-simple" in info.spec_type and info.n_verified > 0
        self._model = loaded.draft_model
        self._habits = CallerHabits()
        self._runner = runner
        self._scheduler = scheduler
        self._draft_seconds = 0.0  # that it took to propose the drafts of this step
        self._has_guessed = False  # in this step

    def keep_text(self, task: Task) -> None:
        """A call has ended: what its chat says may come again in its caller's other chats. Not of one that is gone."""
        key = task.slot.key
        if self._looks_up and key is not None and task.sequence.finished not in ("cancelled", "error"):
            self._texts.put(task.caller, key, task.sequence.history)

    def forget(self, key: str) -> None:
        """A chat is gone."""
        self._texts.forget(key)

    def close(self) -> None:
        """Free the small model; on any thread, when no call is left."""
        if self._model is not None:
            self._model.close()

    def drafts(self, step: Step[Task]) -> list[Draft]:
        """A draft for each row of the step, or none at all: no prompt waits for a draft, and no chat for another's."""
        n = len(step.rows)
        if not self.drafter.most or step.chunks or not 0 < n <= (MOST_TOGETHER if self._is_exact else 1):
            return []
        costs = self._scheduler.chunk_sizer.rows
        seconds_of_one = costs.measured_seconds(1)
        started, self._has_guessed = perf_counter(), False
        proposals = []
        for task in step.rows:
            proposed = self._proposals(task, seconds_of_one)
            if not proposed:
                return []
            proposals.append(proposed)
        drafts = self.drafter.drafts(proposals, costs.measured_seconds(n), seconds_of_one)
        if not drafts and n == 1 and not self._has_guessed:
            self._try_out(step.rows[0], seconds_of_one)
        self._draft_seconds = perf_counter() - started
        return drafts

    def _proposals(self, task: Task, seconds_of_one: float) -> list[Proposal]:
        sequence, habit = task.sequence, task.slot.habit
        if not sequence.is_last:
            known = sequence.known
            return [Proposal(habit, partial(np.resize, known), len(known), is_known=True)]
        proposals, history, n_more = list[Proposal](), sequence.history, sequence.n_more
        others = partial(self._texts.of, task.caller)
        if self._looks_up and self.drafter.has_place(task.lookup, habit, history, seconds_of_one, others):
            proposals.append(Proposal(habit, partial(task.lookup.draft, history), n_more))
        model = self._model
        if model is not None and seconds_of_one:
            habit = self._habit_of(task)
            task.guess.note(history, habit)
            needed = model.catch_up_seconds(task.slot.stream, history) + model.seconds
            if habit.purse.balance + CREDIT * seconds_of_one >= needed:
                proposals.append(Proposal(habit, partial(self._guesses, task), n_more, model.seconds))
        return proposals

    def _habit_of(self, task: Task) -> Habit:
        """What the model's guesses were like in a chat."""
        slot = task.slot
        if slot.guess_habit is None:
            slot.guess_habit = self._habits.of_chat(task.caller)
        return slot.guess_habit

    def _guesses(self, task: Task, n: int) -> Tokens:
        """The guesses of the model, if they are enough for a draft. Those that are not cost time all the same."""
        assert self._model is not None
        history, started = task.sequence.history, perf_counter()
        tokens = self._model.draft(task.slot.stream, history, n)
        task.guess.at, task.guess.tokens = len(history), tokens
        self._has_guessed = True
        if len(tokens) >= max(1, self._model.n_min):
            return tokens
        self._habit_of(task).spend(perf_counter() - started)
        return tokens[:0]

    def _try_out(self, task: Task, seconds_of_one: float) -> None:
        """Nothing is worth a draft: guess one token without decoding it here, to learn whether it would be by now.

        What is not known of a caller at all may be learnt on credit.
        """
        model, sequence = self._model, task.sequence
        if model is None or not sequence.is_last or not sequence.n_more or len(task.guess.tokens) or not seconds_of_one:
            return
        habit, purse = self._habit_of(task), self._habit_of(task).purse
        left = purse.balance + CREDIT * seconds_of_one - model.catch_up_seconds(task.slot.stream, sequence.history)
        if purse.balance >= 0 or (purse.n_seen < ENOUGH_SEEN and left >= 0):
            started = perf_counter()
            tokens = model.draft(task.slot.stream, sequence.history, 1)
            task.guess.at, task.guess.tokens = len(sequence.history), tokens
            habit.spend(perf_counter() - started)

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
        self.drafter.settle(drafts, n_each, perf_counter() - started + self._draft_seconds)
        return sum(n_each)

    def went_on(self, tasks: Sequence[Task], seconds: float) -> None:
        """A step without drafts took so long."""
        for task in tasks:
            task.slot.habit.go_on(seconds)
            if task.slot.guess_habit is not None:
                task.slot.guess_habit.go_on(seconds / len(tasks))  # chats of one caller have one balance
