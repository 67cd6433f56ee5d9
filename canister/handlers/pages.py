"""Lists by pages: `limit` entries behind the one that `after` names, and what to give as `after` for the next page."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from canister.api.rest_records import MOST_OF_PAGE
from canister.errors import BadRequest

T = TypeVar("T")
Place = tuple[int, ...]


def page(
    items: Sequence[T], place: Callable[[T], Place], limit: str | None, after: str | None
) -> tuple[Sequence[T], dict[str, Any]]:
    """A page, and its field `next` where a limit is given: the place of its last item, None where nothing follows.
    BadRequest for values that do not fit.

    items: in the order of their places, which stay the same while others come and go. limit: None for all.
    """
    first = 0 if after is None else bisect_right(items, _place(after), key=place)
    if limit is None:
        return items[first:], {}
    if not limit.isascii() or not limit.isdecimal() or len(limit) > 9 or not 1 <= int(limit) <= MOST_OF_PAGE:
        raise BadRequest(f"limit: {limit[:40]!r} is no number from 1 to {MOST_OF_PAGE}")
    found = items[first : first + int(limit)]
    is_last = first + len(found) >= len(items)
    return found, {"next": None if is_last else ".".join(map(str, place(found[-1])))}


def _place(after: str) -> Place:
    words = after.split(".")
    if not all(word.removeprefix("-").isdecimal() and word.isascii() and len(word) <= 20 for word in words):
        raise BadRequest(f"after: {after[:40]!r} is no place in this list; give what the page before has as `next`")
    return tuple(map(int, words))
