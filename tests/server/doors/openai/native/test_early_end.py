"""Answers end before the model would: at a line that is indented less, or when their time is over."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator

from hypothesis import given, settings
from hypothesis import strategies as st

from canister.api.tokens import Token
from canister.server.doors.openai.events import Begun, Done, Event, Finished, TextDelta, Timed, Timings, Usage
from canister.server.doors.openai.native.early_end import EndLimits, ended_early
from tests.server.doors.openai.made_events import pieces

CODE = st.text(st.sampled_from(" \n\tab\r"), max_size=40)


async def made(parts: list[str]) -> AsyncGenerator[Event]:
    yield Begun(5)
    for n, part in enumerate(parts, 1):
        yield Timed(Timings(2, 3, 0.5, n, 0.1 * n))
        yield TextDelta(0, part, (Token(n, part.encode()),))
    yield Finished(0, "stop", None, len(parts))
    yield Done(Usage(5, 2, len(parts), n_calls=1))


def told(parts: list[str], limits: EndLimits, step: float = 1.0) -> list[Event]:
    clock = itertools.count(0.0, step)

    async def run() -> list[Event]:
        return [event async for event in ended_early(made(parts), limits, lambda: next(clock))]

    return asyncio.run(run())


def text_of(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


def expected(text: str, n_indent: int) -> tuple[str, bool]:
    """What of a text is shown, and whether that is less than all."""
    first, *lines = text.split("\n")
    shown = [first]
    for line in lines:
        n_blank = len(line) - len(line.lstrip(" \t"))
        is_last_and_blank = len(shown) == len(lines) and n_blank == len(line)
        if n_blank < n_indent and not is_last_and_blank:
            return "\n".join([*shown, ""]), True
        shown.append(line)
    return text, False


@settings(deadline=None)
@given(CODE, st.integers(0, 3), st.data())
def test_a_line_that_is_indented_less_ends_it_however_the_text_was_cut(
    text: str, n_indent: int, data: st.DataObject
) -> None:
    parts = data.draw(pieces(text))
    events = told(parts, EndLimits(n_indent))
    shown, is_cut = expected(text, n_indent)
    assert text_of(events) == shown
    finished, done = events[-2:]
    assert isinstance(finished, Finished)
    assert isinstance(done, Done)
    assert finished.finish == ("length" if is_cut else "stop")
    assert finished.n_generated == done.usage.n_generated <= len(parts)
    tokens = [token.id for event in events if isinstance(event, TextDelta) for token in event.tokens]
    assert tokens == sorted(set(tokens))


def test_time_ends_it_with_the_next_line() -> None:
    parts = ["a", "b\n", "c", "d\n", "e"]
    assert text_of(told(parts, EndLimits(seconds=1.5))) == "ab\ncd\n"
    assert text_of(told(parts, EndLimits(seconds=100))) == "ab\ncd\ne"
    *_, finished, done = told(parts, EndLimits(seconds=1.5))
    assert finished == Finished(0, "length", None, 4)
    assert done == Done(Usage(5, 2, 4), Timings(2, 3, 0.5, 4, 0.4))


def test_how_long_it_takes_is_told_to_who_asked() -> None:
    assert not any(isinstance(event, Timed) for event in told(["a"], EndLimits(seconds=9)))
    assert any(isinstance(event, Timed) for event in told(["a"], EndLimits(seconds=9, tells_time=True)))
