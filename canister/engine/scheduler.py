"""Who is in the next step. Pure Python: policy is tested without a model.

A step is at most two decodes: one row of every call that is generating, then one prompt chunk of one call.
Prompt chunks go by turns, callers first, then a caller's calls; admission is first come, first served. Calls join
and leave between steps. The size of a chunk is a matter of fairness only: it does not change a chat's logits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

BESIDE_ROWS = 32  # tokens of a chunk while others generate: it holds them up for some three steps of theirs
BESIDE_PROMPTS = 128
ALONE = 256


class Schedulable(Protocol):
    """What the scheduler looks at. A running call wants either a row or a chunk."""

    @property
    def caller(self) -> str: ...
    @property
    def key(self) -> str | None: ...
    @property
    def wants_row(self) -> bool: ...


Call = TypeVar("Call", bound=Schedulable)


@dataclass(frozen=True, slots=True)
class Step(Generic[Call]):
    """rows: calls that decode one token each, together. chunk: the call whose prompt goes on by up to n_chunk."""

    rows: list[Call]
    chunk: Call | None
    n_chunk: int


class Scheduler(Generic[Call]):
    """Calls that wait for a slot, calls that have one, and whose turn it is."""

    def __init__(self, max_chunk: int) -> None:
        self.waiting: list[Call] = []
        self.running: list[Call] = []
        self._max_chunk = max_chunk
        self._turn = 0
        self._caller_turns: dict[str, int] = {}  # of callers with a running call: their last turn
        self._call_turns: dict[int, int] = {}  # the same by id() of a running call

    def add(self, call: Call) -> None:
        self.waiting.append(call)

    def admit(self, place: Callable[[Call], bool]) -> list[Call]:
        """Move calls from waiting to running while `place` finds a slot for them; those that moved, in order.

        Calls on one conversation never run together: a later one waits, and lets others pass.
        """
        admitted: list[Call] = []
        left: list[Call] = []
        keys = {call.key for call in self.running} - {None}
        full = False
        for call in self.waiting:
            if full or call.key in keys:
                left.append(call)
            elif place(call):
                admitted.append(call)
                self._call_turns[id(call)] = 0
                self._caller_turns.setdefault(call.caller, 0)
            else:
                full = True
                left.append(call)
            if call.key is not None:
                keys.add(call.key)
        self.waiting = left
        self.running += admitted
        return admitted

    def remove(self, call: Call) -> None:
        """A call that ended or was cancelled, wherever it is."""
        if call in self.waiting:
            self.waiting.remove(call)
        if call in self.running:
            self.running.remove(call)
            del self._call_turns[id(call)]
            if not any(other.caller == call.caller for other in self.running):
                del self._caller_turns[call.caller]

    def schedule(self) -> Step[Call]:
        """The next step of the calls that are running."""
        rows = [call for call in self.running if call.wants_row]
        prompts = [call for call in self.running if not call.wants_row]
        if not prompts:
            return Step(rows, None, 0)
        chunk = min(prompts, key=lambda call: (self._caller_turns[call.caller], self._call_turns[id(call)]))
        self._turn += 1
        self._caller_turns[chunk.caller] = self._call_turns[id(chunk)] = self._turn
        n_chunk = BESIDE_ROWS if rows else BESIDE_PROMPTS if len(prompts) > 1 else ALONE
        return Step(rows, chunk, min(n_chunk, self._max_chunk))
