"""Which conversations are at hand, in two tiers: slots, one per stream of the KV memory, and parked states beside it.

Pure bookkeeping, without llama.cpp: whoever takes a slot brings its stream in line with `tokens`. A slot that is not
busy may be taken from its conversation at any time. Its state is then parked, within a number of bytes, and the least
recently used state is dropped first. Conversations in neither tier stand in the caller's container.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace
from time import monotonic

import numpy as np
from numpy.typing import NDArray

from canister.engine.buffers import Buffers, resident_bytes
from canister.engine.drafting.habit import Habit
from canister.engine.kv.lookahead import Lookahead
from canister.engine.kv.prefix_tree import PrefixTree, Symbols, symbols
from canister.engine.request import Flags, Tokens

Bytes = NDArray[np.uint8]
Logits = NDArray[np.float32]

# The caller of states that may be used for every caller: a reserved principal, by which nobody can sign.
PUBLISHED = "sebtv-b3qov-rgy2l-tnbsw-i7y"
MIN_SHARED = 32  # tokens that another conversation's state must have beyond one's own to be worth setting

_NO_TOKENS: Tokens = np.empty(0, np.int32)
_NO_FLAGS: Flags = np.empty(0, np.bool_)


@dataclass(slots=True, eq=False)
class Slot:
    """One stream of the KV memory.

    key: the conversation it belongs to; None: free, or, while busy, to be freed. caller: whose conversation it is.
    tokens, generated, starts: what it held when it was given back, and how that was decoded.
    logits: those after the last of them, if known.
    n_stored: of how many leading tokens the KV rows were handed out, or came from outside.
    ahead: what the stream has beyond the tokens, for the next call.
    habit: what drafts of the conversation were like. guess_habit: those of a draft model, if it was asked.
    """

    stream: int
    key: str | None = None
    caller: str = ""
    busy: bool = False
    tokens: Tokens = field(default_factory=lambda: _NO_TOKENS)
    generated: Flags = field(default_factory=lambda: _NO_FLAGS)
    starts: Flags = field(default_factory=lambda: _NO_FLAGS)
    logits: Logits | None = None
    n_stored: int = 0
    ahead: Lookahead | None = None
    habit: Habit = field(default_factory=Habit)
    guess_habit: Habit | None = None
    last_used: int = 0

    def hold(self, tokens: Tokens, generated: Flags, starts: Flags, logits: Logits | None, n_stored: int) -> None:
        self.tokens, self.generated, self.starts = tokens, generated, starts
        self.logits, self.n_stored, self.ahead = logits, n_stored, None

    def hold_nothing(self) -> None:
        self.hold(_NO_TOKENS, _NO_FLAGS, _NO_FLAGS, None, 0)


@dataclass(frozen=True, slots=True, eq=False)
class ParkedState:
    """A conversation's state beside the KV memory: what a slot notes, and the state as llama.cpp takes it back.

    from_disk: read from a container for a call that needs it next. fresh_until: monotonic time until which no other
    state from disk may drive it out.
    """

    key: str
    caller: str
    tokens: Tokens
    generated: Flags
    starts: Flags
    logits: Logits | None
    n_stored: int
    state: Bytes
    from_disk: bool = False
    fresh_until: float = 0.0

    @property
    def n_bytes(self) -> int:
        arrays = (
            self.tokens,
            self.generated,
            self.starts,
            self.state,
            *(() if self.logits is None else (self.logits,)),
        )
        return sum(resident_bytes(array) for array in arrays)


class StateCache:
    """Parked states by conversation, least recently used first, never more than max_bytes. From any thread.

    Nothing here takes longer with more states. A tree of tokens for each caller finds the closest one. States that were
    just read for a call are kept apart from those that may be dropped.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.buffers = Buffers()  # for states
        self._n_bytes = 0
        self._trees: dict[str, PrefixTree[str]] = {}  # keys by tokens, for each caller
        self._used: OrderedDict[str, _Held] = OrderedDict()
        self._fresh: OrderedDict[str, _Held] = OrderedDict()
        self._stale: OrderedDict[str, _Held] = OrderedDict()  # were fresh, and were not used in time
        self._fresh_bytes = 0
        self._clock = 0
        self._lock = threading.Lock()

    @property
    def n_bytes(self) -> int:
        return self._n_bytes

    def __len__(self) -> int:
        return len(self._used) + len(self._fresh) + len(self._stale)

    def put(self, parked: ParkedState) -> None:
        """Keep a state instead of the conversation's former one. A state that is too large is not kept.

        A state from disk does not drive out fresh ones, which are needed before it.
        """
        n_bytes = parked.n_bytes
        with self._lock:
            self._remove(parked.key)
            self._age()
            if n_bytes > self.max_bytes - (self._fresh_bytes if parked.from_disk else 0):
                return
            while self._n_bytes + n_bytes > self.max_bytes:
                self._remove(self._least_recent(spare_fresh=parked.from_disk))
            if parked.caller not in self._trees:
                self._trees[parked.caller] = PrefixTree()
            self._trees[parked.caller].add(parked.key, symbols(parked.tokens, parked.generated))
            self._n_bytes += n_bytes
            self._clock += 1
            held = _Held(parked, n_bytes, self._clock)
            if monotonic() < parked.fresh_until:
                self._fresh[parked.key] = held
                self._fresh_bytes += n_bytes
            else:
                self._used[parked.key] = held

    def has_room(self, n_bytes: int) -> bool:
        """Would a state of this size from disk be kept?"""
        with self._lock:
            self._age()
            return n_bytes <= self.max_bytes - self._fresh_bytes

    def get(self, key: str | None) -> ParkedState | None:
        with self._lock:
            held = self._find(key) if key is not None else None
        return held.parked if held is not None else None

    def take(self, key: str) -> ParkedState | None:
        with self._lock:
            return self._remove(key)

    def use(self, parked: ParkedState) -> None:
        """A state was used for another conversation, and stays."""
        with self._lock:
            held = self._find(parked.key)
            if held is not None and held.parked is parked:
                self._pop(parked.key)
                self._clock += 1
                self._used[parked.key] = _Held(replace(parked, fresh_until=0.0), held.n_bytes, self._clock)

    def closest(self, caller: str, wanted: Symbols, *, whole: bool = False) -> tuple[int, ParkedState] | None:
        """The state of a caller's conversations that begins most like this, and how many symbols agree.

        whole: only among those that agree from their beginning to their end.
        """
        with self._lock:
            tree = self._trees.get(caller)
            found = tree.longest(wanted, whole=whole) if tree is not None else None
            held = self._find(found[1]) if found is not None else None
        return (found[0], held.parked) if found is not None and held is not None else None

    def newest(self) -> list[ParkedState]:
        """All of them, the last used first. Takes time for each."""
        with self._lock:
            held = [*self._used.values(), *self._fresh.values(), *self._stale.values()]
        return [each.parked for each in sorted(held, key=lambda each: -each.clock)]

    def _age(self) -> None:
        """Let states that were fresh too long be driven out. All stay fresh for the same time, so the first is the
        oldest.
        """
        now = monotonic()
        while self._fresh:
            key, held = next(iter(self._fresh.items()))
            if now < held.parked.fresh_until:
                return
            self._pop(key)
            self._stale[key] = held

    def _least_recent(self, *, spare_fresh: bool) -> str:
        queues = (self._used, self._stale) if spare_fresh else (self._used, self._stale, self._fresh)
        return min((next(iter(queue.items())) for queue in queues if queue), key=lambda item: item[1].clock)[0]

    def _find(self, key: str) -> _Held | None:
        return self._used.get(key) or self._fresh.get(key) or self._stale.get(key)

    def _pop(self, key: str) -> _Held | None:
        held = self._used.pop(key, None) or self._stale.pop(key, None)
        if held is None and (held := self._fresh.pop(key, None)) is not None:
            self._fresh_bytes -= held.n_bytes
        return held

    def _remove(self, key: str) -> ParkedState | None:
        held = self._pop(key)
        if held is None:
            return None
        self._n_bytes -= held.n_bytes
        tree = self._trees[held.parked.caller]
        tree.discard(key)
        if not len(tree):
            del self._trees[held.parked.caller]
        return held.parked


