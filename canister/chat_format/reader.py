"""The output as it comes, for readers that are written as if all of it were there.

A reader is a generator. Where it needs more text it yields, and continues when more has come. What it does depends only
on the text, never on its cuts.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TypeAlias, TypeVar

from canister.chat_format.marks import Gap, Mark, Marks, Part, fit

T = TypeVar("T")
Steps: TypeAlias = Generator[None, None, T]
Take: TypeAlias = Callable[[str], None]


class Reader:
    """The text that came and was not read yet. is_over: nothing more comes. is_cut: the output was cut off."""

    def __init__(self) -> None:
        self._text = ""
        self._at = 0
        self._kept: int | None = None
        self.is_over = False
        self.is_cut = False

    def push(self, text: str) -> None:
        start = self._at if self._kept is None else self._kept
        self._text = self._text[start:] + text
        self._at -= start
        self._kept = None if self._kept is None else 0

    def close(self, is_cut: bool) -> None:
        self.is_over, self.is_cut = True, is_cut

    # -- what may turn out to be something else

    def keep(self) -> None:
        """Remember this place."""
        self._kept = self._at

    def forget(self) -> None:
        """What was read since then is what it seemed to be."""
        self._kept = None

    def taken(self) -> str:
        """The text read since the remembered place, which is forgotten."""
        start, self._kept = self._kept or 0, None
        return self._text[start : self._at]

    # -- reading

    def rest(self) -> Steps[str]:
        """The whole rest, once it is all there."""
        while not self.is_over:
            yield
        text, self._at = self._text[self._at :], len(self._text)
        return text

    def ahead(self) -> Steps[str]:
        """The next character, not taken; "" at the end."""
        while self._at == len(self._text) and not self.is_over:
            yield
        return self._text[self._at : self._at + 1]

    def skip_space(self) -> Steps[str]:
        """Take blanks and line ends; the character after them, not taken."""
        while (character := (yield from self.ahead())) and character.isspace():
            self._at += 1
        return character

    def takes(self, *parts: Part, ahead: tuple[Part, ...] = ()) -> Steps[bool]:
        """Take these parts if they stand here. A beginning of them at the end of a cut output is dropped."""
        while (end := self._end_of(parts, ahead)) is None:
            yield
        if end >= 0:
            self._at = end
        elif self.is_over and self.is_cut and fit(parts, self._text, self._at, False) is None:
            self._at = len(self._text)
        return end >= 0

    def _end_of(self, parts: tuple[Part, ...], ahead: tuple[Part, ...]) -> int | None:
        end = fit(parts, self._text, self._at, self.is_over)
        if end is None or end < 0 or not ahead:
            return end
        follows = fit(ahead, self._text, end, self.is_over)
        return end if follows is not None and follows >= 0 else follows

    def closes(self, *parts: Part) -> Steps[bool]:
        """Take these parts and blanks before them, if they stand here."""
        return (yield from self.takes(Gap.SPACE, *parts))

    def until(self, marks: Marks, take: Take) -> Steps[Mark | None]:
        """Pass on the text before the first of the marks, as it comes, and take the mark; None: there is none.

        The place of the mark is remembered. Text that may become a mark waits. At the end it is text, unless the output
        was cut: half a mark is never shown.
        """
        while True:
            place, end, found = marks.find(self._text, self._at, self.is_over)
            if place > self._at:
                start, self._at = self._at, place
                take(
                    self._without_half(marks, start, place) if self.is_over and self.is_cut else self._text[start:place]
                )
            if found is not None:
                self._kept, self._at = self._at, end
                return found
            if self.is_over:
                return None
            yield

    def _without_half(self, marks: Marks, start: int, place: int) -> str:
        """The text up to a mark or the end of a cut output, without the beginning of a mark."""
        if place < len(self._text):
            return self._text[start:place]
        shown, _, _ = marks.find(self._text, start, False)
        return self._text[start:shown]

    def while_(self, allowed: Callable[[str], bool]) -> Steps[str]:
        """Characters as long as they are allowed."""
        characters: list[str] = []
        while (character := (yield from self.ahead())) and allowed(character):
            characters.append(character)
            self._at += 1
        return "".join(characters)

    def run(self, scan: Callable[[str, int], tuple[int, bool]], take: Take) -> Steps[bool]:
        """Pass on what `scan` takes: (text, from) -> (to, is it done). False: the text ended before it was done."""
        while True:
            start = self._at
            self._at, is_done = scan(self._text, start)
            if self._at > start:
                take(self._text[start : self._at])
            if is_done:
                return True
            if self.is_over:
                return False
            yield


def never(_text: str) -> None:
    """Takes what is of no interest."""
