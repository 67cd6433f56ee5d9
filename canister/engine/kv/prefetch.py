"""Brings stored conversations near before calls need them, outside the decode thread.

A worker thread reads a container and assembles a state while others decode. The decode thread then only sets the state.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

from canister.engine.kv.logits_file import LogitsFile
from canister.engine.kv.prefix_tree import symbols
from canister.engine.kv.rows import Layout, state_of
from canister.engine.kv.slots import PUBLISHED, ParkedState, Slot, SlotTable
from canister.engine.request import Flags, KvSegment, Tokens, n_common

FRESH_SECONDS = 60.0  # a state read for a call is kept for it this long, however many others are read


class Prefetcher:
    """From any thread. A look at the slots may be outdated when it is used, and nothing depends on its being right."""

    def __init__(self, slot_table: SlotTable, layout: Layout | None, n_streams: int, logits_file: LogitsFile) -> None:
        self._slot_table = slot_table
        self._layout = layout
        self._n_streams = n_streams
        self.logits_file = logits_file
        self.take = slot_table.state_cache.buffers.take  # memory that was used before, for what is read

    def n_own(self, key: str | None, tokens: Tokens, generated: Flags) -> int:
        """How many leading tokens the slot or the parked state of a conversation holds."""
        places: list[Slot | ParkedState | None] = [self._slot_table.slot_of(key), self._slot_table.state_cache.get(key)]
        return max((n_common(tokens, generated, each.tokens, each.generated) for each in places if each), default=0)

    def n_at_hand(self, caller: str, tokens: Tokens, generated: Flags) -> int:
        """The same, for any conversation of a caller, and those that are published."""
        slots = (n_common(tokens, generated, slot.tokens, slot.generated) for slot in self._slot_table.of(caller))
        wanted, state_cache = symbols(tokens, generated), self._slot_table.state_cache
        parked = (state_cache.closest(each, wanted) for each in (caller, PUBLISHED))
        return max(*slots, 0, *(0 if each is None else each[0] for each in parked))

    def has_room(self, n_tokens: int) -> bool:
        """Could a state of so many tokens be parked without driving out one that was not used yet?"""
        n_bytes = n_tokens * self._layout.bytes_per_token if self._layout is not None else 0
        return n_bytes > 0 and self._slot_table.state_cache.has_room(n_bytes)

    def park(
        self,
        key: str,
        caller: str,
        tokens: Tokens,
        generated: Flags,
        starts: Flags,
        segments: Callable[[int], list[KvSegment]],
        *,
        with_logits: bool = False,
    ) -> None:
        """Assemble a conversation's state from stored rows and park it. Slow, so call it in a worker thread.

        with_logits: take the logits of its last token from the file that the engine before has left, if it has them.
        """
        if self._layout is None:
            return
        n, state = state_of(self._layout, segments(len(tokens)), len(tokens), self._n_streams, self.take)
        if n:
            marks, fresh_until = (
                (tokens[:n].copy(), generated[:n].copy(), starts[:n].copy()),
                monotonic() + FRESH_SECONDS,
            )
            logits = self.logits_file.logits(key, caller, *marks) if with_logits else None
            self._slot_table.state_cache.put(ParkedState(key, caller, *marks, logits, n, state, True, fresh_until))
