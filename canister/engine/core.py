"""The calls of a loaded model, on the decode thread, from submission to the notice of their result.

The engine plans a call's prompt, waits for a slot, brings the conversation into it, decodes step by step, and hands
results to the event loops once per step for all calls.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from time import perf_counter

from canister.engine.ahead import hand_out, may_be_there, n_lookahead, task_ahead
from canister.engine.chunk_decodes import ChunkDecodes
from canister.engine.kv.logits_file import LogitsFile, write
from canister.engine.kv.prefetch import Prefetcher
from canister.engine.kv.slots import SlotTable
from canister.engine.llama import Model
from canister.engine.llama_types import DecodeAborted, EngineFault
from canister.engine.load.loaded import Loaded, LoadParams
from canister.engine.request import Sampled
from canister.engine.runner import Runner
from canister.engine.sampling.chain import ChainSampler
from canister.engine.sampling.samplers import Candidates
from canister.engine.schedule.scheduler import ALONE, Scheduler
from canister.engine.sequence import Sequence
from canister.engine.sequence_context import ContextLimits
from canister.engine.stats import EngineStats, Tier, slot_views
from canister.engine.task import Outcome, Task, notify
from canister.engine.verifier import Verifier

MIN_SHARED_CHUNK = 4  # tokens of a prompt, of a decode that several share
HOLD_SECONDS = 0.008  # that a token waits at most for later ones, to be told together with them


class EngineCore:
    """All of it runs on the decode thread, but for its first part, which any thread may call.

    model: asks the engine for its model, which the engine may have dropped.
    """

    def __init__(self, model: Callable[[], Model], loaded: Loaded, params: LoadParams) -> None:
        info = loaded.info
        self._model = model
        self._info = info
        self._context = loaded.context
        self._logits_path = params.logits_file
        self._slot_table = SlotTable(info.n_slots, params.ram_bytes)
        self._logits_file = LogitsFile.take(params.logits_file, info.origin)
        self.runner = Runner(loaded.context, loaded.traits, self._slot_table)
        self.prefetcher = Prefetcher(
            self._slot_table, loaded.traits.layout, loaded.context.params.n_streams, self._logits_file
        )
        joins_prompts = loaded.traits.joins_prompts
        self.scheduler: Scheduler[Task] = Scheduler(
            loaded.context.params.n_rows,
            info.policy.max_rows,
            max_pause_seconds=params.max_pause_ms / 1000,
            cut_matters=info.policy.repeats_cut,
            min_shared=max(MIN_SHARED_CHUNK, info.policy.chunk.block) if joins_prompts else 0,
        )
        self._candidates = Candidates(info.n_vocab)
        repeats_cut = info.policy.repeats_cut
        n_rows = loaded.context.params.n_rows
        uses_whole = repeats_cut and loaded.traits.layout is None
        self._limits = ContextLimits(
            info.n_ctx, info.n_batch, info.can_shift, info.add_bos, repeats_cut, uses_whole, min(ALONE, n_rows)
        )
        self._verifier = Verifier(loaded, self.runner, self.scheduler)
        self._n_lookahead = n_lookahead(info.n_vocab)
        self._can_go_ahead = loaded.traits.layout is not None and loaded.traits.rolls_back and not repeats_cut
        self._fault: EngineFault | None = None
        joins_begun = joins_prompts and loaded.context.closes_gaps  # else a broken decode leaves some
        self._chunks = ChunkDecodes(self.runner, self.scheduler, joins_begun=joins_begun, cut_matters=repeats_cut)
        self._ended: list[Task] = []
        self._n_steps = self._n_row_steps = self._n_rows = self._n_prompt_tokens = self._n_cancelled = 0
        self._busy_seconds = 0.0
        self._told_at = 0.0  # when callers were told of tokens
        self._has_shared = False  # did several calls have a row of the last step?

    # -- from any thread

    def abort_chunk(self, task: Task) -> None:
        """End the running decode if it is a prompt chunk of this call alone."""
        self._chunks.abort(task)

    def coming(self, task: Task) -> AbstractContextManager[None]:
        """While a call is submitted, so that short prompts share a decode."""
        return self._chunks.coming(task)

    def hand_out_beside(self, task: Task) -> bool:
        """Let a call that comes while the thread decodes have rows that were decoded ahead of it.

        True: the task has its result. Otherwise it may be planned by now, and is to be submitted.
        """
        if not self.runner.gate.acquire(blocking=False):
            return False
        try:
            return self._hand_out(task)
        finally:
            self.runner.gate.release()

    def _hand_out(self, task: Task) -> bool:
        if self._fault is not None or not (self._can_go_ahead and may_be_there(task)):
            return False
        if task.planned is None:
            self._plan(task)
        return hand_out(task, self.scheduler.running, self._slot_table, self.runner)

    def residents(self) -> dict[str, int]:
        """The conversations in the KV memory, and how many tokens each had when its last call ended."""
        return {slot.key: len(slot.tokens) for slot in self._slot_table.slots if slot.key is not None}

    def tier_of(self, key: str) -> Tier:
        """Where the nearest state of a conversation is."""
        if self._slot_table.slot_of(key) is not None:
            return "slot"
        return "memory" if self._slot_table.state_cache.get(key) is not None else "file"

    def stats(self) -> EngineStats:
        """The current counters, for metrics. Each is right by itself; together they may be of two moments."""
        running = tuple(self.scheduler.running)
        positions = {task.slot.stream: task.sequence.position for task in running if task.placed}
        return EngineStats(
            n_slots=self._info.n_slots,
            n_resident=len(self.residents()),
            n_running=len(self.scheduler.running),
            n_waiting=len(self.scheduler.waiting),
            n_steps=self._n_steps,
            n_row_steps=self._n_row_steps,
            n_prompt_tokens=self._n_prompt_tokens,
            n_rows=self._n_rows,
            n_cancelled=self._n_cancelled,
            busy_seconds=self._busy_seconds,
            sources=replace(self.runner.sources),
            n_parked=len(self._slot_table.state_cache),
            parked_bytes=self._slot_table.state_cache.n_bytes,
            prefill_tps=self.scheduler.chunk_sizer.prefill_tps,
            decode_tps=self.scheduler.chunk_sizer.decode_tps,
            pause_seconds=self.scheduler.chunk_sizer.max_pause_seconds,
            slots=slot_views(self._slot_table.slots, positions),
            n_drafted=self._verifier.drafter.n_drafted,
            n_accepted=self._verifier.drafter.n_accepted,
        )

    # -- the whole

    @property
    def has_tasks(self) -> bool:
        """Does any call wait or run?"""
        return bool(self.scheduler.running or self.scheduler.waiting)

    @property
    def has_work(self) -> bool:
        return bool(self._ended) or self.has_tasks

    def take_turn(self, *, is_shared: bool = False) -> None:
        """Do one step of the running calls and notify the callers of finished ones, and of new tokens.

        is_shared: other engines take turns on the thread too.
        """
        if self._ended:
            self._notify()  # a cancelled call does not wait for a step of the others
        if self.has_tasks:
            started = perf_counter()
            self._step()
            now = perf_counter()
            self._busy_seconds += now - started
            if not is_shared and self._may_hold(2 * now - started):
                return
            self._told_at = now
        self._notify()

    def _may_hold(self, next_end: float) -> bool:
        """May the tokens of this step be told with those of the next? For the event loop it is dear to be woken, and a
        small model makes a thousand tokens a second. The first one of a call never waits, nor does one for a prompt.
        """
        return (
            next_end - self._told_at < HOLD_SECONDS
            and not self._ended
            and not self.scheduler.waiting
            and bool(self.scheduler.running)
            and all(task.is_told and task.wants_row for task in self.scheduler.running)
        )

    def fail(self, fault: EngineFault) -> None:
        """Give the fault to all calls, and to every later one, so that none waits for ever."""
        self._fault = fault
        for task in self._all():
            self.scheduler.remove(task)
            self._settle(task, fault)
        self._notify()

    def cancel_all(self) -> None:
        for task in self._all():
            self.cancel(task)

    def give_back_cells(self) -> None:
        """Give back the memory of all cells, before the first call; on any thread."""
        self.runner.give_back_cells()

    def end(self, *, keeps_logits: bool) -> None:
        """When no call is left: write the file of logits for the next engine."""
        self._logits_file.close()
        if keeps_logits and self._fault is None:
            write(self._logits_path, self._info.origin, self._slot_table.newest())

    def close(self) -> None:
        """After `end`: free the context; on any thread."""
        self._context.close()
        self._verifier.close()

    def _all(self) -> list[Task]:
        return [*self.scheduler.running, *self.scheduler.waiting]

    # -- each

    def forget(self, key: str) -> None:
        # What was to be decoded ahead would begin the whole chat anew.
        self._end_ahead(lambda ahead: ahead.key == key)
        self._slot_table.forget(key)
        self._logits_file.forget(key)
        self._verifier.forget(key)

    def submit(self, task: Task) -> None:
        self._chunks.arrived(task)
        if self._fault is not None:
            self._settle(task, self._fault)
            return
        try:
            if self._hand_out(task):
                self._ended.append(task)
                return
            self._end_ahead(lambda ahead: ahead.key == task.key)
            if task.planned is None:
                self._plan(task)
        except Exception as error:
            self._settle(task, error)
            return
        reason = task.sequence.idle_reason()
        if reason is None:
            self.scheduler.add(task)
        else:
            task.sequence.finish(reason)
            self._settle(task, task.sequence.result)

    def _plan(self, task: Task, *, goes_on: bool = False) -> None:
        """goes_on: with a sampler that has sampled what is given."""
        model, request = self._model(), task.request
        if task.sampler is None:
            task.sampler = ChainSampler(
                model,
                self._candidates,
                request.sampling,
                request.seed,
                request.n_draws,
                self._limits.n_ctx,
                task.binding,
            )
        task.planned = Sequence(request, self._limits, model, task.sampler, goes_on=goes_on)

    def cancel(self, task: Task) -> None:
        if task.outcome is None and task.planned is not None:
            self._n_cancelled += 1
            task.sequence.finish("cancelled")
            self._finish(task)

    def _finish(self, task: Task) -> None:
        """The sequence of a call has ended: settle its slot and the call."""
        self.scheduler.remove(task)
        outcome: Outcome = task.sequence.result
        if task.placed is not None:
            if not task.is_ahead:
                self._verifier.keep_text(task)
            try:
                self.runner.end(task)
            except Exception as error:
                outcome = error
                self.runner.drop(task.slot)
            self._slot_table.give_back(task.slot)
        if task.is_ahead and task.request.ahead is not None and task.request.ahead.is_guess:
            task.request.ahead.is_over = True  # its tokens stay in the slot as long as nobody needs it otherwise
        may_go_on = self._can_go_ahead and not task.is_ahead and not isinstance(outcome, Exception)
        may_guess = self._has_shared and all(each.is_ahead for each in self.scheduler.waiting)
        ahead = task_ahead(task, self._n_lookahead, may_guess=may_guess) if may_go_on else None
        self._settle(task, outcome)
        if ahead is not None:
            self._begin_ahead(ahead, goes_on=task.sequence.has_begun)

    def _fail(self, task: Task, error: Exception) -> None:
        if task.outcome is None:
            task.sequence.finish("error")
            self._finish(task)
            task.outcome = error

    def _settle(self, task: Task, outcome: Outcome) -> None:
        task.outcome = outcome
        if task.sampler is not None:
            task.sampler.close()
        if not task.is_ahead:
            self._ended.append(task)

    def _notify(self, *, ended_only: bool = False) -> None:
        ended, self._ended = self._ended, []
        notify(ended if ended_only else [*self.scheduler.running, *ended])

    # -- ahead of the calls

    def _begin_ahead(self, ahead: Task, *, goes_on: bool) -> None:
        try:
            self._plan(ahead, goes_on=goes_on and ahead.sampler is not None)
        except Exception as error:
            self._settle(ahead, error)
        else:
            self.scheduler.add(ahead)

    def _end_ahead(self, is_over: Callable[[Task], bool]) -> None:
        for task in self._all():
            if task.is_ahead and is_over(task):
                task.sequence.finish("cancelled")
                self._finish(task)

    def _make_room(self) -> None:
        """What is decoded ahead ends when nobody will need it, and takes no slot that a call waits for."""
        self._end_ahead(lambda ahead: ahead.request.ahead is None or ahead.request.ahead.is_over)
        if len(self.scheduler.running) >= self._info.n_slots and any(
            not each.is_ahead for each in self.scheduler.waiting
        ):
            first = next((task for task in self.scheduler.running if task.is_ahead), None)
            self._end_ahead(lambda ahead: ahead is first)

    # -- steps

    def _step(self) -> None:
        """Schedule, run, postprocess."""
        scheduler = self.scheduler
        self._make_room()
        while scheduler.waiting and len(scheduler.running) < self._info.n_slots:
            admitted = scheduler.admit(self._place, self._is_resident)
            for task in admitted:
                task.sequence.start_clock()
                self._advance(task, partial(self.runner.begin, task))
            if not any(task.outcome is not None for task in admitted):
                break  # else what follows a call that has ended at once begins with this step too
        step = scheduler.schedule()
        drafts = self._verifier.drafts(step)
        if step.chunks or scheduler.chunk_sizer.rows.seconds(len(step.rows)) > HOLD_SECONDS:
            self._notify()  # of what was drawn from logits that were there, and who has ended
        started = perf_counter()
        self._has_shared = len(step.rows) > 1 and not drafts
        if step.rows:
            self._n_row_steps += 1
            self.runner.rearm()
            if drafts:
                self._n_rows += self._verifier.decode(step.rows, drafts, self._advance, self._fail)
            else:
                self._n_rows += len(step.rows)
                self._run(step.rows, partial(self.runner.decode_rows, step.rows))
        if step.chunks:
            self._notify(ended_only=True)  # they are committed, and the next calls come, while the chunk is decoded
        rows_end = perf_counter()
        n_before = [task.sequence.n_done for task in step.chunks]
        with self._chunks.of(step) as chunks:
            if chunks:
                n_each = self._chunks.timely(chunks, step.n_chunk)
                self._run(chunks, partial(self.runner.decode_chunks, chunks, n_each))
        n_chunks = [max(0, task.sequence.n_done - n) for task, n in zip(step.chunks, n_before, strict=True)]
        self._n_prompt_tokens += sum(n_chunks)
        self._chunks.ended(step, n_chunks)
        if step.rows or step.chunks:
            self._n_steps += 1
            rows_seconds = None if drafts else rows_end - started
            scheduler.account(step, rows_seconds, n_chunks, perf_counter() - rows_end)
            if rows_seconds is not None:
                self._verifier.went_on(step.rows, rows_seconds)
        for task in step.chunks:
            if task.outcome is None and not task.is_ahead and task.sequence.end_in_time():
                self._finish(task)

    def _is_resident(self, task: Task) -> bool:
        return task.key is not None and any(slot.key == task.key for slot in self._slot_table.slots)

    def _place(self, task: Task) -> bool:
        task.placed = self.runner.place(task.request, lambda: [other.key for other in self.scheduler.waiting])
        return task.placed is not None

    def _run(self, tasks: list[Task], decode: Callable[[], list[tuple[Task, int]]]) -> None:
        try:
            reached = decode()
        except DecodeAborted:
            return  # the caller that aborted has posted a cancel too; other calls go on with the next step
        except Exception as error:
            for task in tasks:
                self._fail(task, error)
            return
        for task, row in reached:
            self._advance(task, partial(self.runner.advance, task, row))

    def _advance(self, task: Task, next_tokens: Callable[[], list[Sampled]]) -> None:
        """Sample or stop. An error here ends this call alone."""
        try:
            task.shown += next_tokens()
        except Exception as error:
            self._fail(task, error)
            return
        if task.sequence.finished:
            self._finish(task)
