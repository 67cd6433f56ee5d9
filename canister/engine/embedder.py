"""The texts that wait for their vectors, on the decode thread: which come next, in one decode, and what became of them.

Callers take turns. A turn decodes the next texts of several callers together, or one long text, or a piece of one that
may be read in pieces. A decode that would hold other engines up for too long is done on a thread of its own.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from canister.engine.aside import Aside, step_back
from canister.engine.crash_notes import ModelWatch
from canister.engine.kv.reuse import Sources
from canister.engine.llama_types import DecodeAborted, EngineFault
from canister.engine.load.embedding_loader import PACK_ROWS
from canister.engine.load.loaded import LoadedEmbedder, LoadParams
from canister.engine.request import Tokens
from canister.engine.stats import EngineStats

Vectors = NDArray[np.float32]

_OWN_STREAM = 0  # of the text that is read in pieces
_SMOOTHING = 0.3  # weight of the newest time


@dataclass(slots=True, eq=False)
class EmbedTask:
    """The texts of one call, and their vectors as far as they are known. vectors: a row a text."""

    caller: str
    texts: Sequence[Tokens]
    loop: asyncio.AbstractEventLoop
    done: asyncio.Future[Vectors]
    vectors: Vectors
    n_known: int = 0
    is_over: bool = False


@dataclass(slots=True, eq=False)
class _Text:
    """A text that waits. n_done: tokens that are decoded."""

    task: EmbedTask
    index: int
    n_done: int = 0

    @property
    def tokens(self) -> Tokens:
        return self.task.texts[self.index]

    @property
    def n_left(self) -> int:
        return len(self.tokens) - self.n_done


@dataclass(slots=True)
class _Decode:
    """What one decode reads: each part is a text, its stream, and its next tokens."""

    parts: list[tuple[_Text, int, Tokens]] = field(default_factory=list)

    @property
    def n_rows(self) -> int:
        return sum(len(tokens) for _, _, tokens in self.parts)


class Pace:
    """How long decodes take, by their size, as far as they were seen. seconds: that a row of a small one takes."""

    def __init__(self, seconds: float) -> None:
        self._per_row: dict[int, float] = {0: seconds}  # by the number of bits of the rows

    def seen(self, n_rows: int, seconds: float) -> None:
        size, per_row = n_rows.bit_length(), seconds / n_rows
        self._per_row[size] = per_row + (1 - _SMOOTHING) * (self._per_row.get(size, per_row) - per_row)

    def seconds(self, n_rows: int) -> float:
        """Of a decode of so many rows. One that is larger than all before takes more for each row."""
        size = n_rows.bit_length()
        known = max(found for found in self._per_row if found <= size)
        return n_rows * self._per_row[known] * (1 if known in (0, size) else 2 ** (size - known))


class EmbedderCore:
    """All of it runs on the decode thread, but for `run` of a decode that is done aside, and `stats`."""

    def __init__(self, loaded: LoadedEmbedder, params: LoadParams, watch: ModelWatch) -> None:
        self._info = loaded.info
        self._context = loaded.context
        self._max_pause = params.max_pause_ms / 1000
        self._pace = Pace(loaded.seconds)
        self._watch = watch
        self._packs = not loaded.info.policy.is_exact
        self._piece_rows = min(PACK_ROWS // 2, loaded.context.params.n_rows)
        self._waiting: OrderedDict[str, deque[_Text]] = OrderedDict()  # by caller, the next one first
        self._in_pieces: _Text | None = None
        self._is_its_turn = False
        self._decoding: _Decode | None = None
        self._fault: EngineFault | None = None
        self._n_steps = self._n_rows = self._n_cancelled = 0
        self._busy_seconds = 0.0

    # -- from any thread

    def abort(self, task: EmbedTask) -> None:
        """End the running decode if it is for this call alone."""
        decoding = self._decoding
        if decoding is not None and all(text.task is task for text, _, _ in decoding.parts):
            self._context.abort()

    def stats(self) -> EngineStats:
        decoding = self._decoding
        return EngineStats(
            n_slots=self._info.n_slots,
            n_resident=0,
            n_running=0 if decoding is None else len(decoding.parts),
            n_waiting=sum(map(len, [*self._waiting.values()])),
            n_steps=self._n_steps,
            n_row_steps=0,
            n_prompt_tokens=self._n_rows,
            n_rows=self._n_rows,
            n_cancelled=self._n_cancelled,
            busy_seconds=self._busy_seconds,
            sources=Sources(),
            n_parked=0,
            parked_bytes=0,
        )

    # -- the whole

    @property
    def has_tasks(self) -> bool:
        return bool(self._waiting) or self._in_pieces is not None or self._decoding is not None

    @property
    def has_work(self) -> bool:
        return self.has_tasks

    def take_turn(self, *, is_shared: bool) -> Aside[None] | None:
        """Do one decode, or return it if it has to be done aside; `finish` follows then.

        is_shared: other engines wait for the thread.
        """
        if not self.has_tasks:
            return None
        self._decoding = decoding = self._next(is_shared=is_shared)
        self._context.rearm()
        if is_shared and self._pace.seconds(decoding.n_rows) > self._max_pause:
            return Aside(self._run_behind)
        work = Aside(self._run)
        work.run()
        self.finish(work)
        return None

    def finish(self, work: Aside[None]) -> None:
        """A decode is over: note what is known now, and tell who waits for it."""
        decoding, self._decoding = self._decoding, None
        assert decoding is not None
        try:
            work.result()
        except DecodeAborted:
            # The call that wanted it has gone. What others wanted of it comes again.
            self._put_back(decoding)
        except Exception as error:
            for task in {text.task for text, _, _ in decoding.parts}:
                self._end(task, error)
        else:
            self._note(decoding)
        if self._in_pieces is not None and self._in_pieces.task.is_over:
            self._in_pieces = None
            self._context.forget(_OWN_STREAM)

    def fail(self, fault: EngineFault) -> None:
        """Give the fault to all calls, and to every later one, so that none waits for ever."""
        self._fault = fault
        self._end_all(fault)

    def cancel_all(self) -> None:
        self._end_all(asyncio.CancelledError())

    def close(self) -> None:
        """When no call is left: free the context; on any thread."""
        self._context.close()

    def _end_all(self, error: BaseException) -> None:
        texts = [text for queue in self._waiting.values() for text in queue]
        texts += [] if self._in_pieces is None else [self._in_pieces]
        texts += [] if self._decoding is None else [text for text, _, _ in self._decoding.parts]
        for task in {text.task for text in texts}:
            self._end(task, error)

    # -- each

    def submit(self, task: EmbedTask) -> None:
        if self._fault is not None:
            self._end(task, self._fault)
            return
        self._waiting.setdefault(task.caller, deque()).extend(_Text(task, i) for i in range(len(task.texts)))

    def cancel(self, task: EmbedTask) -> None:
        if not task.is_over:
            self._n_cancelled += 1
            self._end(task, asyncio.CancelledError())

    def _end(self, task: EmbedTask, error: BaseException | None = None) -> None:
        if task.is_over:
            return
        task.is_over = True
        if error is not None:
            self._drop(task)
        _settle(task, error)

    def _drop(self, task: EmbedTask) -> None:
        """No text of it waits any more."""
        queue = self._waiting.pop(task.caller, None)
        left = deque(text for text in queue or () if text.task is not task)
        if left:
            self._waiting[task.caller] = left
        is_idle = self._decoding is None or all(text is not self._in_pieces for text, _, _ in self._decoding.parts)
        if self._in_pieces is not None and self._in_pieces.task is task and is_idle:
            self._in_pieces = None
            self._context.forget(_OWN_STREAM)

    # -- what comes next

    def _next(self, *, is_shared: bool) -> _Decode:
        if self._in_pieces is not None and (self._is_its_turn or not self._has_short()):
            return self._piece(self._in_pieces)
        return self._pack(is_shared=is_shared) or self._piece(self._begin_pieces())

    def _has_short(self) -> bool:
        return any(not self._is_long(queue[0]) for queue in self._waiting.values())

    def _is_long(self, text: _Text) -> bool:
        """Is it read in pieces?"""
        return not self._info.reads_whole and len(text.tokens) > self._piece_rows

    def _pack(self, *, is_shared: bool) -> _Decode | None:
        """Texts in turns of their callers, as many as one decode should have."""
        found = _Decode()
        n_rows, most = 0, 1 if not self._packs else self._info.n_slots - 1
        while len(found.parts) < most:
            n_before = len(found.parts)
            for caller in [*self._waiting]:
                queue = self._waiting[caller]
                n = len(queue[0].tokens)
                if self._is_long(queue[0]) or len(found.parts) == most:
                    continue
                if found.parts and not self._has_room(n_rows + n, is_shared=is_shared):
                    continue
                text = queue.popleft()
                found.parts.append((text, _OWN_STREAM + 1 + len(found.parts), text.tokens))
                n_rows += n
                self._waiting.move_to_end(caller)
                if not queue:
                    del self._waiting[caller]
            if len(found.parts) == n_before:
                break
        self._is_its_turn = True
        return found if found.parts else None

    def _has_room(self, n_rows: int, *, is_shared: bool) -> bool:
        if n_rows > min(PACK_ROWS, self._context.params.n_rows):
            return False
        return not is_shared or self._pace.seconds(n_rows) <= self._max_pause

    def _begin_pieces(self) -> _Text:
        """The next long text, when none is at work."""
        caller = next(iter(self._waiting))
        queue = self._waiting[caller]
        self._in_pieces = queue.popleft()
        self._waiting.move_to_end(caller)
        if not queue:
            del self._waiting[caller]
        return self._in_pieces

    def _piece(self, text: _Text) -> _Decode:
        n = min(text.n_left, self._piece_rows)
        self._is_its_turn = False
        return _Decode([(text, _OWN_STREAM, text.tokens[text.n_done : text.n_done + n])])

    # -- a decode

    def _run(self) -> None:
        """The decode, wherever it is done."""
        decoding = self._decoding
        assert decoding is not None
        streams: list[int] = []
        positions: list[int] = []
        for text, stream, tokens in decoding.parts:
            streams += [stream] * len(tokens)
            positions += range(text.n_done, text.n_done + len(tokens))
        started = perf_counter()
        with self._watch.decoding:
            self._context.embed(
                streams, positions, np.concatenate([tokens for _, _, tokens in decoding.parts], dtype=np.int32)
            )
        seconds = perf_counter() - started
        self._busy_seconds += seconds
        self._pace.seen(decoding.n_rows, seconds)

    def _run_behind(self) -> None:
        step_back()
        self._run()

    def _note(self, decoding: _Decode) -> None:
        self._n_steps += 1
        self._n_rows += decoding.n_rows
        for text, stream, tokens in decoding.parts:
            text.n_done += len(tokens)
            if text.n_left:
                continue
            if text is self._in_pieces:
                self._in_pieces = None
            task = text.task
            if not task.is_over:
                self._take(text, stream)
            self._context.forget(stream)

    def _take(self, text: _Text, stream: int) -> None:
        task = text.task
        vector = self._context.embedding(stream)
        if not np.isfinite(vector).all():
            self._end(task, EngineFault(f"the vector of a text of {len(text.tokens)} tokens has no finite numbers"))
            return
        task.vectors[text.index] = vector
        task.n_known += 1
        if task.n_known == len(task.texts):
            self._end(task)

    def _put_back(self, decoding: _Decode) -> None:
        """After an abort nothing of the decode counts, nor what was decoded of a text before it."""
        for text, stream, _ in reversed(decoding.parts):
            text.n_done = 0
            self._context.forget(stream)
            if text is self._in_pieces:
                self._in_pieces = None
            if not text.task.is_over:
                self._waiting.setdefault(text.task.caller, deque()).appendleft(text)


def _settle(task: EmbedTask, error: BaseException | None) -> None:
    """Tell the call's event loop."""

    def end() -> None:
        if task.done.done():
            return
        if isinstance(error, asyncio.CancelledError):
            task.done.cancel()
        elif error is not None:
            task.done.set_exception(error)
        else:
            task.done.set_result(task.vectors)

    try:
        task.loop.call_soon_threadsafe(end)
    except RuntimeError:
        return  # the loop is closed: nobody waits any more


def normalized(vectors: Iterable[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
    """Each of length 1, as llama.cpp's server makes them; a vector of zeros stays one."""
    found: list[NDArray[np.float32]] = []
    for vector in vectors:
        length = float(np.sqrt(np.sum(vector.astype(np.float64) ** 2)))
        found.append((vector * (1 / length) if length else vector).astype(np.float32))
    return found
