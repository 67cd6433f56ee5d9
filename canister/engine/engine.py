"""The engine: a model's context on the thread that decodes, and the asyncio side of it.

A call's way through here: `generate` posts it to the thread; there its prompt is planned, it waits for a slot, the
conversation is brought into it, it is decoded step by step, and the result handed to the event loop, once per step for
all calls. Everything that touches llama.cpp's context runs on the thread, which several engines may share.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from functools import partial
from time import perf_counter

from canister.engine.chain import ChainSampler
from canister.engine.decode_thread import DecodeThread
from canister.engine.flight import Flight, Limits
from canister.engine.handover import Handover, leave
from canister.engine.llama import DecodeAborted, EngineFault, Model, ModelError
from canister.engine.loading import EngineInfo, Loaded, LoadParams, load_model, prepare
from canister.engine.machine import usable_cores
from canister.engine.nearby import Nearby
from canister.engine.residency import Residency
from canister.engine.runner import Runner
from canister.engine.samplers import Candidates
from canister.engine.scheduler import Scheduler
from canister.engine.sequence import GenerateRequest, GenerateResult
from canister.engine.stats import EngineStats
from canister.engine.ticket import Outcome, Ticket, hand_over, settle, until_done
from canister.errors import Conflict
from canister.telemetry import get_logger

__all__ = ["Engine", "EngineInfo", "EngineStats", "LoadParams", "ModelError"]


PIECE_CHARACTERS = 4096  # of a text that is too long anyway

log = get_logger(__name__)


class Engine:
    """A loaded model. Made by `load`, ended by `close`; everything but those two may be called at any time between."""

    def __init__(self, params: LoadParams, thread: DecodeThread | None = None) -> None:
        self._params = params
        self._owns_thread = thread is None
        self._thread = DecodeThread(f"engine {params.name}") if thread is None else thread
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._is_closing = False  # on the loop: no new calls
        self._is_ending = False  # on the thread: end when no call is left
        self._hands_over = False  # and leave what the next engine can use
        self._n_cores = usable_cores()
        self._fault: EngineFault | None = None  # after a bug: what all calls get until the engine is closed
        self._info: EngineInfo | None = None
        self._model: Model | None = None
        self._preparing: Generator[None, None, Loaded] | None = None
        self._loaded: Loaded | None = None
        self._decoding: Ticket | None = None  # whose chunk is being decoded
        self._over: list[Ticket] = []
        self._n_steps = self._n_row_steps = self._n_rows = self._n_prompt_tokens = self._n_cancelled = 0
        self._busy_seconds = 0.0

    # -- on the event loop

    @classmethod
    async def load(cls, params: LoadParams, thread: DecodeThread | None = None) -> Engine:
        """Load a model file. ModelError, Conflict name the file or the settings and what is wrong with them.

        thread: where to decode, beside other engines; without one the engine has its own.
        """
        engine = cls(params, thread)
        loading = asyncio.get_running_loop().run_in_executor(None, load_model, params)
        try:
            engine._model = await asyncio.shield(loading)
        except BaseException:
            await until_done(loading)  # whoever holds the file open for it may close it then
            engine._end_thread()
            raise
        engine._post(engine._begin)
        try:
            await asyncio.shield(engine._ready)
        except asyncio.CancelledError:
            engine._ready.add_done_callback(lambda ready: ready.exception())
            engine._closed.add_done_callback(lambda _: engine._end_thread())
            engine._end(drain=False)
            raise
        except BaseException:
            engine._end_thread()
            raise
        return engine

    @property
    def info(self) -> EngineInfo:
        assert self._info is not None
        return self._info

    def tokenize(self, text: str, add_bos: bool, special: bool = True) -> list[int]:
        """Tokens of a text. add_bos: put BOS first if the vocabulary says so. special: parse special tokens.

        Long texts take their time, some tokenizers' grows with the square of the length: call it in a worker thread
        then. A text that is too long for the context in any case is tokenized in pieces, so its tokens are not quite
        the right ones, but more than n_ctx.
        """
        model = self._loaded_model()
        if len(text) <= PIECE_CHARACTERS or len(text) <= self.info.n_ctx * model.longest_piece_bytes:
            return model.tokenize(text, add_bos, special)
        starts = range(0, len(text), PIECE_CHARACTERS)
        parts = [model.tokenize(text[i : i + PIECE_CHARACTERS], add_bos and i == 0, special) for i in starts]
        return [token for part in parts for token in part]

    def piece(self, token: int, special: bool) -> bytes:
        """The bytes of a token, possibly part of a character; special tokens are empty unless `special`."""
        return self._loaded_model().piece(token, special)

    def is_eog(self, token: int) -> bool:
        return self._loaded_model().is_eog(token)

    async def generate(self, request: GenerateRequest) -> GenerateResult:
        """Do one call. Cancelling it ends the work and rolls it back before this returns."""
        if self._is_closing:
            raise Conflict("The model is being unloaded: try again")
        request.check(self.info.n_vocab, self.info.n_ctx)
        loop = asyncio.get_running_loop()
        call = Ticket(request, loop, loop.create_future())
        self._post(lambda: self._submit(call))
        try:
            return await asyncio.shield(call.done)
        except asyncio.CancelledError:
            if not call.done.done():
                call.is_cancelled = True
                self._post(lambda: self._cancel(call))
                if self._decoding is call:
                    self._runner.abort()
            await until_done(call.done)  # one step at most
            call.done.exception()
            raise

    def forget(self, key: str) -> None:
        """Free the KV memory of a conversation, at once or when its call ends."""
        self._post(lambda: self._forget(key))

    def residents(self) -> dict[str, int]:
        """The conversations in the KV memory, and how many tokens each had when its last call ended."""
        return {slot.key: len(slot.tokens) for slot in self._residency.slots if slot.key is not None}

    def stats(self) -> EngineStats:
        """A look at the counters, for metrics; each by itself is sound."""
        waiting = Counter(call.caller for call in [*self._scheduler.waiting])
        pauses = [*self._scheduler.pace.pauses]
        return EngineStats(
            n_slots=self.info.n_slots,
            n_resident=len(self.residents()),
            n_running=len(self._scheduler.running),
            n_waiting=waiting.total(),
            waiting_of_callers=tuple(sorted(waiting.values(), reverse=True)),
            n_steps=self._n_steps,
            n_row_steps=self._n_row_steps,
            n_prompt_tokens=self._n_prompt_tokens,
            n_rows=self._n_rows,
            n_cancelled=self._n_cancelled,
            pause_max_seconds=max(pauses, default=0.0),
            pause_mean_seconds=sum(pauses) / max(1, len(pauses)),
            busy_seconds=self._busy_seconds,
            sources=replace(self._runner.sources),
            n_parked=len(self._residency.parking),
            parked_bytes=self._residency.parking.n_bytes,
        )

    async def close(self, *, drain: bool = True) -> None:
        """Refuse new calls, finish the running ones, or cancel them, and free the model."""
        self._end(drain)
        await asyncio.shield(self._closed)
        self._end_thread()
        self._model = None

    def _post(self, command: Callable[[], None]) -> None:
        self._thread.post(self, command)

    def _end(self, drain: bool) -> None:
        self._is_closing = True
        self._post(lambda: self._begin_end(drain))

    def _end_thread(self) -> None:
        if self._owns_thread:
            self._thread.close()

    def _loaded_model(self) -> Model:
        model = self._model
        if model is None:
            raise Conflict("The model is not loaded any more: call load_model")
        return model

    # -- on the thread: life

    @property
    def mapped_bytes(self) -> int:
        return self._model.size_bytes if self._model is not None else 0

    @property
    def has_work(self) -> bool:
        return self._preparing is not None or self._is_ending or bool(self._over) or self._has_calls

    @property
    def n_threads(self) -> int:
        return self._n_cores if self._info is None else self._info.n_threads  # what loading measures needs quiet

    def take_turn(self) -> None:
        """Go on with loading by one decode, or do one step of the calls, or end."""
        if self._preparing is not None:
            self._prepare()
        if self._over:
            self._tell()  # who has gone away does not wait for a step of the others
        if self._has_calls:
            started = perf_counter()
            self._step()
            self._busy_seconds += perf_counter() - started
        self._tell()
        if self._is_ending and not self._has_calls:
            self._leave()

    def fail(self, error: Exception) -> None:
        """After a bug no call may wait for ever: until the engine is closed, all get the fault."""
        self._fault = EngineFault(f"the engine has stopped: {error}")
        for call in self._calls():
            self._scheduler.remove(call)
            self._settle(call, self._fault)
        self._tell()
        settle(self._ready, self._fault)

    @property
    def _has_calls(self) -> bool:
        return self._loaded is not None and bool(self._scheduler.running or self._scheduler.waiting)

    def _calls(self) -> list[Ticket]:
        return [*self._scheduler.running, *self._scheduler.waiting] if self._loaded is not None else []

    def _begin(self) -> None:
        self._thread.attach(self)
        self._preparing = prepare(self._params, self._loaded_model(), self._thread.mapped_bytes)

    def _prepare(self) -> None:
        """One step of loading, until the context is there or cannot be made."""
        assert self._preparing is not None
        try:
            next(self._preparing)
        except StopIteration as done:
            self._preparing = None
            self._set_up(done.value)
            settle(self._ready, None)
        except Exception as error:
            self._preparing = None
            self._thread.detach(self)
            settle(self._ready, error)

    def _set_up(self, loaded: Loaded) -> None:
        info = self._info = loaded.info
        self._loaded = loaded
        n_rows, n_streams = loaded.context.params.n_rows, loaded.context.params.n_streams
        self._residency = Residency(info.n_slots, self._params.ram_bytes)
        self._runner = Runner(loaded.context, loaded.traits, self._residency)
        self._handover = Handover.take(self._params.handover, self.info.origin)
        self.nearby = Nearby(self._residency, loaded.traits.layout, n_streams, self._handover)
        self._scheduler: Scheduler[Ticket] = Scheduler(
            n_rows, info.policy.max_rows, max_pause_seconds=self._params.max_pause_ms / 1000
        )
        self._candidates = Candidates(info.n_vocab)
        self._limits = Limits(info.n_ctx, info.n_batch, info.can_shift, info.add_bos)

    def _leave(self) -> None:
        """No call is left, and none will come."""
        self._thread.detach(self)
        if self._loaded is not None:
            self._handover.close()
            if self._hands_over and self._fault is None:
                leave(self._params.handover, self.info.origin, self._residency.newest())
            self._loaded.context.close()
            self._loaded = None
        settle(self._closed, None)

    def _begin_end(self, drain: bool) -> None:
        self._is_ending, self._hands_over = True, drain
        if self._preparing is not None:  # whoever wanted the model does not wait for it any more
            self._preparing.close()
            self._preparing = None
        if not drain:
            for call in self._calls():
                self._cancel(call)

    # -- on the thread: calls

    def _forget(self, key: str) -> None:
        if self._loaded is not None:
            self._residency.forget(key)
            self._handover.forget(key)

    def _submit(self, call: Ticket) -> None:
        if self._fault is not None:
            self._settle(call, self._fault)
            return
        try:
            model = self._loaded_model()
            call.sampler = ChainSampler(
                model, self._candidates, call.request.sampling, call.request.seed, self._limits.n_ctx
            )
            call.planned = Flight(call.request, self._limits, model, call.sampler)
        except Exception as error:
            self._settle(call, error)
            return
        reason = call.flight.idle_reason()
        if reason is None:
            self._scheduler.add(call)
        else:
            call.flight.finish(reason)
            self._settle(call, call.flight.result)

    def _cancel(self, call: Ticket) -> None:
        if call.outcome is None and call.planned is not None:
            self._n_cancelled += 1
            call.flight.finish("cancelled")
            self._finish(call)

    def _finish(self, call: Ticket) -> None:
        """A flight has ended: settle its slot and the call."""
        self._scheduler.remove(call)
        outcome: Outcome = call.flight.result
        if call.placed is not None:
            try:
                self._runner.end(call)
            except Exception as error:
                outcome = error
                self._runner.drop(call.slot)
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
        running = self._scheduler.running if self._loaded is not None else []
        hand_over([*running, *over])

    # -- on the thread: steps

    def _step(self) -> None:
        """Schedule, run, postprocess."""
        scheduler = self._scheduler
        if scheduler.waiting and len(scheduler.running) < self.info.n_slots:
            for call in scheduler.admit(self._place, self._is_resident):
                self._advance(call, partial(self._runner.begin, call))
        step = scheduler.schedule()
        started = perf_counter()
        if step.rows:
            self._n_rows += len(step.rows)
            self._n_row_steps += 1
            self._runner.rearm()
            self._run(step.rows, partial(self._runner.decode_rows, step.rows))
        rows_end = perf_counter()
        chunk, n_chunk = step.chunk, 0
        if chunk is not None:
            n_before = chunk.flight.n_done
            self._runner.rearm()
            self._decoding = chunk  # from here on a cancel aborts the decode; one that came before is seen here
            if not chunk.is_cancelled:
                self._run([chunk], partial(self._runner.decode_chunk, chunk, step.n_chunk))
            self._decoding = None
            n_chunk = max(0, chunk.flight.n_done - n_before)
            self._n_prompt_tokens += n_chunk
        if step.rows or chunk is not None:
            self._n_steps += 1
            scheduler.account(step, rows_end - started, n_chunk, perf_counter() - rows_end)

    def _is_resident(self, call: Ticket) -> bool:
        return call.key is not None and any(slot.key == call.key for slot in self._residency.slots)

    def _place(self, call: Ticket) -> bool:
        call.placed = self._runner.place(call.request, lambda: [other.key for other in self._scheduler.waiting])
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
            self._advance(call, partial(self._runner.advance, call, row))

    def _advance(self, call: Ticket, next_tokens: Callable[[], list[int]]) -> None:
        """Sample, or stop. What goes wrong here is this call's affair alone."""
        try:
            call.shown += next_tokens()
        except Exception as error:
            self._fail(call, error)
            return
        if call.flight.finished:
            self._finish(call)
