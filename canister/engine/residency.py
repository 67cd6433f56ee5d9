"""Which conversations sit in the KV memory: slots, one per stream, with what each holds.

Pure bookkeeping: whoever takes a slot brings its stream in line with `tokens`. A slot that is not busy may be
taken from its conversation at any time, the least recently used first: its rows are in the caller's container.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from canister.engine.sequence import Flags, Tokens

_NO_TOKENS: Tokens = np.empty(0, np.int32)
_NO_FLAGS: Flags = np.empty(0, np.bool_)


@dataclass(slots=True, eq=False)
class Slot:
    """One stream of the KV memory.

    key: the conversation it belongs to; None: free, or, while busy, to be freed.
    tokens, generated: what it held when it was given back. logits: those after the last of them, if known.
    n_stored: of how many leading tokens the KV rows were handed out, or came from outside.
    """

    stream: int
    key: str | None = None
    busy: bool = False
    tokens: Tokens = field(default_factory=lambda: _NO_TOKENS)
    generated: Flags = field(default_factory=lambda: _NO_FLAGS)
    logits: NDArray[np.float32] | None = None
    n_stored: int = 0
    last_used: int = 0

    def hold(self, tokens: Tokens, generated: Flags, logits: NDArray[np.float32] | None, n_stored: int) -> None:
        self.tokens, self.generated, self.logits, self.n_stored = tokens, generated, logits, n_stored

    def hold_nothing(self) -> None:
        self.hold(_NO_TOKENS, _NO_FLAGS, None, 0)


class Residency:
    """The slots of a context."""

    def __init__(self, n_slots: int) -> None:
        self.slots = [Slot(stream) for stream in range(n_slots)]
        self._by_key: dict[str, Slot] = {}
        self._clock = 0

    def take(self, key: str | None) -> Slot | None:
        """The conversation's own slot, else a free one, else the least recently used; None when all are busy.

        A slot of another conversation comes emptied. Also None while the conversation's own slot is busy.
        """
        slot = self._by_key.get(key) if key is not None else None
        if slot is None:
            idle = [slot for slot in self.slots if not slot.busy]
            if not idle:
                return None
            free = [slot for slot in idle if slot.key is None]
            slot = free[0] if free else min(idle, key=lambda slot: slot.last_used)
            self._drop(slot)
            if key is not None:
                slot.key = key
                self._by_key[key] = slot
        elif slot.busy:
            return None
        slot.busy = True
        self._clock += 1
        slot.last_used = self._clock
        return slot

    def give_back(self, slot: Slot) -> None:
        """The slot stays with its conversation, unless that was forgotten meanwhile or has no name."""
        slot.busy = False
        if slot.key is None:
            slot.hold_nothing()

    def forget(self, key: str) -> None:
        """Free the conversation's slot; a busy one when it is given back."""
        slot = self._by_key.get(key)
        if slot is not None:
            self._drop(slot)

    def _drop(self, slot: Slot) -> None:
        if slot.key is not None:
            del self._by_key[slot.key]
        slot.key = None
        if not slot.busy:
            slot.hold_nothing()
