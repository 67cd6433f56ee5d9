"""A request on its way between an event loop and the decode thread.

The decode thread notes what has become of it, and notifies the loop once per step for all requests together.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypeVar

from canister.engine.drafting.lookup import Lookup
from canister.engine.drafting.model import Guess
from canister.engine.kv.lookahead import Lookahead
from canister.engine.kv.slots import Slot
from canister.engine.request import GenerateRequest, GenerateResult, Sampled
from canister.engine.sampling.binding import Binding
from canister.engine.sampling.chain import ChainSampler
from canister.engine.sequence import Sequence
from canister.telemetry.logs import get_logger

log = get_logger(__name__)

Outcome = GenerateResult | Exception
T = TypeVar("T")


@dataclass(slots=True, eq=False)
class Task:
    """A request with its progress and its outcome.

    outcome: set when the call has ended, handed to the loop at the end of the step. done: the loop's future.
    is_cancelled: set by the loop, read by the decode thread before it decodes for this call alone.
    """

    request: GenerateRequest
    loop: asyncio.AbstractEventLoop
    done: asyncio.Future[GenerateResult]
    binding: Binding | None = None
    sampler: ChainSampler | None = None
    planned: Sequence | None = None
    placed: Slot | None = None
    shown: list[Sampled] = field(default_factory=list)  # tokens that the loop has not been told of
    has_told: bool = False  # of the first ones
    outcome: Outcome | None = None
    is_cancelled: bool = False
    is_ahead: bool = False  # nobody's call: rows are decoded for the next one
    lookup: Lookup = field(default_factory=Lookup)
    guess: Guess = field(default_factory=Guess)
    found: Lookahead | None = None  # of such a one that generates: where its tokens go
    own_due: tuple[int, int] | None = None  # the place of its prompt, if it is of no chain

    @property
    def caller(self) -> str:
        return self.request.caller

    @property
    def key(self) -> str | None:
        return self.request.key

    @property
    def is_told(self) -> bool:
        """Was its first token told, if somebody listens?"""
        return self.has_told or self.request.on_tokens is None

    @property
    def wants_row(self) -> bool:
        return self.sequence.wants_row

    @property
    def position(self) -> int:
        return self.sequence.position

    @property
    def n_prompt(self) -> int:
        return self.sequence.n_prompt

    @property
    def is_alone(self) -> bool:
        """Does its prompt share no decode? One that is scored takes all logits that a decode may have."""
        return self.request.n_prompt_logprobs is not None

    @property
    def n_wanted(self) -> int:
        return len(self.request.prompt)

    @property
    def due(self) -> tuple[int, int] | None:
        ahead = self.request.ahead
        return self.own_due if ahead is None else ahead.due

    @due.setter
    def due(self, due: tuple[int, int]) -> None:
        if self.request.ahead is None:
            self.own_due = due
        else:
            self.request.ahead.due = due

    @property
    def goes_on(self) -> bool:
        """Ended, may it be followed by a call that goes on with its answer?"""
        sequence = self.sequence
        if self.request.ahead is not None:
            return sequence.ends_before_a_draw
        return sequence.finished in ("instructions", "length", "time")

    @property
    def sequence(self) -> Sequence:
        assert self.planned is not None
        return self.planned

    @property
    def slot(self) -> Slot:
        assert self.placed is not None
        return self.placed


Notice = tuple[Task, list[Sampled], Outcome | None]


def notify(tasks: Iterable[Task]) -> None:
    """On the decode thread: tell each event loop its news, all at once."""
    notices: dict[asyncio.AbstractEventLoop, list[Notice]] = {}
    for task in tasks:
        shown = task.shown if task.request.on_tokens is not None else []
        if shown or task.outcome is not None:
            notices.setdefault(task.loop, []).append((task, shown, task.outcome))
        if task.shown:
            task.shown, task.has_told = [], True
    for loop, batch in notices.items():
        try:
            loop.call_soon_threadsafe(_deliver, batch)
        except RuntimeError:
            continue  # the loop is closed: nobody waits any more


def _deliver(batch: list[Notice]) -> None:
    for task, shown, outcome in batch:
        if shown and task.request.on_tokens is not None:
            try:
                task.request.on_tokens(shown)
            except Exception:  # the other calls still get their news
                log.exception("a listener failed", caller=task.caller)
        if isinstance(outcome, Exception):
            task.done.set_exception(outcome)
        elif outcome is not None:
            task.done.set_result(outcome)


def settle(future: asyncio.Future[None], error: Exception | None) -> None:
    """On the decode thread: complete a future of an event loop, unless it is done."""

    def end() -> None:
        if not future.done():
            future.set_result(None) if error is None else future.set_exception(error)

    try:
        future.get_loop().call_soon_threadsafe(end)
    except RuntimeError:
        return  # the loop is closed: nobody waits any more


async def until_done(future: asyncio.Future[T]) -> None:
    """Wait for the future to end, however often the waiting task is cancelled."""
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError:
            continue
