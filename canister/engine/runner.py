"""Carries out steps on a context: brings conversations into their streams, decodes rows and chunks, rolls back.

All of it runs on the decode thread. `Runner` composes each decode so that a chat's logits depend neither on its
neighbours nor on how its prompt was cut (spec/engine.md §4). That may take dummy tokens, so streams have a few more
cells than a conversation may use.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from time import perf_counter
from typing import Protocol, TypeVar

from canister.engine.dummy_rows import dummies
from canister.engine.kv.lookahead import Lookahead
from canister.engine.kv.reuse import PrefixReuse, Sources
from canister.engine.kv.slots import Slot, SlotTable
from canister.engine.kv.streams import Streams
from canister.engine.llama import Context, Logits
from canister.engine.llama_types import DecodeAborted, EngineFault
from canister.engine.request import GenerateRequest, Sampled, Tokens
from canister.engine.sequence import Sequence
from canister.engine.traits import Traits

_DUMMY_TOKEN = 0


class Running(Protocol):
    """A call that has a slot."""

    @property
    def sequence(self) -> Sequence: ...
    @property
    def slot(self) -> Slot: ...
    @property
    def found(self) -> Lookahead | None:
        """Where its tokens go if they are for the next call."""


R = TypeVar("R", bound=Running)


class Runner:
    """The context, the length of each of its streams, and the call that is at work in each.

    - Generated tokens are decoded one by one, prompt tokens in chunks of two or more of their stream. A lonely prompt
      token gets a dummy token behind it, which is removed again. So does a chunk that would not fill the kernels'
      blocks.
    - Where a single row takes other kernels than several rows (F16 and F32 matrices), no row goes alone. llama.cpp
      computes neighbouring streams together and splits at gaps, so a row whose neighbours do not decode gets a dummy
      row in a neighbouring stream. That row asks for logits, since the last layers compute only rows that do.
    - Elsewhere the streams of small gaps get a dummy row, since it costs less than what follows a split.
    """

    def __init__(self, context: Context, traits: Traits, slot_table: SlotTable) -> None:
        self.gate = threading.Lock()
        """Held by the decode thread but for its decodes, so that who gets it may read slots and rows beside one."""

        self.gate.acquire()
        self._context = context
        self._traits = traits
        self._streams = Streams(context, traits.layout, reads_in_place=traits.reads_in_place)
        self._reuse = PrefixReuse(context, self._streams, slot_table, traits.rolls_back, traits.keeps_states)
        self._lengths = self._streams.lengths

    @property
    def reads_rows(self) -> bool:
        """Does it read KV rows where they lie, rather than cut them out of copies of whole states?"""
        return self._streams.reads_rows

    def give_back_cells(self) -> None:
        """Give back the memory of all cells, before the first call; on any thread."""
        self._streams.give_back_cells()

    @property
    def sources(self) -> Sources:
        """Where the KV rows of calls came from since the context was made."""
        return self._reuse.sources

    def place(self, request: GenerateRequest, waiting: Callable[[], Collection[str | None]]) -> Slot | None:
        """A slot for a call, or None. waiting: keys of the calls that want one next."""
        return self._reuse.place(request, waiting)

    def abort(self) -> None:
        """From any thread: make the running decode stop soon."""
        self._context.abort()

    def rearm(self) -> None:
        self._context.rearm()

    def hand_out(self, sequence: Sequence, slot: Slot, running: Sequence | None) -> bool:
        """By whoever has the gate, or on the decode thread: PrefixReuse.hand_out."""
        return self.reads_rows and self._reuse.hand_out(sequence, slot, running)

    # -- a call's beginning and end

    def begin(self, task: Running) -> list[Sampled]:
        """Bring the prefix into the slot's stream, as far as it need not be decoded again.

        Returns the tokens to show: if logits are at hand nothing need be decoded before the first sample. A call that
        has all of its history and samples nothing ends here, and the stream keeps what it has beyond that.
        """
        sequence, slot = task.sequence, task.slot
        n_stored = self._reuse.bring(sequence, slot)
        n = sequence.n_done = min(self._lengths[slot.stream], len(sequence.history))
        sequence.result.redecoded = max(0, sequence.n_prefix - n)
        sequence.result.rows_first = min(n_stored, sequence.n_prefix) if self._traits.layout else sequence.n_prefix
        self._reuse.sequences[slot.stream] = sequence
        if n < len(sequence.history):
            return []
        has_logits = slot.logits is not None and n == len(slot.tokens)
        if not has_logits and (reason := sequence.stop_reason()) is not None:
            return sequence.finish(reason)
        if slot.logits is not None and has_logits:
            return self._advance(task, slot.logits)
        # The last token is decoded again for its logits, in its own class, or all of its decode is.
        sequence.n_done = self._streams.truncate(slot.stream, sequence.begun(n))
        if sequence.n_done < n - 1:
            sequence.result.redecoded = sequence.n_prefix - sequence.n_done
        n_whole = sequence.request.n_whole
        if self._traits.layout and n_whole is not None and sequence.n_done <= n_whole < sequence.n_prefix:
            # The container has the rows of a shorter decode: hand out those of this one.
            sequence.result.rows_first = min(sequence.result.rows_first, sequence.n_done)
        return []

    def end(self, task: Running) -> None:
        """Hand out rows, roll back what must not stay, and note what the slot holds."""
        sequence, slot = task.sequence, task.slot
        request, result = sequence.request, sequence.result
        tokens, generated, starts = sequence.held()
        if sequence.limits.repeats_cut:
            result.starts = starts.copy()
        self._reuse.sequences.pop(slot.stream, None)
        left = slot.ahead  # the call has not come so far
        if left is not None and (sequence.finished in ("cancelled", "error") or not (request.keep and len(left))):
            self._streams.truncate(slot.stream, sequence.n_done)
            slot.ahead = left = None
        if sequence.finished == "error" or result.shifted:
            self.drop(slot)
        elif task.found is not None:
            self._keep_found(sequence, slot, task.found)
        elif sequence.finished == "cancelled" or not request.keep:
            self._roll_back(sequence, slot)
        else:
            logits = sequence.logits
            if request.want_rows:
                result.rows = self._streams.rows(slot.stream, result.rows_first, sequence.n_done)
            n_stored = sequence.n_done if request.want_rows else min(slot.n_stored, result.rows_first)
            if left is None and self._lengths[slot.stream] > sequence.n_done:
                tokens, generated, starts, logits = slot.tokens, slot.generated, slot.starts, slot.logits
            slot.hold(tokens, generated, starts, logits, n_stored)
            slot.ahead = left

    def _keep_found(self, sequence: Sequence, slot: Slot, found: Lookahead) -> None:
        """The slot's conversation is what it was; its stream has more than that, as long as somebody may want it."""
        tokens, generated, starts = sequence.held()
        n_prefix = sequence.n_prefix
        n = sequence.n_done - n_prefix
        if found.logits is None or n < 0:
            self._roll_back(sequence, slot)
            return
        marks = tokens[:n_prefix], generated[:n_prefix], starts[:n_prefix]
        slot.hold(*marks, found.logits, min(slot.n_stored, n_prefix))
        if n and not found.calls.is_over:
            found.seconds = sequence.result.decode_seconds / n
            slot.ahead = found
        else:
            self._streams.truncate(slot.stream, n_prefix)

    def drop(self, slot: Slot) -> None:
        """Nothing of the slot's stream is kept."""
        self._reuse.sequences.pop(slot.stream, None)
        self._streams.clear(slot.stream)
        slot.hold_nothing()

    def _roll_back(self, sequence: Sequence, slot: Slot) -> None:
        tokens, generated, starts = sequence.held()
        # Nothing was decoded: the stream already continues as the call wants.
        if self._lengths[slot.stream] > len(tokens):
            slot.n_stored = sequence.result.rows_first
            return
        # Of an answer that was cancelled the rows of its prompt stay in the slot: who asks again needs them.
        request = sequence.request
        stays = request.ahead is not None and sequence.finished == "cancelled" and not sequence.limits.repeats_cut
        n = min(sequence.n_given if stays else sequence.n_prefix, len(tokens))
        n = self._streams.truncate(slot.stream, sequence.whole(n))
        was_whole = slot.logits is not None and n == len(slot.tokens)
        marks = tokens[:n], generated[:n], starts[:n]
        slot.hold(*marks, slot.logits if was_whole else None, min(sequence.result.rows_first, n))

    # -- steps

    def decode_rows(self, tasks: list[R]) -> list[tuple[R, int]]:
        """Decode one token of each call. Returns the calls whose history is decoded to its end, and the rows of their
        logits.
        """
        started = perf_counter()
        by_stream = {task.slot.stream: task for task in tasks}
        pairs, all_outputs = self._traits.needs_pairs, self._traits.all_outputs
        streams = sorted([*by_stream, *dummies(self._traits, sorted(by_stream), self._lengths)])
        tokens, outputs = [], []
        for row, stream in enumerate(streams):
            task = by_stream.get(stream)
            sequence = task.sequence if task is not None else None
            tokens.append(sequence.next_token if sequence is not None else _DUMMY_TOKEN)
            if pairs or all_outputs or (sequence is not None and sequence.is_last):
                outputs.append(row)
        try:
            self._decode(streams, [self._lengths[stream] for stream in streams], tokens, outputs)
        except DecodeAborted:
            for task in tasks:
                self._rewind(task)
            raise
        reached: list[tuple[R, int]] = []
        seconds = perf_counter() - started
        for row, stream in enumerate(streams):
            task = by_stream.get(stream)
            if task is None:
                self._context.remove(stream, self._lengths[stream])
                continue
            self._lengths[stream] += 1
            task.sequence.decoded(1)
            task.sequence.result.decode_seconds += seconds
            if task.sequence.is_decoded:
                reached.append((task, row))
        return reached

    def decode_draft(self, task: Running, draft: Tokens) -> None:
        """Decode the next token of a call, and those that follow it or may do so. All have logits, as if decoded one by
        one.
        """
        started = perf_counter()
        sequence, stream = task.sequence, task.slot.stream
        first = self._lengths[stream]
        try:
            self._context.decode_verified(stream, first, [sequence.next_token, *draft.tolist()])
        except (DecodeAborted, EngineFault):
            if not self._context.remove(stream, first):
                self._streams.clear(stream)
            raise
        sequence.result.decode_seconds += perf_counter() - started

    def accept(self, task: Running, draft: Tokens) -> list[Sampled]:
        """Sample behind each token, as long as the draft has what is sampled. The other rows are removed. Returns the
        tokens to show.
        """
        sequence, stream = task.sequence, task.slot.stream
        first = self._lengths[stream]
        shown: list[Sampled] = []
        try:
            for row, token in enumerate([sequence.next_token, *draft.tolist()]):
                is_shifted = self._lengths[stream] != first + row
                if sequence.finished or is_shifted or not sequence.wants_row or sequence.next_token != token:
                    break
                self._lengths[stream] += 1
                sequence.decoded(1)
                if sequence.is_decoded:
                    shown += self._taken(task, self._context.logits(row))
        finally:
            self._context.remove(stream, self._lengths[stream])
        return shown

    def decode_chunks(self, tasks: list[R], n_max: int) -> list[tuple[R, int]]:
        """Decode the next prompt tokens of calls together, at most n_max of each. Returns the same as decode_rows.

        llama.cpp computes streams together that have the same number of rows, so shorter chunks are filled up.
        """
        started = perf_counter()
        tasks = sorted(tasks, key=lambda task: task.slot.stream)
        chunks, n_rows = self._chunks(tasks, n_max)
        streams, positions, tokens, outputs = list[int](), list[int](), list[int](), list[int]()
        for number, (task, chunk) in enumerate(zip(tasks, chunks, strict=True)):
            stream, n_done = task.slot.stream, self._lengths[task.slot.stream]
            streams += [stream] * n_rows
            positions += range(n_done, n_done + n_rows)
            tokens += [*chunk.tolist(), *[_DUMMY_TOKEN] * (n_rows - len(chunk))]
            sequence, first = task.sequence, number * n_rows
            at_end = sequence.n_done + len(chunk) == len(sequence.history)
            if sequence.wants_scores(len(chunk)) or (at_end and self._traits.all_outputs):
                outputs += range(first, first + n_rows)  # all, so that how many count makes no difference
            elif at_end:
                outputs.append(first + len(chunk) - 1)
        try:
            self._decode(streams, positions, tokens, outputs)
        except DecodeAborted:
            for task in tasks:
                self._rewind(task)
            raise
        reached: list[tuple[R, int]] = []
        seconds = perf_counter() - started
        for number, (task, chunk) in enumerate(zip(tasks, chunks, strict=True)):
            sequence, stream = task.sequence, task.slot.stream
            self._lengths[stream] += len(chunk)
            if len(chunk) < n_rows:
                self._context.remove(stream, self._lengths[stream])
            if sequence.wants_scores(len(chunk)):
                first = number * n_rows
                sequence.score(self._context.logits(first + each) for each in range(len(chunk)))
            sequence.decoded(len(chunk))
            sequence.result.prompt_seconds += seconds
            if sequence.is_decoded:
                reached.append((task, number * n_rows + len(chunk) - 1))
        return reached

    def _chunks(self, tasks: list[R], n_max: int) -> tuple[list[Tokens], int]:
        """The next prompt tokens of each call, and the rows that each chunk takes."""
        rule, params = self._traits.chunk, self._context.params
        n_most = min(params.n_rows // len(tasks), rule.most or params.n_rows)
        if any(task.sequence.is_scored for task in tasks):
            n_most = min(n_most, params.max_outputs)
        n_most -= n_most % (rule.block or 1)
        chunks = [task.sequence.chunk(n_max, n_most)[: rule.most] for task in tasks]
        if self._traits.all_outputs and rule.rows(len(chunks[0])) > params.max_outputs:
            # So that the end of the prompt comes in a chunk whose rows may all have logits.
            chunks = [chunks[0][: -params.max_outputs // 2]]
        n_rows = rule.rows(max(map(len, chunks)))
        if len(tasks) > 1:
            # A conversation that is nearly full has few cells for dummies.
            n_rows = min(n_rows, *(params.n_cells - self._lengths[task.slot.stream] for task in tasks))
            n_rows -= n_rows % (rule.block or 1)
        return [chunk[:n_rows] for chunk in chunks], n_rows

    def _rewind(self, task: Running) -> None:
        """After an abort: a memory that keeps all or nothing has kept nothing."""
        if self._lengths[task.slot.stream] == 0:
            task.sequence.n_done = 0

    def advance(self, task: Running, row: int) -> list[Sampled]:
        """All of the call's history is decoded: stop or sample. Returns the tokens to show."""
        return self._advance(task, self._context.logits(row))

    def _advance(self, task: Running, logits: Logits) -> list[Sampled]:
        sequence, slot = task.sequence, task.slot
        shown = self._taken(task, logits)
        while slot.ahead is not None and not sequence.finished:
            known = slot.ahead.take(sequence.next_token)
            if known is None:
                slot.ahead = None
                self._streams.truncate(slot.stream, sequence.n_done)
                break
            sequence.decoded(1)
            sequence.result.decode_seconds += slot.ahead.seconds
            shown += self._sampled(task, known)
        return shown

    def _taken(self, task: Running, logits: Logits) -> list[Sampled]:
        """Sample, and note the logits where the token is for the next call."""
        if task.found is not None:
            task.found.put(task.sequence.history[task.sequence.n_prefix :], logits)
        return self._sampled(task, logits)

    def _sampled(self, task: Running, logits: Logits) -> list[Sampled]:
        sequence, stream = task.sequence, task.slot.stream
        dropped = sequence.shift()
        if dropped is not None:
            start, n = dropped
            self._context.remove(stream, start, start + n)
            self._context.move(stream, start + n, self._lengths[stream], -n)
            self._lengths[stream] -= n
        shown = sequence.advance(logits)
        if sequence.finished:
            sequence.logits = logits.copy()
        return shown

    def _decode(self, streams: list[int], positions: list[int], tokens: list[int], outputs: list[int]) -> None:
        """Decode tokens at the ends of their streams. If that fails half-way, none of them stays."""
        lengths = self._lengths
        self.gate.release()
        try:
            try:
                self._context.decode(streams, positions, tokens, outputs)
            finally:
                self.gate.acquire()
        except (DecodeAborted, EngineFault):
            for stream in set(streams):
                if lengths[stream] == 0 or not self._context.remove(stream, lengths[stream]):
                    self._streams.clear(stream)
            raise