@dataclass(frozen=True, slots=True)
class _Held:
    """A parked state, and when it came or was used last, by the cache's clock."""

    parked: ParkedState
    n_bytes: int
    clock: int


def _nobody() -> Collection[str]:
    return ()


class SlotTable:
    """The slots of a context, and the states parked beside it."""

    def __init__(self, n_slots: int, ram_bytes: int = 0) -> None:
        self.slots = [Slot(stream) for stream in range(n_slots)]
        self.state_cache = StateCache(ram_bytes)
        self._by_key: dict[str, Slot] = {}
        self._clock = 0

    def take(
        self,
        key: str | None,
        caller: str = "",
        *,
        waiting: Callable[[], Collection[str | None]] = _nobody,
        park: Callable[[Slot], None] | None = None,
    ) -> Slot | None:
        """The conversation's own slot, else a free one, else one taken from a conversation. None when all are busy.

        A slot of another conversation comes emptied, and `park` sees it before. Also None while the conversation's own
        slot is busy. waiting: keys of the calls that want a slot next; their slots are taken last.
        """
        slot = self._by_key.get(key) if key is not None else None
        if slot is None:
            slot = self._choose(waiting)
            if slot is None:
                return None
            if park is not None and slot.key is not None:
                park(slot)
            self._drop(slot)
            if key is not None:
                slot.key = key
                self._by_key[key] = slot
        elif slot.busy:
            return None
        slot.busy, slot.caller = True, caller
        self._clock += 1
        slot.last_used = self._clock
        return slot

    def _choose(self, waiting: Callable[[], Collection[str | None]]) -> Slot | None:
        """Free slots first, then those that nobody waits for; of the less recently used half, one beside a busy slot.

        llama.cpp computes neighbouring streams together, and splits at gaps.
        """
        idle = [slot for slot in self.slots if not slot.busy]
        candidates = [slot for slot in idle if slot.key is None]
        if idle and not candidates:
            wanted = set(waiting())
            candidates = [slot for slot in idle if slot.key not in wanted] or idle
            candidates.sort(key=lambda slot: slot.last_used)
            candidates = candidates[: (len(candidates) + 1) // 2]
        busy = [slot.stream for slot in self.slots if slot.busy]

        def distance(slot: Slot) -> int:
            return min((abs(slot.stream - stream) for stream in busy), default=0)

        return min(candidates, key=lambda slot: (distance(slot), slot.last_used), default=None)

    def of(self, caller: str) -> Iterator[Slot]:
        """The slots of a caller's conversations."""
        return (slot for slot in self.slots if slot.key is not None and slot.caller == caller)

    def newest(self) -> Iterator[Slot | ParkedState]:
        """The conversations that are at hand, the last used first, those in slots before the parked ones."""
        yield from sorted((slot for slot in self.slots if slot.key is not None), key=lambda slot: -slot.last_used)
        yield from self.state_cache.newest()

    def slot_of(self, key: str | None) -> Slot | None:
        return self._by_key.get(key) if key is not None else None

    def give_back(self, slot: Slot) -> None:
        """The slot stays with its conversation, unless the conversation was forgotten meanwhile or has no name."""
        slot.busy = False
        if slot.key is None:
            slot.hold_nothing()

    def forget(self, key: str) -> None:
        """Free the conversation's slot, or a busy one when it is given back, and drop its parked state."""
        self.state_cache.take(key)
        slot = self._by_key.get(key)
        if slot is not None:
            self._drop(slot)

    def _drop(self, slot: Slot) -> None:
        if slot.key is not None:
            del self._by_key[slot.key]
        slot.key, slot.habit, slot.guess_habit = None, Habit(), None
        if not slot.busy:
            slot.hold_nothing()
