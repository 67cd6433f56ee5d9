"""Who is in the next step. Pure Python: policy is tested without a model and without a clock.

A step is at most two decodes: one row of every generating call, then a prompt chunk of one call, or of several where
that changes no logits. Calls join and leave between steps. The size of a chunk is a matter of time only. Where it would
change a chat's logits, a chunk never shrinks for a chat that may come or not, so successive chats are always cut alike.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Generic, Protocol, TypeVar

from canister.engine.schedule.chunk_size import MIN_CHUNK, ChunkSizer
from canister.engine.schedule.fair_share import FairShare

ALONE = 256  # tokens of a chunk
BESIDE_PROMPTS = 128  # so much before another caller's prompt, when nobody generates and none share a decode
PASS_ROWS = 16  # what a decode costs beside its rows, in rows
SHORT = 64  # tokens of a prompt; a longer one fills decodes well enough by itself
LEFT_OUT_ROWS = 48  # what a short prompt costs, in rows, that goes in beside chats that generate
ADVANCE = 16  # tokens that are set aside for a call that gets a slot; it is charged them all if it decodes nothing
MAX_PASSED = 8  # resident calls that may overtake one that is not
MAX_PAUSE_SECONDS = 0.2


class Schedulable(Protocol):
    """What the scheduler reads of a call. A running call wants either a row or a chunk, which begins at `position`.

    n_prompt: tokens that it can take in chunks. is_alone: they share no decode. n_wanted: tokens of its prompt with
    those that later calls are to take. due: the place of its prompt among its caller's, noted here; calls that go on
    with one prompt have the same.
    goes_on: of a call that has ended: its chat's next one may come soon. is_ahead: it is nobody's, and decodes what the
    next one will need, which is still to come.
    """

    @property
    def caller(self) -> str: ...
    @property
    def key(self) -> str | None: ...
    @property
    def wants_row(self) -> bool: ...
    @property
    def position(self) -> int: ...
    @property
    def n_prompt(self) -> int: ...
    @property
    def is_alone(self) -> bool: ...
    @property
    def n_wanted(self) -> int: ...
    @property
    def due(self) -> tuple[int, int] | None: ...
    @due.setter
    def due(self, due: tuple[int, int]) -> None: ...
    @property
    def goes_on(self) -> bool: ...
    @property
    def is_ahead(self) -> bool: ...


Call = TypeVar("Call", bound=Schedulable)


@dataclass(frozen=True, slots=True)
class Step(Generic[Call]):
    """rows: calls that decode one token each, together. chunks: the calls whose prompts continue, together.

    Of each of these at most n_chunk tokens are decoded. position: where the furthest of them begins.
    """

    rows: list[Call]
    chunks: tuple[Call, ...] = ()
    n_chunk: int = 0
    position: int = 0


@dataclass(slots=True)
class _Account:
    """Of a running call. in_advance: tokens set aside and not used yet. row_turn: when it had its last row.

    has_had_row: in a step that was decoded.
    """

    in_advance: int = ADVANCE
    row_turn: int = 0
    has_had_row: bool = False
    has_decoded: bool = False


@dataclass(frozen=True, slots=True)
class _Between:
    """A conversation between two calls. told_at: when its last token was told, before the step that ended the call."""

    told_at: float
    ended_at: float


class Scheduler(Generic[Call]):
    """Waiting calls, running calls, and whose turn it is.

    - Slots and chunks go to the caller that was given least (`fair_share.py`), a slot among equals to the one with the
      fewest, then to the caller's calls in turn. A call is charged what is decoded for it. A little is set aside when
      it gets its slot, so that many new calls count at once.
    - Of a caller's prompts the one is next that would be in first if it went in alone, from when it came: one after
      the other, since of prompts that go in side by side none is in before the last. A short one overtakes a long one.
    - Calls on one conversation run one after the other. Among equals, those whose conversation is resident go first.
    - Where rows are capped, callers take turns and get the same number, one more or less. Then a caller's calls take
      turns.
    - A chunk is so small that neither generating calls nor a chat whose client is about to send its next call wait
      longer than the set pause (`chunk_size.py`). A call that is alone gets the largest chunks.

    - Prompts that have as many tokens left, or more than they may take now, share a decode.

    max_rows: of a step; None: all. min_shared: tokens of a chunk, below which no more prompts share a decode; 0: none
    ever do. clock: seconds, for the time between two calls of a chat. cut_matters: another cut of a prompt changes a
    chat's logits.
    """

    def __init__(
        self,
        max_chunk: int,
        max_rows: int | None = None,
        *,
        max_pause_seconds: float = MAX_PAUSE_SECONDS,
        cut_matters: bool = False,
        min_shared: int = 0,
        clock: Callable[[], float] = perf_counter,
    ) -> None:
        self.waiting: list[Call] = []  # in order of arrival
        self.running: list[Call] = []
        self.chunk_sizer = ChunkSizer(max_pause_seconds)
        self._max_chunk = max_chunk
        self._max_rows = max_rows
        self._cut_matters = cut_matters
        self._min_shared = min_shared
        self._clock = clock
        self._fair_share = FairShare()
        self._accounts: dict[int, _Account] = {}  # by id() of a running call
        self._n_passed: Counter[int] = Counter()  # by id() of a waiting call
        self._turn = 0
        self._n_prompt_tokens = 0  # decoded, of all prompts
        self._n_prompts = 0  # that came
        self._row_turns: dict[str, int] = {}  # of callers: their last row
        self._began_at = 0.0  # the last step
        self._between: dict[str, _Between] = {}  # conversations between two calls

    def add(self, call: Call) -> None:
        self._fair_share.join(call.caller)
        if call.due is None:
            self._n_prompts += 1
            call.due = self._n_prompt_tokens + call.n_wanted, self._n_prompts
        self.waiting.append(call)
        if call.key is not None and not call.is_ahead:
            self._between.pop(call.key, None)

    def admit(self, place: Callable[[Call], bool], is_resident: Callable[[Call], bool] = lambda _: False) -> list[Call]:
        """Move calls from waiting to running while `place` finds slots. Returns those that moved, in order.

        It takes time for each waiting call, so call it only while a slot is free.
        """
        admitted: list[Call] = []
        while (call := self._first(is_resident)) is not None and place(call):
            self.waiting.remove(call)
            self.running.append(call)
            del self._n_passed[id(call)]
            self._accounts[id(call)] = _Account()
            self._fair_share.set_aside(call.caller, ADVANCE)
            admitted.append(call)
        return admitted

    def remove(self, call: Call) -> None:
        """Remove a call that ended or was cancelled, wherever it is."""
        if call in self.waiting:
            self.waiting.remove(call)
            del self._n_passed[id(call)]
        elif call in self.running:
            self.running.remove(call)
            account = self._accounts.pop(id(call))
            if account.in_advance:
                self._charge_advance(call.caller, ADVANCE - account.in_advance if account.has_decoded else ADVANCE)
            if call.key is not None and account.has_had_row and call.goes_on and not call.is_ahead:
                self._between[call.key] = _Between(self._began_at, self._clock())
        else:
            return
        self._fair_share.leave(call.caller)

    def schedule(self) -> Step[Call]:
        """The next step of the calls that are running."""
        wanting: list[Call] = []
        prompts: list[Call] = []
        for call in self.running:
            (wanting if call.wants_row else prompts).append(call)
        rows = self._rows(wanting)
        self._began_at = self._clock()
        if not prompts:
            return Step(rows)

        def order(call: Call) -> tuple[float, int, tuple[int, int]]:
            return (*self._fair_share.order(call.caller), call.due or (0, 0))

        prompts.sort(key=order)
        first = prompts[0]
        waited = None if self._cut_matters else self._waited(first)
        if rows or waited is not None:
            n_next = len(rows) + 1 if self._max_rows is None else min(len(rows) + 1, self._max_rows)
            n_steps, waited = self._round(wanting), waited or 0.0
            n = self.chunk_sizer.chunk(len(rows), n_next, n_steps, first.position, self._max_chunk, waited)
        else:
            others = not self._min_shared and any(call.caller != first.caller for call in prompts)
            n = min(BESIDE_PROMPTS if others else ALONE, self._max_chunk)
        chunks = self._sharing(prompts, n, nobody_generates=not rows)
        for call in chunks:
            self._accounts[id(call)].has_decoded = True
        return Step(rows, chunks, max(n // len(chunks), MIN_CHUNK), max(call.position for call in chunks))

    def _sharing(self, prompts: list[Call], n: int, *, nobody_generates: bool) -> tuple[Call, ...]:
        """Of prompts in order of their turns the first, and those that best share a decode of n rows with it.

        All of them get as many rows as the one that needs most, so those that need fewer waste some. A long prompt goes
        alone, since the more of them share decodes, the later each is in. But where short prompts end and their chats
        begin to generate, short ones that are left out go in by small chunks. Of ways that are equally good it is the
        one with the most prompts.
        """
        best, best_value = tuple(prompts[:1]), 0.0
        if not self.may_share(prompts[0]):
            return best
        others = sorted((call for call in prompts[1:] if not call.is_alone), key=lambda call: -call.n_prompt)
        for n_calls in range(1, min(1 + len(others), n // self._min_shared) + 1):
            calls = (prompts[0], *others[: n_calls - 1])
            n_each = n // n_calls
            sizes = [min(call.n_prompt, n_each) for call in calls]
            n_done, n_rows = sum(sizes), n_calls * max(sizes) + PASS_ROWS
            if nobody_generates and any(call.n_prompt <= n_each for call in calls):
                left = [min(call.n_prompt, max(sizes)) for call in others[n_calls - 1 :] if call.n_prompt <= SHORT]
                n_done, n_rows = n_done + sum(left), n_rows + sum(left) + LEFT_OUT_ROWS * len(left)
            if n_done / n_rows >= best_value:
                best, best_value = calls, n_done / n_rows
        return best

    def may_share(self, prompt: Call) -> bool:
        """May other prompts share the next decode of this one? From any thread."""
        return bool(self._min_shared) and not prompt.is_alone and max(prompt.n_prompt, prompt.n_wanted) <= SHORT

    def account(
        self, step: Step[Call], rows_seconds: float | None, n_chunks: Sequence[int], chunk_seconds: float
    ) -> None:
        """Note the costs of a step. rows_seconds: None where drafts were decoded, which tell nothing about rows.
        n_chunks: tokens that were decoded of each chunk, 0 if it was aborted.
        """
        if step.rows:
            for call in step.rows:
                account = self._accounts.get(id(call))
                if account is not None:
                    account.has_had_row = True
            if rows_seconds is not None:
                self.chunk_sizer.rows.measured(len(step.rows), rows_seconds)
        self._n_prompt_tokens += sum(n_chunks)
        n_rows = len(step.chunks) * max(n_chunks, default=0)
        if n_rows:
            self.chunk_sizer.chunks.measured(n_rows, step.position, chunk_seconds)
        for call, n in zip(step.chunks, n_chunks, strict=True):
            account = self._accounts.get(id(call))  # None: the call has ended with this step
            from_advance = 0 if account is None else min(account.in_advance, n)
            if account is not None and from_advance:
                account.in_advance -= from_advance
                if not account.in_advance:
                    self._charge_advance(call.caller, ADVANCE)
            if n > from_advance:
                self._fair_share.give(call.caller, n - from_advance)

    def give(self, call: Call, n: int) -> None:
        """A call was given so many tokens beyond its row."""
        if n > 0:
            self._fair_share.give(call.caller, n)

    def _charge_advance(self, caller: str, n_used: int) -> None:
        """Give the caller n_used of what was set aside for a call, and drop the rest."""
        self._fair_share.set_aside(caller, -ADVANCE)
        if n_used:
            self._fair_share.give(caller, n_used)

    # -- turns

    def _first(self, is_resident: Callable[[Call], bool]) -> Call | None:
        """The waiting call whose turn it is."""
        keys = {call.key for call in self.running} - {None}
        n_running = Counter(call.caller for call in self.running)
        ranks: dict[str, tuple[float, int]] = {}  # of callers
        best = (float("inf"), 0)
        equals: list[Call] = []  # of the callers with the best rank, in order of arrival
        for call in self.waiting:
            if call.key is not None:
                if call.key in keys:
                    continue
                keys.add(call.key)
            rank = ranks.get(call.caller)
            if rank is None:
                rank = ranks[call.caller] = self._fair_share.lead(call.caller) // ADVANCE, n_running[call.caller]
            if rank < best:
                best, equals = rank, []
            if rank == best:
                equals.append(call)
        for i, call in enumerate(equals):
            if self._n_passed[id(call)] >= MAX_PASSED or is_resident(call):
                self._n_passed.update(map(id, equals[:i]))
                return call
        return equals[0] if equals else None

    def _rows(self, wanting: list[Call]) -> list[Call]:
        """All wanting calls, or as many as a step may have."""
        rows = wanting
        if self._max_rows is not None and len(wanting) > self._max_rows:
            rows = self._capped(wanting, self._max_rows)
        due: dict[str, int] = {}
        for call in rows:
            account = self._accounts[id(call)]
            account.has_decoded = True
            if account.in_advance:
                account.in_advance -= 1
                if not account.in_advance:
                    self._charge_advance(call.caller, ADVANCE)
            else:
                due[call.caller] = due.get(call.caller, 0) + 1
        for caller, n in due.items():
            self._fair_share.give(caller, n)
        return rows

    def _round(self, wanting: list[Call]) -> int:
        """Steps after which every call has had a row."""
        if self._max_rows is None or len(wanting) <= self._max_rows:
            return 1
        n_calls = Counter(call.caller for call in wanting)
        n_turns = -(-len(n_calls) // self._max_rows)
        n_each = max(1, self._max_rows // len(n_calls))
        return n_turns * -(-max(n_calls.values()) // n_each)

    def _capped(self, wanting: list[Call], max_rows: int) -> list[Call]:
        n_given: Counter[str] = Counter()
        left = {id(call): call for call in wanting}

        def order(call: Call) -> tuple[int, int, int]:
            return n_given[call.caller], self._row_turns.get(call.caller, 0), self._accounts[id(call)].row_turn

        for _ in range(max_rows):
            call = min(left.values(), key=order)
            del left[id(call)]
            self._turn += 1
            n_given[call.caller] += 1
            self._accounts[id(call)].row_turn = self._turn
            self._row_turns[call.caller] = self._turn
        callers = {call.caller for call in wanting}
        self._row_turns = {caller: turn for caller, turn in self._row_turns.items() if caller in callers}
        return [call for call in wanting if id(call) not in left]

    def _waited(self, chunk: Call) -> float | None:
        """How long chats between two calls have been without a token, at most, of those whose last call ended so
        recently that the next one may come while the chunk is decoded; None: there are none.
        """
        since = self._began_at - self.chunk_sizer.max_pause_seconds
        self._between = {key: each for key, each in self._between.items() if each.ended_at > since}
        told = [each.told_at for key, each in self._between.items() if key != chunk.key]
        return self._began_at - min(told) if told else None
