"""Lists by pages: `limit` entries behind the one that `after` names, and what to give as `after` for the next page."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from canister.api.rest_records import MOST_OF_PAGE
from canister.errors import BadRequest

MAX_DIGITS = 20  # of a place, with its sign
MOST = (1 << 63) - 1

T = TypeVar("T")
Place = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Asked:
    """A page: behind `after`, None from the start; at most `limit` entries, None for all."""

    after: Place | None
    limit: int | None

    @classmethod
    def of(cls, limit: str | None, after: str | None, n_parts: int) -> Asked:
        """As a client wrote it; places in this list have so many numbers. BadRequest for values that do not fit."""
        return cls(None if after is None else _place(after, n_parts), None if limit is None else _limit(limit))

    @property
    def n_needed(self) -> int | None:
        """So many entries are to be looked up, one more than the page has, so that it shows whether more follow."""
        return None if self.limit is None else self.limit + 1

    def told(self, found: Sequence[T], place: Callable[[T], Place]) -> tuple[Sequence[T], dict[str, Any]]:
        """The page of what was looked up, and its field `next` where a limit is given: the place of its last entry,
        None where nothing follows.
        """
        if self.limit is None:
            return found, {}
        shown = found[: self.limit]
        return shown, {"next": ".".join(map(str, place(shown[-1]))) if len(found) > len(shown) else None}


def page(
    items: Sequence[T], place: Callable[[T], Place], limit: str | None, after: str | None, n_parts: int = 1
) -> tuple[Sequence[T], dict[str, Any]]:
    """As `Asked.told`, of a list that is at hand, in the order of places, which stay while others come and go."""
    asked = Asked.of(limit, after, n_parts)
    first = 0 if asked.after is None else bisect_right(items, asked.after, key=place)
    return asked.told(items[first : None if asked.n_needed is None else first + asked.n_needed], place)


def _limit(limit: str) -> int:
    if not limit.isascii() or not limit.isdecimal() or len(limit) > 9 or not 1 <= int(limit) <= MOST_OF_PAGE:
        raise BadRequest(f"limit: {limit[:40]!r} is no number from 1 to {MOST_OF_PAGE}")
    return int(limit)


def _place(after: str, n_parts: int) -> Place:
    words = after.split(".")
    is_place = all(word.isascii() and word.removeprefix("-").isdecimal() and len(word) <= MAX_DIGITS for word in words)
    if not is_place or len(words) != n_parts or any(abs(int(word)) > MOST for word in words):
        raise BadRequest(f"after: {after[:40]!r} is no place in this list; give what the page before has as `next`")
    return tuple(map(int, words))
