"""A small model that guesses what comes next in chats, beside the model that answers.

It has a context of its own, with a stream for each slot. A stream is kept in step with the slot's chat by their common
beginning: what a guess had wrong is removed, what is new is decoded. Of a long chat it sees the end, so that its memory
and the time to catch up are bounded. Guesses are greedy. What is wrong with them costs time and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from time import perf_counter

import numpy as np

from canister.engine.drafting.habit import Habit
from canister.engine.llama import Context, Logits, Model
from canister.engine.request import Tokens, common_prefix
from canister.telemetry.logs import get_logger

MOST_CELLS = 1024  # tokens of a chat that it sees
MOST_BEHIND = 256  # tokens that it decodes to catch up; of a chat that is further ahead it sees so many at the end
CREDIT = 8.0  # decodes of one token, that a caller's guesses may cost before they have gained any
_WEIGHT = 0.2  # of a new measurement against all before
_OUTLIER = 4.0  # times what was measured

log = get_logger(__name__)


@dataclass(slots=True)
class _Stream:
    """tokens: that are in the memory, of which the first is number `first` of the chat."""

    tokens: Tokens
    first: int = 0


@dataclass(slots=True)
class Guess:
    """What was guessed to follow in a call's text, until it is known: tokens from number `at` on."""

    at: int = 0
    tokens: Tokens = field(default_factory=lambda: np.empty(0, np.int32))

    def note(self, history: Tokens, habit: Habit) -> None:
        """The call has these tokens now: count the guesses up to the first that was wrong."""
        came = history[self.at : self.at + len(self.tokens)]
        if len(came) and len(self.tokens):
            n = common_prefix(came, self.tokens)
            for _ in range(n):
                habit.note(True)
            if n < len(came):
                habit.note(False)
            self.tokens = self.tokens[:0]


class DraftModel:
    """All of it runs on the decode thread. n_vocab: tokens of the model that answers.

    n_min: guesses of fewer tokens are not worth a draft. p_min: the least probability of a guess, by this model.
    seconds, seconds_a_row: of a decode of one row, and of each more, as measured.
    """

    def __init__(self, model: Model, context: Context, name: str, n_vocab: int, *, n_min: int, p_min: float) -> None:
        self.name = name
        self.n_cells = context.params.n_cells
        self.seconds = self.seconds_a_row = 0.0
        self._model: Model | None = model
        self._context = context
        self._n_vocab = min(n_vocab, model.n_vocab)
        self.n_min = n_min
        self._p_min = p_min
        self._streams = [_Stream(np.empty(0, np.int32)) for _ in range(context.params.n_streams)]
        self._is_broken = False

    def close(self) -> None:
        """Free context and weights; on any thread, when no call is left."""
        self._context.close()
        self._model = None

    def measure(self) -> None:
        """What decodes of one row, and of several, take here. Raises EngineFault."""
        n = min(64, self._context.params.n_rows)
        tokens = np.arange(n, dtype=np.int32) % self._n_vocab
        self._decode(0, 0, tokens)  # so that what is slow the first time is over
        self._decode(0, n, tokens[:1])
        self._context.clear(0)
        started = perf_counter()
        self._decode(0, 0, tokens)
        many = perf_counter()
        self._decode(0, n, tokens[:1])
        self.seconds = perf_counter() - many
        self.seconds_a_row = max(0.0, many - started - self.seconds) / max(1, n - 1)
        self._context.clear(0)

    def catch_up_seconds(self, stream: int, history: Tokens) -> float:
        """About how long it takes to decode what it has not seen of a chat, beyond one token."""
        first, n_kept = self._in_step(stream, history)
        return (len(history) - first - n_kept - 1) * self.seconds_a_row

    def draft(self, stream: int, history: Tokens, n: int) -> Tokens:
        """At most n tokens that are guessed to follow; none if none is likely enough, or the model has failed."""
        if self._is_broken:
            return history[:0]
        try:
            tokens = self._draft(stream, history, n)
        except Exception as error:  # the chats go on without it
            self._is_broken = True
            log.exception("the draft model failed and is not asked again", model=self.name, reason=str(error))
            return history[:0]
        return np.array(tokens, np.int32)

    def _draft(self, stream: int, history: Tokens, n: int) -> list[int]:
        first, n_kept = self._in_step(stream, history)
        held = self._streams[stream]
        held.first, held.tokens = first, history[first : first + n_kept]
        if not self._context.remove(stream, n_kept):
            self._context.clear(stream)
            n_kept = 0
        window = history[first:]
        logits = self._decode(stream, n_kept, window[n_kept:])
        guessed: list[int] = []
        at = len(window)
        while (token := self._likeliest(logits)) is not None:
            guessed.append(token)
            assert self._model is not None
            if len(guessed) == n or at + 1 >= self.n_cells or self._model.is_eog(token):
                break
            started = perf_counter()
            logits = self._decode(stream, at, [token])
            seconds = min(perf_counter() - started, _OUTLIER * self.seconds)
            self.seconds += _WEIGHT * (seconds - self.seconds)
            at += 1
        held.tokens = np.concatenate((window, np.array(guessed[: at - len(window)], np.int32)))
        return guessed

    def _in_step(self, stream: int, history: Tokens) -> tuple[int, int]:
        """From which token of a chat on it sees it next, and how many of these are in the memory. The last one is
        decoded in any case.
        """
        held = self._streams[stream]
        n = len(history)
        n_kept = min(common_prefix(held.tokens, history[held.first :]), n - held.first - 1)
        has_room = n - held.first < self.n_cells
        if n_kept > 0 and has_room and n - held.first - n_kept <= MOST_BEHIND:
            return held.first, n_kept
        return max(0, n - min(MOST_BEHIND, self.n_cells // 2)), 0

    def _decode(self, stream: int, position: int, tokens: Sequence[int] | Tokens) -> Logits:
        n = len(tokens)
        self._context.decode([stream] * n, range(position, position + n), tokens, [n - 1])
        return self._context.logits(n - 1)

    def _likeliest(self, logits: Logits) -> int | None:
        """The likeliest token; None if it is not likely enough."""
        logits = logits[: self._n_vocab]
        token = int(logits.argmax())
        if self._p_min <= 0:
            return token
        share = 1 / float(np.exp(logits - logits[token]).sum())
        return token if share >= self._p_min else None
