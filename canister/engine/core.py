"""The calls of a loaded model, on the thread that decodes: from where they come in to where they are handed over.

A call's prompt is planned, it waits for a slot, the conversation is brought into it, it is decoded step by step, and
its result handed to the event loop, once per step for all calls.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from time import perf_counter

from canister.engine.kv.logits_file import Handover, leave
from canister.engine.kv.prefetch import Nearby
from canister.engine.kv.slots import Residency
from canister.engine.llama import DecodeAborted, EngineFault, Model
from canister.engine.load.loader import Loaded, LoadParams
from canister.engine.runner import Runner
from canister.engine.sampling.chain import ChainSampler
from canister.engine.sampling.samplers import Candidates
from canister.engine.schedule.scheduler import ALONE, Scheduler
from canister.engine.sequence import Flight, Limits
from canister.engine.stats import EngineStats
from canister.engine.task import Outcome, Ticket, hand_over


class Calls:
    """All of it runs on the thread, but `abort_chunk`, `residents` and `stats`, which may be called from any.

    model: it is the engine's, which may drop it. nearby: what is known of conversations outside of their containers;
    for any thread.
    """

    def __init__(self, model: Callable[[], Model], loaded: Loaded, params: LoadParams) -> None:
        info = loaded.info
        self._model = model
        self._info = info
        self._context = loaded.context
        self._handover_path = params.handover
        self._residency = Residency(info.n_slots, params.ram_bytes)
        self._handover = Handover.take(params.handover, info.origin)
        self.runner = Runner(loaded.context, loaded.traits, self._residency)
        self.nearby = Nearby(self._residency, loaded.traits.layout, loaded.context.params.n_streams, self._handover)
        self.scheduler: Scheduler[Ticket] = Scheduler(
            loaded.context.params.n_rows,
            info.policy.max_rows,
            max_pause_seconds=params.max_pause_ms / 1000,
            cut_matters=info.policy.repeats_cut,
        )
        self._candidates = Candidates(info.n_vocab)
        repeats_cut = info.policy.repeats_cut
        n_rows = loaded.context.params.n_rows
        uses_whole = repeats_cut and loaded.traits.layout is None
        self._limits = Limits(
            info.n_ctx, info.n_batch, info.can_shift, info.add_bos, repeats_cut, uses_whole, min(ALONE, n_rows)
        )
        self._fault: EngineFault | None = None
        self._decoding: Ticket | None = None  # whose chunk is being decoded
        self._over: list[Ticket] = []
        self._n_steps = self._n_row_steps = self._n_rows = self._n_prompt_tokens = self._n_cancelled = 0
        self._busy_seconds = 0.0

    # -- from any thread

    def abort_chunk(self, call: Ticket) -> None:
        """End the decode that is under way if it is of this call's prompt alone."""
        if self._decoding is call:
            self.runner.abort()

    def residents(self) -> dict[str, int]:
        """The conversations in the KV memory, and how many tokens each had when its last call ended."""
        return {slot.key: len(slot.tokens) for slot in self._residency.slots if slot.key is not None}

    def stats(self) -> EngineStats:
        """A look at the counters, for metrics; each by itself is sound."""
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
            n_parked=len(self._residency.parking),
            parked_bytes=self._residency.parking.n_bytes,
        )

    # -- the whole

    @property
    def are_left(self) -> bool:
        """Does any wait or run?"""
        return bool(self.scheduler.running or self.scheduler.waiting)

    @property
    def has_work(self) -> bool:
        return bool(self._over) or self.are_left

    def take_turn(self) -> None:
        """One step of those that are left; who is over is told."""
        if self._over:
            self._tell()  # who has gone away does not wait for a step of the others
        if self.are_left:
            started = perf_counter()
            self._step()
            self._busy_seconds += perf_counter() - started
        self._tell()

    def fail(self, fault: EngineFault) -> None:
        """No call may wait for ever: all get the fault, and whatever comes later."""
        self._fault = fault
        for call in self._all():
            self.scheduler.remove(call)
            self._settle(call, fault)
        self._tell()

    def cancel_all(self) -> None:
        for call in self._all():
            self.cancel(call)

    def give_back_cells(self) -> None:
        """The memory of all cells, before the first call; on any thread."""
        self.runner.give_back_cells()

    def leave(self, *, hands_over: bool) -> None:
        """When none is left: leave behind what the next engine can use."""
        self._handover.close()
        if hands_over and self._fault is None:
            leave(self._handover_path, self._info.origin, self._residency.newest())

    def close(self) -> None:
        """After `leave`: free the context; on any thread."""
        self._context.close()

    def _all(self) -> list[Ticket]:
        return [*self.scheduler.running, *self.scheduler.waiting]

    # -- each

    def forget(self, key: str) -> None:
        self._residency.forget(key)
        self._handover.forget(key)

    def submit(self, call: Ticket) -> None:
        if self._fault is not None:
            self._settle(call, self._fault)
            return
        try:
            model = self._model()
            call.sampler = ChainSampler(
                model, self._candidates, call.request.sampling, call.request.seed, self._limits.n_ctx
            )
            call.planned = Flight(call.request, self._limits, model, call.sampler)
        except Exception as error:
            self._settle(call, error)
            return
        reason = call.flight.idle_reason()
        if reason is None:
            self.scheduler.add(call)
        else:
            call.flight.finish(reason)
            self._settle(call, call.flight.result)

    def cancel(self, call: Ticket) -> None:
        if call.outcome is None and call.planned is not None:
            self._n_cancelled += 1
            call.flight.finish("cancelled")
            self._finish(call)

    def _finish(self, call: Ticket) -> None:
        """A flight has ended: settle its slot and the call."""
        self.scheduler.remove(call)
        outcome: Outcome = call.flight.result
        if call.placed is not None:
            try:
                self.runner.end(call)
            except Exception as error:
                outcome = error
                self.runner.drop(call.slot)
            self._residency.give_back(call.slot)
        self._settle(call, outcome)

    def _fail(self, call: Ticket, error: Exception) -> None:
        if call.outcome is None:
            call.flight.finish("error")
            self._finish(call)
            call.outcome = error

    def _settle(self, call: Ticket, outcome: Outcome) -> None:
        call.outcome = outcome
        if call.sampler is not None:
            call.sampler.close()
        self._over.append(call)

    def _tell(self) -> None:
        over, self._over = self._over, []
        hand_over([*self.scheduler.running, *over])

    # -- steps

    def _step(self) -> None:
        """Schedule, run, postprocess."""
        scheduler = self.scheduler
        if scheduler.waiting and len(scheduler.running) < self._info.n_slots:
            for call in scheduler.admit(self._place, self._is_resident):
                self._advance(call, partial(self.runner.begin, call))
        step = scheduler.schedule()
        started = perf_counter()
        if step.rows:
            self._n_rows += len(step.rows)
            self._n_row_steps += 1
            self.runner.rearm()
            self._run(step.rows, partial(self.runner.decode_rows, step.rows))
        rows_end = perf_counter()
        chunk, n_chunk = step.chunk, 0
        if chunk is not None:
            n_before = chunk.flight.n_done
            self.runner.rearm()
            self._decoding = chunk  # from here on a cancel aborts the decode; one that came before is seen here
            if not chunk.is_cancelled:
                self._run([chunk], partial(self.runner.decode_chunk, chunk, step.n_chunk))
            self._decoding = None
            n_chunk = max(0, chunk.flight.n_done - n_before)
            self._n_prompt_tokens += n_chunk
        if step.rows or chunk is not None:
            self._n_steps += 1
            scheduler.account(step, rows_end - started, n_chunk, perf_counter() - rows_end)

    def _is_resident(self, call: Ticket) -> bool:
        return call.key is not None and any(slot.key == call.key for slot in self._residency.slots)

    def _place(self, call: Ticket) -> bool:
        call.placed = self.runner.place(call.request, lambda: [other.key for other in self.scheduler.waiting])
        return call.placed is not None

    def _run(self, calls: Sequence[Ticket], decode: Callable[[], list[tuple[Ticket, int]]]) -> None:
        try:
            reached = decode()
        except DecodeAborted:
            return  # whoever asked for it has sent a command as well; the others go on with the next step
        except Exception as error:
            for call in calls:
                self._fail(call, error)
            return
        for call, row in reached:
            self._advance(call, partial(self.runner.advance, call, row))

    def _advance(self, call: Ticket, next_tokens: Callable[[], list[int]]) -> None:
        """Sample, or stop. What goes wrong here is this call's affair alone."""
        try:
            call.shown += next_tokens()
        except Exception as error:
            self._fail(call, error)
            return
        if call.flight.finished:
            self._finish(call)
