"""Typed lines: what holds several of them together, and what is kept of them."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from canister.cli.talk.lines import HISTORY_ENTRIES, LineEditor


def typing(*lines: str) -> Callable[[str], str]:
    left: Iterator[str] = iter(lines)

    def read(prompt: str) -> str:
        line = next(left, None)
        if line is None:
            raise EOFError
        return line

    return read


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        (["one"], "one"),
        (["one\\", "two\\", "three"], "one\ntwo\nthree"),
        (['"""', "one", "", "  two", '"""'], "one\n\n  two"),
        (['"""one', 'two"""'], "one\ntwo"),
        (['"""one"""'], "one"),
        (['  """one', 'two""" '], "one\ntwo"),
        (['say """ aloud'], 'say """ aloud'),
        ([""], ""),
    ],
)
def test_lines_that_are_one_text(typed: list[str], meant: str) -> None:
    lines = LineEditor(read=typing(*typed))
    assert lines.next() == meant
    with pytest.raises(EOFError):
        lines.next()


def test_history_is_for_its_owner_and_does_not_grow_for_ever(tmp_path: Path) -> None:
    path = tmp_path / "state" / "history"
    LineEditor(path, typing("one", "  ", "two\\", "three")).next()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    path.write_text("".join(f"{json.dumps(f'line {n}')}\n" for n in range(2 * HISTORY_ENTRIES + 1)) + "no JSON\n")
    LineEditor(path, typing("last")).next()
    entries = path.read_text().splitlines()
    assert len(entries) == HISTORY_ENTRIES + 1
    assert entries[-2:] == ["no JSON", '"last"']
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_history_that_cannot_be_written_is_no_reason_to_end(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    assert LineEditor(tmp_path / "file" / "history", typing("one")).next() == "one"
