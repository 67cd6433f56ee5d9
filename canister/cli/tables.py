"""Tables of plain text: whole where the output goes to a file or a pipe, no wider than the terminal on one."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence

GAP = "  "
SHORTEST = 11  # of a text whose middle is left out
DOTS = "…"


def render(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    shorten: int | None = None,
    right: Sequence[int] = (),
    width: int | None = None,
) -> list[str]:
    """The lines of a table.

    shorten: the column whose texts lose their middle when there is no room. right: columns that stand at the right.
    width: columns of the page; None: no line is shortened.
    """
    lines = [list(head), *(list(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    room = None if width is None else width - sum(widths) - len(GAP) * (len(head) - 1)
    if shorten is not None and room is not None and room < 0:
        widths[shorten] = max(min(SHORTEST, widths[shorten]), widths[shorten] + room)
        for line in lines:
            line[shorten] = without_middle(line[shorten], widths[shorten])
    return [
        GAP.join(
            cell.rjust(widths[column]) if column in right else cell.ljust(widths[column])
            for column, cell in enumerate(line)
        ).rstrip()
        for line in lines
    ]


def show(
    head: Sequence[str], rows: Sequence[Sequence[str]], *, shorten: int | None = None, right: Sequence[int] = ()
) -> None:
    """Print a table."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    print("\n".join(render(head, rows, shorten=shorten, right=right, width=width)))


def without_middle(text: str, width: int) -> str:
    """The beginning and the end of a text, as much as there is room for."""
    if len(text) <= width:
        return text
    n_end = (width - len(DOTS)) // 2
    return text[: width - len(DOTS) - n_end] + DOTS + text[len(text) - n_end :]
