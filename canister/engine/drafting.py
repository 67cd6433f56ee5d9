"""Proposes the tokens that come next in a chat, from the chat's own text, and says whether it pays to look.

Where the end of a text stood before in it, what followed there may follow here: in summaries, edits, JSON. A draft is
decoded with the token before it, in one pass over the weights, and counts as far as the call draws the very same
tokens. So a draft changes nothing but time. Pure Python: it sees tokens and seconds, no model and no clock.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from canister.engine.request import Tokens, common_prefix

SpecType = Literal["none", "ngram-simple"]

MATCH = 4  # tokens at the end of a text that must have stood before
WINDOW = 1 << 16  # tokens at the end of a text in which they are looked for
MOST_ROWS = 16  # of a draft and the token before it
WORTH = 1.05  # times as fast at least, by what is expected
LOSS_SHARE = 0.015  # of a chat's time that drafts which failed may take in all
MOST_TOGETHER = 4  # chats whose drafts are decoded in one step
MOST_UNUSED = 3  # rows of a draft that cannot count; a stream has cells for them
_ROWS = (2, 4, 8, 12, MOST_ROWS)
_COMPARED = 32  # tokens, of which the longest match is chosen
_PLACES = 8  # that are compared
_SEARCH_SECONDS = 1e-5  # that a place is looked for, about
_SEARCH_SHARE = 0.005  # of a chat's time
_DECAY = 0.97  # of what a chat's drafts were like, a token
_PRIOR, _PRIOR_WEIGHT = 0.85, 4.0  # what is expected of a chat without drafts, in tokens
_WEIGHT = 0.3  # of a new measurement against all before
_OUTLIER = 4.0  # times what was measured; a longer one is a hiccup of the machine
_MOST_SAVED = 8.0  # decodes of one token: gains that may be lost again


@dataclass(slots=True, eq=False)
class Habit:
    """What a chat's proposals were like, also those that were not decoded. balance: seconds gained, less those lost."""

    n_hits: float = 0.0
    n_misses: float = 0.0
    balance: float = 0.0

    def note(self, is_hit: bool) -> None:
        self.n_hits, self.n_misses = self.n_hits * _DECAY + is_hit, self.n_misses * _DECAY + (not is_hit)

    @property
    def chance(self) -> float:
        """That a proposed token comes, if all before it came."""
        return (self.n_hits + _PRIOR * _PRIOR_WEIGHT) / (self.n_hits + self.n_misses + _PRIOR_WEIGHT)

    def settle(self, n_tokens: int, seconds: float, seconds_of_one: float) -> None:
        """A draft was decoded: n_tokens came in so many seconds. Each alone would have taken seconds_of_one."""
        gained = n_tokens * seconds_of_one - seconds
        self.balance = min(self.balance + gained, _MOST_SAVED * seconds_of_one)

    def go_on(self, seconds: float) -> None:
        """A token was decoded without a draft. With time, a loss counts no more."""
        if self.balance < 0:
            self.balance += LOSS_SHARE * seconds


class Lookup:
    """Where the end of one call's text stood before, followed as the text grows."""

    def __init__(self) -> None:
        self._n_seen = 0
        self._source = -1  # where a token like the last one stands, with the same ones before it; -1: nowhere
        self._rest = self._n_failed = 0

    def follow(self, tokens: Tokens, habit: Habit, most_rest: int) -> bool:
        """All tokens so far, the last of which is not decoded yet. Is there something to propose?

        most_rest: tokens at most until a place is looked for again, where there was none.
        """
        n, n_seen = len(tokens), self._n_seen
        self._n_seen = n
        if self._source < 0:
            self._rest -= n - n_seen
        else:
            for at in range(n_seen, n):
                is_hit = bool(tokens[self._source + 1] == tokens[at])
                habit.note(is_hit)
                self._source = self._source + 1 if is_hit else -1
                if not is_hit:
                    break
        if self._source < 0 and self._rest <= 0:
            self._source = _last_place(tokens)
            self._n_failed = 0 if self._source >= 0 else self._n_failed + 1
            self._rest = min(self._n_failed, most_rest)
        return self._source >= 0

    def draft(self, tokens: Tokens, n: int) -> Tokens:
        """The n tokens that are proposed to follow; after those that followed, the same again."""
        return np.resize(tokens[self._source + 1 :], n)


def _last_place(tokens: Tokens) -> int:
    """The number of the token up to which the longest part of the text is like its end, the last one of equals; -1."""
    tokens = tokens[-WINDOW:] if (n_before := max(0, len(tokens) - WINDOW)) else tokens
    n = len(tokens)
    if n <= MATCH:
        return -1
    ends = np.flatnonzero(tokens[MATCH - 1 : n - 1] == tokens[n - 1]) + (MATCH - 1)
    for back in range(1, MATCH):
        if not len(ends):
            return -1
        ends = ends[tokens[ends - back] == tokens[n - 1 - back]]
    if not len(ends):
        return -1
    last = tokens[::-1][:_COMPARED]
    places = ends[-_PLACES:].tolist()
    return n_before + int(max(places, key=lambda end: (common_prefix(tokens[end::-1][:_COMPARED], last), end)))


@dataclass(frozen=True, slots=True)
class Proposal:
    """What is known of a call before its next token is decoded: its lookup, its chat's habit, all its tokens, how many
    more than the next one it may decode, and those that it decodes anew behind the next one.
    """

    lookup: Lookup
    habit: Habit
    tokens: Tokens
    n_more: int
    known: Tokens


