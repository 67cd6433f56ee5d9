"""Where a call starts from: its own slot, a parked state, another conversation of its caller, its container.

All of it runs on the decode thread. The tokens, and which of them were generated, decide what a state may be used for,
since generated tokens are decoded in another way. States of other callers are never looked at, but for those that an
operator has published.

A call may be granted only a part of its prompt. A state that has more of the prompt stays in the slot as it is, for the
calls that follow. Its rows are counted, charged and handed out call by call.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from canister.engine.kv.prefix_tree import symbols
from canister.engine.kv.rows import state_of
from canister.engine.kv.slots import MIN_SHARED, PUBLISHED, ParkedState, Slot, SlotTable
from canister.engine.kv.streams import Streams
from canister.engine.llama import Bytes, Context, Logits
from canister.engine.request import Flags, GenerateRequest, Tokens
from canister.engine.sequence import Sequence


@dataclass(slots=True)
class Sources:
    """Tokens that calls did not have to decode, by where their KV rows came from."""

    slot: int = 0
    memory: int = 0
    disk: int = 0
    shared: int = 0  # another conversation of the same caller, in whichever tier, or a published one


@dataclass(frozen=True, slots=True)
class _Source:
    """A state whose first n_common tokens agree with what a call wants. parked: None when it is in `stream`."""

    n_common: int
    tokens: Tokens
    generated: Flags
    starts: Flags
    logits: Logits | None
    stream: int = 0
    parked: ParkedState | None = None


class PrefixReuse:
    """sequences: of the calls that have begun, by stream. rolls_back: the tail of a stream can be removed.

    keeps_states: a state may be put into a stream. Otherwise calls start from what is in their slot, or from nothing.
    """

    def __init__(
        self, context: Context, streams: Streams, slot_table: SlotTable, rolls_back: bool, keeps_states: bool = True
    ) -> None:
        self.sources = Sources()
        self.sequences: dict[int, Sequence] = {}
        self._context = context
        self._streams = streams
        self._slot_table = slot_table
        self._keeps_states = keeps_states
        self._can_cut = rolls_back and streams.layout is not None  # may states be cut in the middle?

    def place(self, request: GenerateRequest, waiting: Callable[[], Collection[str | None]]) -> Slot | None:
        """A slot for a call, or None. The conversation that loses the slot is parked."""
        return self._slot_table.take(request.key, request.caller, waiting=waiting, park=self._park)

    def retract(self, slot: Slot) -> None:
        """Cut off what the slot's stream has beyond its tokens."""
        if slot.ahead is not None:
            slot.ahead = None
            self._streams.truncate(slot.stream, len(slot.tokens))

    def _goes_on(self, sequence: Sequence, slot: Slot) -> bool:
        """Does the call generate from where the slot's tokens end?"""
        n, request = len(slot.tokens), sequence.request
        is_there = request.keep and n == sequence.n_prefix == len(sequence.wanted[0])
        return is_there and sequence.n_common(slot.tokens, slot.generated, slot.starts) == n

    def _park(self, slot: Slot) -> None:
        self.retract(slot)
        state_cache, stream = self._slot_table.state_cache, slot.stream
        n = len(slot.tokens)
        if not n or slot.key is None or not self._keeps_states or self._streams.lengths[stream] != n:
            return
        if self._context.state_bytes(stream) <= state_cache.max_bytes:
            state = self._state(stream)
            marks = slot.tokens.copy(), slot.generated.copy(), slot.starts.copy()
            state_cache.put(ParkedState(slot.key, slot.caller, *marks, slot.logits, slot.n_stored, state))

    def bring(self, sequence: Sequence, slot: Slot) -> int:
        """Set as much of what the call wants into the slot's stream as is known anywhere, and cut off all else.

        Looks in the slot, the conversation's parked state, other conversations of the caller, and the container, in
        this order. The stream may then hold more than the history. Returns of how many leading tokens the caller's
        container has the rows.
        """
        sources, request = self.sources, sequence.request
        if slot.ahead is not None:
            if self._goes_on(sequence, slot):
                sources.slot += sequence.n_prefix
                return min(sequence.n_prefix, slot.n_stored)
            self.retract(slot)
        n_most = len(sequence.history)
        n = sequence.n_common(slot.tokens, slot.generated, slot.starts)
        n_stored = min(n, slot.n_stored)
        if n < sequence.n_prefix and (own := self._own_parked(sequence)) is not None and own.n_common > n:
            assert own.parked is not None
            if self._set(slot, own, n_most):
                n, n_stored = own.n_common, min(own.n_common, own.parked.n_stored)
                if own.parked.from_disk:
                    sources.disk += min(n, n_most)
                else:
                    sources.memory += min(n, n_most)
        else:
            sources.slot += min(n, n_most)
        other = self._closest(sequence, slot, n)
        if other is not None and self._set(slot, other, n_most):
            sources.shared += max(0, min(other.n_common, n_most) - n)
            n = other.n_common
            if n_stored < sequence.n_prefix and request.n_stored is not None:
                n_stored = request.n_stored()
        sequence.use(slot.starts, min(n, len(slot.starts)))
        n = self._streams.truncate(slot.stream, n)
        if n < len(slot.tokens):
            slot.hold(slot.tokens[:n], slot.generated[:n], slot.starts[:n], None, min(slot.n_stored, n))
        if n < sequence.n_prefix and (n_restored := self._restore(sequence, slot.stream, n)) != n:
            sources.disk += n_restored
            slot.logits = None
            return n_restored
        return min(n, n_stored)

    def hand_out(self, sequence: Sequence, slot: Slot, running: Sequence | None) -> bool:
        """Let a call that samples nothing have its rows from the slot as it is, where they all are there by now.

        It needs no slot of its own, and may come while a decode adds rows behind its own. running: what decodes ahead
        in the slot. False: nothing has changed.
        """
        if running is not None:
            tokens, generated, starts = running.held()
            n_stored = running.result.rows_first
        else:
            tokens, generated, starts, n_stored = slot.tokens, slot.generated, slot.starts, slot.n_stored
        n, reason = len(sequence.history), sequence.stop_reason()
        if reason is None or slot.ahead is not None or self._streams.lengths[slot.stream] < len(tokens):
            return False
        if sequence.n_common(tokens, generated, starts) < n:
            return False
        result = sequence.result
        sequence.n_done, result.rows_first = n, min(n_stored, sequence.n_prefix)
        result.rows = self._streams.rows(slot.stream, result.rows_first, n)
        sequence.finish(reason)
        if running is not None:
            # So that nobody reads from the disk what is there.
            slot.hold(tokens[:n].copy(), generated[:n].copy(), starts[:n].copy(), None, n)
            running.result.rows_first = max(n_stored, n)
        slot.n_stored = max(slot.n_stored, n)
        self.sources.slot += n
        return True

    def _own_parked(self, sequence: Sequence) -> _Source | None:
        key = sequence.request.key
        parked = self._slot_table.state_cache.take(key) if key is not None else None
        if parked is None or parked.caller != sequence.request.caller:
            return None
        return self._source(sequence, parked)

    def _closest(self, sequence: Sequence, slot: Slot, n: int) -> _Source | None:
        """The state of another conversation of the caller, or a published one, that has far more than n of the tokens
        that the call wants.
        """
        if len(sequence.wanted[0]) < n + MIN_SHARED:
            return None
        caller = sequence.request.caller
        for other in self._slot_table.of(caller):
            if not other.busy and other.ahead is not None and other.ahead.calls.is_over:
                self.retract(other)
        wanted, state_cache = symbols(*sequence.wanted), self._slot_table.state_cache
        parked = [state_cache.closest(each, wanted, whole=not self._can_cut) for each in (caller, PUBLISHED)]
        found = [self._source(sequence, each[1]) for each in parked if each is not None]
        found += [self._source(sequence, other) for other in self._slot_table.of(caller) if other is not slot]
        best = max((source for source in found if source is not None), key=lambda each: each.n_common, default=None)
        return best if best is not None and best.n_common >= n + MIN_SHARED else None

    def _source(self, sequence: Sequence, place: Slot | ParkedState) -> _Source | None:
        tokens, generated, starts, logits = place.tokens, place.generated, place.starts, place.logits
        if isinstance(place, Slot):
            running = self.sequences.get(place.stream)
            if running is not None:
                (tokens, generated, starts), logits = running.held(), None
            if self._streams.lengths[place.stream] != len(tokens):
                return None  # after a context shift, positions are not tokens
        n = sequence.n_common(tokens, generated, starts)
        if n < len(tokens) and not self._can_cut:
            return None
        if isinstance(place, Slot):
            return _Source(n, tokens, generated, starts, logits, stream=place.stream)
        return _Source(n, tokens, generated, starts, logits, parked=place)

    def _set(self, slot: Slot, source: _Source, n_most: int) -> bool:
        """Set a state into the slot's stream. False, and nothing has changed, if the state lacks rows that are needed.

        Its beginning is needed where it is cut, and where its rows are handed out before the call gets to its end.
        """
        if not self._keeps_states:
            return False
        n, parked = len(source.tokens), source.parked
        state = self._state(source.stream) if parked is None else parked.state
        is_cut = source.n_common < n or (n > n_most and self._streams.layout is not None)
        if is_cut and not self._streams.is_whole(state, n):
            return False
        if parked is not None:
            self._slot_table.state_cache.use(parked)
        if not self._streams.replace(slot.stream, state, n):
            slot.hold_nothing()
            return False
        slot.hold(source.tokens, source.generated, source.starts, source.logits, 0)
        return True

    def _state(self, stream: int) -> Bytes:
        memory = self._slot_table.state_cache.buffers.take(self._context.state_bytes(stream))
        return self._context.read_state(stream, memory)

    def _restore(self, sequence: Sequence, stream: int, n_resident: int) -> int:
        """Set stored rows of the prefix into the stream if they reach further. Returns how many positions it holds
        then.
        """
        layout, restore = self._streams.layout, sequence.request.restore
        if layout is None or restore is None:
            return n_resident
        take, n_streams = self._slot_table.state_cache.buffers.take, self._context.params.n_streams
        n, state = state_of(layout, restore(sequence.n_prefix), sequence.n_prefix, n_streams, take)
        if n > n_resident:
            self._streams.replace(stream, state, n)
        return self._streams.lengths[stream]
