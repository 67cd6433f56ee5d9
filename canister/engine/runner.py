"""Carries out steps on a context: brings conversations into their streams, decodes rows and chunks, rolls back.

All of it runs on the engine's thread. What a decode may consist of so that a chat's logits do not depend on its
neighbours or on the way it was cut is settled here (spec/engine.md §4):

- generated tokens are decoded one by one, prompt tokens in chunks of two or more of their stream; a lonely one gets
  a dummy token behind it, which is removed again;
- where a single row takes other kernels than several (F16 and F32 matrices), no row goes alone: llama.cpp computes
  neighbouring streams together and splits where there is a gap, so a row whose neighbours do not decode gets a dummy
  row in a neighbouring stream, with logits, since the last layers compute only rows that have them.

A dummy token needs a cell: streams have a few more than a conversation may use.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Protocol, TypeVar

from canister.engine.flight import Flight
from canister.engine.kv_memory import open_kv_memory
from canister.engine.kv_rows import KvRowsError, Layout, encode, parse, state_of
from canister.engine.llama import Bytes, Context, DecodeAborted, EngineFault, Logits
from canister.engine.residency import MIN_SHARED, Parked, Residency, Slot
from canister.engine.sequence import Flags, GenerateRequest, Tokens

DUMMY_CELLS = 4
_DUMMY_TOKEN = 0


@dataclass(frozen=True, slots=True)
class Traits:
    """What was found out about a model's memory and kernels.

    layout: of KV rows; None for memories whose states are not cut into rows.
    rolls_back: the tail of a stream can be removed. needs_pairs: one row alone differs from the same beside others.
    """

    layout: Layout | None
    rolls_back: bool
    needs_pairs: bool
    kv_bytes_per_token: int


class Seated(Protocol):
    """A call that has a slot."""

    @property
    def flight(self) -> Flight: ...
    @property
    def slot(self) -> Slot: ...


Seat = TypeVar("Seat", bound=Seated)


@dataclass(slots=True)
class Sources:
    """Tokens that calls did not have to decode: where their KV rows came from."""

    slot: int = 0
    memory: int = 0
    disk: int = 0
    shared: int = 0  # another conversation of the same caller, in whichever tier


@dataclass(frozen=True, slots=True)
class _Source:
    """A state whose first n_common tokens agree with the history of a call. parked: None when it is in `stream`."""

    n_common: int
    tokens: Tokens
    generated: Flags
    logits: Logits | None
    stream: int = 0
    parked: Parked | None = None


class Runner:
    """The context, how many positions each of its streams holds, and whose call is at work in which."""

    def __init__(self, context: Context, traits: Traits, residency: Residency) -> None:
        self._context = context
        self._traits = traits
        self._residency = residency
        self._memory = open_kv_memory(context, traits.layout)
        self._lengths = [0] * context.params.n_streams
        self._floors = [0] * context.params.n_streams  # below it a stream cannot be cut: rows may be missing there
        self._flights: dict[int, Flight] = {}
        self.sources = Sources()

    @property
    def reads_rows(self) -> bool:
        """Are KV rows read where they lie, rather than cut out of copies of whole states?"""
        return self._memory is not None

    def abort(self) -> None:
        """From any thread: make the decode that is running stop soon."""
        self._context.abort()

    def rearm(self) -> None:
        self._context.rearm()

    # -- a call's beginning and end

    def begin(self, seat: Seated) -> list[int]:
        """Bring the prefix into the slot's stream, as far as it need not be decoded again.

        Returns the tokens to show: if logits are at hand nothing need be decoded before the first sample.
        """
        flight, slot = seat.flight, seat.slot
        n_stored = self._bring(flight, slot)
        n = flight.n_done = self._lengths[slot.stream]
        flight.result.redecoded = max(0, flight.n_prefix - n)
        flight.result.rows_first = min(n_stored, flight.n_prefix) if self._traits.layout else flight.n_prefix
        self._flights[slot.stream] = flight
        if n < len(flight.history):
            return []
        if slot.logits is not None and n == len(slot.tokens):
            return self._advance(seat, slot.logits)
        # The logits of the last token are needed again: it is decoded again, in its own class.
        flight.n_done = self._truncate(slot.stream, n - 1)
        if flight.n_done < n - 1:
            flight.result.redecoded = flight.n_prefix
        return []

    def end(self, seat: Seated) -> None:
        """Hand out rows, roll back what must not stay, and note what the slot holds."""
        flight, slot = seat.flight, seat.slot
        request, result = flight.request, flight.result
        self._flights.pop(slot.stream, None)
        if flight.finished == "error" or result.shifted:
            self.drop(slot)
        elif flight.finished == "cancelled" or not request.keep:
            self._roll_back(flight, slot)
        else:
            tokens, generated = flight.held()
            if request.want_rows:
                result.rows = self._rows(slot.stream, result.rows_first, flight.n_done)
            n_stored = flight.n_done if request.want_rows else min(slot.n_stored, result.rows_first)
            slot.hold(tokens, generated, flight.logits, n_stored)

    def drop(self, slot: Slot) -> None:
        """Nothing of the slot's stream is kept."""
        self._flights.pop(slot.stream, None)
        self._clear(slot.stream)
        slot.hold_nothing()

    def _roll_back(self, flight: Flight, slot: Slot) -> None:
        tokens, generated = flight.held()
        n = self._truncate(slot.stream, min(flight.n_prefix, len(tokens)))
        was_whole = slot.logits is not None and n == len(slot.tokens)
        slot.hold(tokens[:n], generated[:n], slot.logits if was_whole else None, min(flight.result.rows_first, n))

    # -- where a call starts from

    def place(self, request: GenerateRequest, waiting: Callable[[], Collection[str | None]]) -> Slot | None:
        """A slot for a call, or None; the conversation that loses it is parked."""
        return self._residency.take(request.key, request.caller, waiting=waiting, park=self._park)

    def _park(self, slot: Slot) -> None:
        parking, stream = self._residency.parking, slot.stream
        n = len(slot.tokens)
        if not n or slot.key is None or self._lengths[stream] != n:
            return
        if self._context.state_bytes(stream) <= parking.max_bytes:
            state = self._context.copy_state(stream)
            tokens, generated = slot.tokens.copy(), slot.generated.copy()
            parking.put(Parked(slot.key, slot.caller, tokens, generated, slot.logits, slot.n_stored, state))

    def _bring(self, flight: Flight, slot: Slot) -> int:
        """Set as much of the history into the slot's stream as is known anywhere, and cut off what is not of it.

        Answers how many leading tokens the caller's container has the rows of. From the nearest to the farthest: the
        slot itself, the conversation's parked state, other conversations of the caller, the container.
        """
        sources, request = self.sources, flight.request
        n = flight.n_common(slot.tokens, slot.generated)
        n_stored = min(n, slot.n_stored)
        if n < flight.n_prefix and (own := self._own_parked(flight)) is not None and own.n_common > n:
            assert own.parked is not None
            if self._set(slot, own):
                n, n_stored = own.n_common, min(own.n_common, own.parked.n_stored)
                if own.parked.from_disk:
                    sources.disk += n
                else:
                    sources.memory += n
        else:
            sources.slot += n
        other = self._closest(flight, slot, n)
        if other is not None and self._set(slot, other):
            sources.shared += other.n_common - n
            n = other.n_common
            if n_stored < flight.n_prefix and request.n_stored is not None:
                n_stored = request.n_stored()
        if n < len(slot.tokens):
            slot.logits = None
        n = self._truncate(slot.stream, n)
        if n < flight.n_prefix and (n_restored := self._restore(flight, slot.stream, n)) != n:
            sources.disk += n_restored
            slot.logits = None
            return n_restored
        return min(n, n_stored)

    def _own_parked(self, flight: Flight) -> _Source | None:
        key = flight.request.key
        parked = self._residency.parking.take(key) if key is not None else None
        return self._source(flight, parked) if parked is not None and parked.caller == flight.request.caller else None

    def _closest(self, flight: Flight, slot: Slot, n: int) -> _Source | None:
        """The state of another conversation of the caller that agrees with the history by far more than n tokens."""
        if len(flight.history) < n + MIN_SHARED:
            return None
        caller = flight.request.caller
        found = [self._source(flight, parked) for parked in self._residency.parking.of(caller)]
        found += [self._source(flight, other) for other in self._residency.of(caller) if other is not slot]
        best = max((source for source in found if source is not None), key=lambda each: each.n_common, default=None)
        return best if best is not None and best.n_common >= n + MIN_SHARED else None

    def _source(self, flight: Flight, place: Slot | Parked) -> _Source | None:
        tokens, generated, logits = place.tokens, place.generated, place.logits
        if isinstance(place, Slot):
            running = self._flights.get(place.stream)
            if running is not None:
                (tokens, generated), logits = running.held(), None
            if self._lengths[place.stream] != len(tokens):
                return None  # after a context shift, positions are not tokens
        n = flight.n_common(tokens, generated)
        if n < len(tokens) and not (self._traits.rolls_back and self._traits.layout):
            return None
        if isinstance(place, Slot):
            return _Source(n, tokens, generated, logits, stream=place.stream)
        return _Source(n, tokens, generated, logits, parked=place)

    def _set(self, slot: Slot, source: _Source) -> bool:
        """Set a state into the slot's stream; False, and nothing has changed, if it has not what is needed of it."""
        n, parked = len(source.tokens), source.parked
        state = self._context.state(source.stream) if parked is None else parked.state
        if source.n_common < n and not self._is_whole(state, n):
            return False
        if parked is not None:
            self._residency.parking.use(parked)
        if not self._replace(slot.stream, state, n):
            slot.hold_nothing()
            return False
        slot.hold(source.tokens, source.generated, source.logits, 0)
        return True

    def _restore(self, flight: Flight, stream: int, n_resident: int) -> int:
        """Set stored rows of the prefix into the stream if they reach further; how many positions it holds then."""
        layout, restore = self._traits.layout, flight.request.restore
        if layout is None or restore is None:
            return n_resident
        n, state = state_of(layout, restore(flight.n_prefix), flight.n_prefix, self._context.params.n_streams)
        if n > n_resident:
            self._replace(stream, state, n)
        return self._lengths[stream]

    def _replace(self, stream: int, state: Bytes, n: int) -> bool:
        is_set = self._context.set_state(stream, state)
        self._lengths[stream] = n if is_set else 0
        self._floors[stream] = 0 if self._is_whole(state, n) else self._lengths[stream]
        return is_set

    def _is_whole(self, state: Bytes, n: int) -> bool:
        """Has it the rows of n tokens? llama.cpp leaves out what a sliding window does not reach from the end."""
        layout = self._traits.layout
        return layout is not None and len(state) >= n * layout.bytes_per_token

    # -- streams

    def _truncate(self, stream: int, n: int) -> int:
        """Keep the first n positions; fewer, namely none, if this kind of memory keeps all or nothing."""
        if n < self._lengths[stream]:
            if n < max(self._floors[stream], 1) or not self._context.remove(stream, n):
                self._clear(stream)
            else:
                self._lengths[stream] = n
        return self._lengths[stream]

    def _clear(self, stream: int) -> None:
        self._context.clear(stream)
        self._lengths[stream] = self._floors[stream] = 0

    def _rows(self, stream: int, first: int, stop: int) -> bytes:
        layout = self._traits.layout
        if layout is None or first >= stop:
            return b""
        if self._memory is not None:
            return encode(layout, self._memory.rows(stream, first, stop))
        try:
            found, rows = parse(self._context.state(stream))
            return encode(layout, rows.cut(layout, first, stop)) if found == layout else b""
        except KvRowsError:
            return b""

    # -- steps

    def decode_rows(self, seats: Sequence[Seat]) -> list[tuple[Seat, int]]:
        """One token of each call. The calls whose history is decoded to its end, and where their logits are."""
        started = perf_counter()
        by_stream = {seat.slot.stream: seat for seat in seats}
        pairs = self._traits.needs_pairs
        streams = sorted([*by_stream, *(self._lonely_neighbours(sorted(by_stream)) if pairs else [])])
        tokens, outputs = [], []
        for row, stream in enumerate(streams):
            seat = by_stream.get(stream)
            flight = seat.flight if seat is not None else None
            tokens.append(flight.next_token if flight is not None else _DUMMY_TOKEN)
            if pairs or (flight is not None and flight.n_done + 1 == len(flight.history)):
                outputs.append(row)
        try:
            self._decode(streams, tokens, outputs)
        except DecodeAborted:
            for seat in seats:
                self._rewind(seat)
            raise
        reached: list[tuple[Seat, int]] = []
        seconds = perf_counter() - started
        for row, stream in enumerate(streams):
            seat = by_stream.get(stream)
            if seat is None:
                self._context.remove(stream, self._lengths[stream])
                continue
            self._lengths[stream] += 1
            seat.flight.n_done += 1
            seat.flight.result.decode_seconds += seconds
            if seat.flight.is_decoded:
                reached.append((seat, row))
        return reached

    def decode_chunk(self, seat: Seat, n_max: int) -> list[tuple[Seat, int]]:
        """The next prompt tokens of one call; result as that of decode_rows."""
        started = perf_counter()
        flight, stream = seat.flight, seat.slot.stream
        tokens = flight.chunk(min(n_max, self._context.params.n_rows))
        n = len(tokens)
        lonely = n == 1 and self._traits.rolls_back
        rows = [*tokens.tolist(), _DUMMY_TOKEN] if lonely else tokens
        at_end = flight.n_done + n == len(flight.history)
        try:
            self._decode([stream] * len(rows), rows, [n - 1] if at_end else [])
        except DecodeAborted:
            self._rewind(seat)
            raise
        self._lengths[stream] += n
        if lonely:
            self._context.remove(stream, self._lengths[stream])
        flight.n_done += n
        flight.result.prompt_seconds += perf_counter() - started
        return [(seat, n - 1)] if at_end else []

    def _rewind(self, seat: Seated) -> None:
        """After an abort: a memory that keeps all or nothing has kept nothing."""
        if self._lengths[seat.slot.stream] == 0:
            seat.flight.n_done = 0

    def advance(self, seat: Seated, row: int) -> list[int]:
        """Stop or sample, now that all of the call's history is decoded. The tokens to show."""
        return self._advance(seat, self._context.logits(row))

    def _advance(self, seat: Seated, logits: Logits) -> list[int]:
        flight, stream = seat.flight, seat.slot.stream
        dropped = flight.shift()
        if dropped is not None:
            start, n = dropped
            self._context.remove(stream, start, start + n)
            self._context.move(stream, start + n, self._lengths[stream], -n)
            self._lengths[stream] -= n
        shown = flight.advance(logits)
        if flight.finished:
            flight.logits = logits.copy()
        return shown

    def _decode(self, streams: Sequence[int], tokens: Sequence[int] | Tokens, outputs: Sequence[int]) -> None:
        """Tokens at the ends of their streams. If that fails half-way, nothing of them stays."""
        lengths = self._lengths
        positions = [lengths[stream] for stream in streams]
        if len(set(streams)) == 1:
            positions = list(range(positions[0], positions[0] + len(tokens)))
        try:
            self._context.decode(streams, positions, tokens, outputs)
        except (DecodeAborted, EngineFault):
            for stream in set(streams):
                if lengths[stream] == 0 or not self._context.remove(stream, lengths[stream]):
                    self._clear(stream)
            raise

    def _lonely_neighbours(self, streams: Sequence[int]) -> list[int]:
        """A neighbouring stream for every stream without one in the decode."""
        busy = set(streams)
        dummies: list[int] = []
        for stream in streams:
            if stream - 1 not in busy and stream + 1 not in busy:
                neighbour = stream + 1 if stream + 1 < len(self._lengths) else stream - 1
                dummies.append(neighbour)
                busy.add(neighbour)
        return dummies