@dataclass(frozen=True, slots=True)
class Draft:
    """tokens: that may follow the one that a call decodes next, or do so. n_expected: that count, that one included."""

    tokens: Tokens
    n_expected: float
    is_known: bool = False

    @property
    def n_rows(self) -> int:
        return 1 + len(self.tokens)


class Drafter:
    """Decides about the drafts of a model's calls, by what decodes have cost. most: rows of one; 0: there are none."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.cost = DraftCost()
        self.n_drafted = self.n_accepted = 0
        self._seconds = 0.0  # of the step without drafts

    def has_place(self, lookup: Lookup, habit: Habit, tokens: Tokens, seconds_of_one: float) -> bool:
        """Did the end of these tokens stand before in them? Asked for each token, so it takes next to no time."""
        most_rest = 1 + int(_SEARCH_SECONDS / (_SEARCH_SHARE * seconds_of_one)) if seconds_of_one else 1
        return lookup.follow(tokens, habit, most_rest) and habit.balance >= 0

    def drafts(self, proposals: Sequence[Proposal], seconds: float, seconds_of_one: float) -> list[Draft]:
        """A draft for each call of a step that has a place, or none at all. seconds: of the step without drafts, and of
        one token alone; 0: not known yet.

        With drafts, calls are decoded one after the other, and none may wait longer for its tokens than without.
        """
        found: list[Draft] = []
        total = 0.0
        for proposal in proposals:
            draft = self._draft(proposal, seconds_of_one)
            if draft is not None:
                found.append(draft)
                total += self.cost.seconds(draft.n_rows, seconds_of_one)
        if len(found) < len(proposals) or any(each.n_expected * seconds < WORTH * total for each in found):
            return []
        self._seconds = seconds
        return found

    def _draft(self, proposal: Proposal, seconds_of_one: float) -> Draft | None:
        habit, tokens = proposal.habit, proposal.tokens
        if len(proposal.known):
            return self._best(1.0, len(proposal.known), seconds_of_one, lambda n: np.resize(proposal.known, n), True)
        return self._best(habit.chance, proposal.n_more, seconds_of_one, lambda n: proposal.lookup.draft(tokens, n))

    def _best(
        self, chance: float, n_more: int, seconds_of_one: float, draft: Callable[[int], Tokens], is_known: bool = False
    ) -> Draft | None:
        """The best draft whose first n_more tokens may count; None: none is worth it."""
        if not seconds_of_one or not n_more:
            return None
        n = best_rows(chance, 1 + n_more, self.most, lambda n: self.cost.seconds(n, seconds_of_one), seconds_of_one)
        return Draft(draft(n - 1), n_expected(chance, min(n, 1 + n_more)), is_known) if n > 1 else None

    def decoded(self, draft: Draft, n_tokens: int, seconds: float) -> None:
        """A draft and the token before it were decoded. n_tokens: that counted."""
        self.cost.measured(draft.n_rows, seconds)
        if not draft.is_known:
            self.n_drafted += len(draft.tokens)
            self.n_accepted += max(0, n_tokens - 1)

    def settle(self, habits: Sequence[Habit], n_tokens: Sequence[int], seconds: float) -> None:
        """A step with drafts took so long, and gave so many tokens to each chat."""
        for habit, n in zip(habits, n_tokens, strict=True):
            habit.settle(n, seconds, self._seconds)


class DraftCost:
    """Seconds of a decode of a draft by its rows, from those that were measured."""

    def __init__(self) -> None:
        self._seconds: dict[int, float] = {}

    def measured(self, n_rows: int, seconds: float) -> None:
        before = self._seconds.get(n_rows, seconds)
        self._seconds[n_rows] = before + _WEIGHT * (min(seconds, _OUTLIER * before) - before)

    def seconds(self, n_rows: int, seconds_of_one: float) -> float:
        """Of a number that was not measured: by the nearest one that was, along the usual line."""
        known = self._seconds.get(n_rows)
        if known is not None:
            return known
        more = _usual(n_rows) - 1
        if self._seconds:
            nearest = min(self._seconds, key=lambda n: abs(n - n_rows))
            more *= max(0.0, self._seconds[nearest] / seconds_of_one - 1) / (_usual(nearest) - 1)
        return seconds_of_one * (1 + more)


def _usual(n_rows: int) -> float:
    """What a decode of a draft costs on common processors, in decodes of one token."""
    return 1.2 + 0.35 * n_rows


def best_rows(chance: float, n_useful: int, most: int, seconds: Callable[[int], float], seconds_of_one: float) -> int:
    """How many rows, at most `most`, are expected to be fastest; 1 where no number is worth it. n_useful: rows that may
    count. There may be a few more, since kernels compute some numbers of rows faster than smaller ones.
    """
    best, best_gain = 1, WORTH
    for n in sorted({*(n for n in _ROWS if n < most), most}):
        if 1 < n <= n_useful + MOST_UNUSED:
            gain = n_expected(chance, min(n, n_useful)) * seconds_of_one / max(seconds(n), 1e-9)
            if gain > best_gain:
                best, best_gain = n, gain
    return best


def n_expected(chance: float, n_rows: int) -> float:
    """Tokens that a decode of so many rows is expected to give."""
    return float(n_rows) if chance >= 1 else (1 - chance**n_rows) / (1 - chance)
