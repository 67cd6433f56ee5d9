"""Tables of plain text: whole in a file or a pipe, no wider than the terminal on a terminal."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence

GAP = "  "
SHORTEST = 11  # of a text whose middle is left out
DOTS = "…"


def render(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    shorten: int | None = None,
    right: Sequence[int] = (),
    leave_out: Sequence[int] = (),
    width: int | None = None,
) -> list[str]:
    """The lines of a table.

    leave_out: columns to drop when there is no room, in this order. shorten: the column whose texts then lose their
    middle.
    right: columns aligned to the right. width: columns of the page; None: no line is shortened.
    """
    lines = [list(head), *(list(row) for row in rows)]
    widths = {column: max(len(line[column]) for line in lines) for column in range(len(head))}
    if width is not None:
        for column in leave_out:
            if _room(widths, width) < 0:
                del widths[column]
        missing = -_room(widths, width)
        if shorten is not None and missing > 0:
            widths[shorten] = max(min(SHORTEST, widths[shorten]), widths[shorten] - missing)
            for line in lines:
                line[shorten] = without_middle(line[shorten], widths[shorten])
    return [
        GAP.join(
            line[column].rjust(widths[column]) if column in right else line[column].ljust(widths[column])
            for column in widths
        ).rstrip()
        for line in lines
    ]


def _room(widths: Mapping[int, int], width: int) -> int:
    """Free columns of the page; negative: missing ones."""
    return width - sum(widths.values()) - len(GAP) * (len(widths) - 1)


def show(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    shorten: int | None = None,
    right: Sequence[int] = (),
    leave_out: Sequence[int] = (),
) -> None:
    """Print a table."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    print("\n".join(render(head, rows, shorten=shorten, right=right, leave_out=leave_out, width=width)))


class Pages:
    """A table that is printed as its pages come. The columns of a page are as wide as those before, or wider."""

    def __init__(self, head: Sequence[str], *, shorten: int | None = None, leave_out: Sequence[int] = ()) -> None:
        self.is_begun = False
        self._above = [*head]  # as wide as the columns so far
        self._shorten = shorten
        self._leave_out = leave_out

    def show(self, rows: Sequence[Sequence[str]]) -> None:
        """Print a page, the first one below its head."""
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
        lines = render(self._above, rows, shorten=self._shorten, leave_out=self._leave_out, width=width)
        print("\n".join(lines[1:] if self.is_begun else lines))
        widths = (max(len(row[column]) for row in (self._above, *rows)) for column in range(len(self._above)))
        self._above = [" " * each for each in widths]
        self.is_begun = True


def without_middle(text: str, width: int) -> str:
    """The beginning and the end of a text, as much as there is room for."""
    if len(text) <= width:
        return text
    n_end = (width - len(DOTS)) // 2
    return text[: width - len(DOTS) - n_end] + DOTS + text[len(text) - n_end :]
