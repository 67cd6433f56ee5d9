"""Where a mark of a chat format stands in a growing text.

A mark is a row of parts. Whether it stands at a place is known only when enough of the text is there. Until then the
answer is to wait, so the same marks are found however the text is cut.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum


class Gap(Enum):
    """Parts that are no fixed text."""

    SPACE = 1  # blanks and line ends, or nothing
    END = 2  # nothing comes any more


Part = str | tuple[str | Gap, ...] | Gap
"""A text, one of several texts or the end (no one the beginning of a later one), or a gap."""


@dataclass(frozen=True, slots=True)
class Mark:
    """parts: the mark itself, from the text's first character on, so the first is no gap. ahead: what must follow."""

    parts: tuple[Part, ...]
    ahead: tuple[Part, ...] = ()

    @property
    def first_characters(self) -> str:
        first = self.parts[0]
        return "".join(text[0] for text in (first if isinstance(first, tuple) else (first,)) if isinstance(text, str))


def mark(*parts: Part, ahead: tuple[Part, ...] = ()) -> Mark:
    return Mark(parts, ahead)


def fit(parts: Sequence[Part], text: str, at: int, is_over: bool) -> int | None:
    """Where these parts end if they stand at `at`; -1 if they do not; None if more text decides it."""
    for part in parts:
        if part is Gap.SPACE:
            while at < len(text) and text[at].isspace():
                at += 1
        elif part is Gap.END:
            if at < len(text):
                return -1
        else:
            found = _first_of((part,) if isinstance(part, str) else part, text, at, is_over)
            if found is None or found < 0:
                return found
            at = found
            continue
        if at == len(text) and not is_over:
            return None
    return at


def _first_of(wanted: Sequence[str | Gap], text: str, at: int, is_over: bool) -> int | None:
    for one in wanted:
        if not isinstance(one, str):
            if at == len(text):
                return at if is_over else None
        elif text.startswith(one, at):
            return at + len(one)
        elif not is_over and len(text) - at < len(one) and one.startswith(text[at:]):
            return None
    return -1


@dataclass(frozen=True, slots=True)
class Marks:
    """Several marks to look for. Where two can stand at one place, the first named one counts.

    Without a mark: up to where there is certainly none, and the text's length.
    """

    marks: tuple[Mark, ...]
    _jump: re.Pattern[str]

    @staticmethod
    def of(*marks: Mark | str) -> Marks:
        rows = tuple(mark(one) if isinstance(one, str) else one for one in marks)
        characters = "".join(sorted({character for row in rows for character in row.first_characters}))
        return Marks(rows, re.compile(f"[{re.escape(characters)}]" if characters else r"(?!)"))

    def find(self, text: str, at: int, is_over: bool) -> tuple[int, int, Mark | None]:
        """(where it begins, where it ends, the mark) of the first one from `at` on.

        Without a mark: up to where there is certainly none, and the text's length.
        """
        while (jump := self._jump.search(text, at)) is not None:
            place = jump.start()
            for one in self.marks:
                end = fit(one.parts, text, place, is_over)
                if end is not None and end >= 0 and one.ahead:
                    follows = fit(one.ahead, text, end, is_over)
                    end = follows if follows is None or follows < 0 else end
                if end is None:
                    return place, len(text), None
                if end >= 0:
                    return place, end, one
            at = place + 1
        return len(text), len(text), None
