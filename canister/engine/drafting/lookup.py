"""Where the end of a chat's text stood before: in the text itself, or in those of its caller's other chats.

What followed there may follow here: in summaries, edits, JSON, and where a caller asks the same again. The other chats
are those of the same caller alone, since whoever sees how fast an answer comes could read in it what was drafted.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import numpy as np

from canister.engine.drafting.habit import Habit
from canister.engine.request import Tokens, common_prefix

MATCH = 4  # tokens at the end of a text that must have stood before in it
MATCH_ELSEWHERE = 8  # and in another one, since the tokens between two turns stand in all of them
WINDOW = 1 << 16  # tokens in which they are looked for, of the text and of the others together
MOST_TOKENS = 1 << 22  # of all callers' texts
_COMPARED = 32  # tokens, of which the longest match is chosen
_PLACES = 8  # that are compared
_BETWEEN = -1  # stands between two texts, and is no token

_NO_TOKENS: Tokens = np.empty(0, np.int32)


class Lookup:
    """Where the end of one call's text stood before, followed as the text grows."""

    def __init__(self) -> None:
        self._n_seen = 0
        self._elsewhere: Tokens | None = None  # the texts where the place is, if it is not in the call's own
        self._source = -1  # where a token like the last one stands, with the same ones before it; -1: nowhere
        self._rest = self._n_failed = 0

    def follow(
        self, tokens: Tokens, habit: Habit, most_rest: int, others: Callable[[], Tokens] = lambda: _NO_TOKENS
    ) -> bool:
        """All tokens so far, the last of which is not decoded yet. Is there something to propose?

        most_rest: tokens at most until a place is looked for again, where there was none. others: the texts of the
        caller's other chats.
        """
        n, n_seen = len(tokens), self._n_seen
        self._n_seen = n
        if self._source < 0:
            self._rest -= n - n_seen
        else:
            text = tokens if self._elsewhere is None else self._elsewhere
            for at in range(n_seen, n):
                is_hit = bool(text[self._source + 1] == tokens[at])
                habit.note(is_hit)
                self._source = self._source + 1 if is_hit else -1
                if not is_hit or self._is_at_end():
                    self._source = -1
                    break
        if self._source < 0 and self._rest <= 0:
            self._search(tokens, others)
            self._n_failed = 0 if self._source >= 0 else self._n_failed + 1
            self._rest = min(self._n_failed, most_rest)
        return self._source >= 0

    def draft(self, tokens: Tokens, n: int) -> Tokens:
        """At most n tokens that are proposed to follow; in the own text, after those that followed, the same again."""
        start = self._source + 1
        if self._elsewhere is None:
            return np.resize(tokens[start:], n)
        following = self._elsewhere[start : start + n]
        ends = np.flatnonzero(following == _BETWEEN)
        return following[: ends[0]] if len(ends) else following

    def _search(self, tokens: Tokens, others: Callable[[], Tokens]) -> None:
        """Take the longest like part of both, the text's own of equals."""
        n_before = max(0, len(tokens) - WINDOW)
        text = tokens[n_before:]
        self._elsewhere = None
        self._source, n_alike = last_place(text[:-1], text, MATCH)
        if self._source >= 0:
            self._source += n_before
        if n_alike == _COMPARED or not len(elsewhere := others()):
            return
        place, n_there = last_place(elsewhere, text, max(MATCH_ELSEWHERE, n_alike + 1))
        if n_there and place + 1 < len(elsewhere) and elsewhere[place + 1] != _BETWEEN:
            self._elsewhere, self._source = elsewhere, place

    def _is_at_end(self) -> bool:
        """Does nothing follow the place?"""
        text = self._elsewhere
        return text is not None and (self._source + 1 >= len(text) or text[self._source + 1] == _BETWEEN)


def last_place(text: Tokens, tokens: Tokens, match: int) -> tuple[int, int]:
    """The number of the token of a text up to which the longest part of it is like the end of these tokens, the last
    one of equals, and how many are alike; -1 and 0 where not so many as `match` are.
    """
    n = len(tokens)
    if n < match or len(text) < match:
        return -1, 0
    ends = np.flatnonzero(text[match - 1 :] == tokens[n - 1]) + (match - 1)
    for back in range(1, match):
        if not len(ends):
            return -1, 0
        ends = ends[text[ends - back] == tokens[n - 1 - back]]
    if not len(ends):
        return -1, 0
    last = tokens[::-1][:_COMPARED]
    n_alike, place = max((common_prefix(text[end::-1][:_COMPARED], last), end) for end in ends[-_PLACES:].tolist())
    return place, n_alike


class CallerTexts:
    """The last tokens of each caller's chats, a text a chat, those of the chats that ran last.

    No caller has more than `most_each` tokens here, and all of them no more than `most`.
    """

    def __init__(self, most_each: int = WINDOW, most: int = MOST_TOKENS) -> None:
        self._most_each, self._most = most_each, most
        self._texts: OrderedDict[str, OrderedDict[str, Tokens]] = OrderedDict()  # by caller and chat
        self._joined: dict[str, Tokens] = {}
        self._caller_of: dict[str, str] = {}
        self._sizes: dict[str, int] = {}
        self.n_tokens = 0

    def put(self, caller: str, key: str, tokens: Tokens) -> None:
        """A chat has these tokens now."""
        self.forget(key)
        text = tokens[-(self._most_each - 1) :].copy()
        if not len(text):
            return
        texts = self._texts.setdefault(caller, OrderedDict())
        self._texts.move_to_end(caller)
        texts[key] = text
        self._caller_of[key] = caller
        self._count(caller, len(text) + 1)
        while self._sizes[caller] > self._most_each:
            self.forget(next(iter(texts)))
        while self.n_tokens > self._most and len(self._texts) > 1:
            for old in [*next(iter(self._texts.values()))]:
                self.forget(old)

    def of(self, caller: str) -> Tokens:
        """All texts of a caller, with a mark between two, the last one at the end."""
        texts = self._texts.get(caller)
        if texts is None:
            return _NO_TOKENS
        joined = self._joined.get(caller)
        if joined is None:
            mark = np.array([_BETWEEN], np.int32)
            joined = np.concatenate([part for text in texts.values() for part in (text, mark)])
            self._joined[caller] = joined
        return joined

    def forget(self, key: str) -> None:
        """A chat is gone, and its text with it."""
        caller = self._caller_of.pop(key, None)
        if caller is None:
            return
        texts = self._texts[caller]
        self._count(caller, -len(texts.pop(key)) - 1)
        if not texts:
            del self._texts[caller], self._sizes[caller]

    def _count(self, caller: str, n: int) -> None:
        self.n_tokens += n
        self._sizes[caller] = self._sizes.get(caller, 0) + n
        self._joined.pop(caller, None)
