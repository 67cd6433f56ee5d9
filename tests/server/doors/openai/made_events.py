"""Events of turns that models might give, and the same events with their texts cut elsewhere. For property tests."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass

from hypothesis import strategies as st

from canister.api.tokens import Likely, Token
from canister.server.doors.openai.events import (
    Begun,
    Done,
    Event,
    Finished,
    Progress,
    TextDelta,
    ThoughtDelta,
    Timings,
    ToolArguments,
    ToolBegun,
    ToolDone,
    Usage,
)

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
ARGUMENTS = st.dictionaries(TEXT, VALUES, max_size=3).map(lambda value: json.dumps(value, ensure_ascii=False))

Draw = Callable[[st.SearchStrategy], object]


@dataclass(frozen=True)
class Said:
    """kind: text, thought or tool. text: all of it, of a tool its arguments. is_whole: False for a tool cut off."""

    kind: str
    text: str
    is_whole: bool = True


@st.composite
def turns(draw: Draw) -> list[Said]:
    """Never two texts or two thoughts in a row: they are one."""
    said: list[Said] = []
    for kind in draw(st.lists(st.sampled_from(["text", "thought", "tool"]), max_size=5)):
        if kind == "tool" or not said or said[-1].kind != kind:
            said.append(Said(kind, draw(ARGUMENTS if kind == "tool" else TEXT)))
    if said and said[-1].kind == "tool" and draw(st.booleans()):
        whole = said.pop().text
        said.append(Said("tool", whole[: draw(st.integers(0, len(whole) - 1))], is_whole=False))
    return said


@st.composite
def cut(draw: Draw, said: list[Said], end: Finished, *, with_tokens: bool = False) -> list[Event]:
    """The events of one choice, with each text in pieces. with_tokens: each piece is a token of its own."""
    events: list[Event] = [Begun(7, 1, "the prompt"), Progress(7, 3, 5, 0.5), Progress(7, 3, 7, 0.75)]
    n_tools = 0
    for part in said:
        if part.kind == "tool":
            events.append(ToolBegun(0, n_tools, f"call_{n_tools}", f"tool_{n_tools}"))
        for piece in draw(pieces(part.text)):
            data = piece.encode()
            tokens = (Token(len(data), data, -0.5, (Likely(1, data, -0.5), Likely(2, b"\xff", -1.0))),)
            match part.kind:
                case "text":
                    events.append(TextDelta(0, piece, tokens if with_tokens else ()))
                case "thought":
                    events.append(ThoughtDelta(0, piece, tokens if with_tokens else ()))
                case _:
                    events.append(ToolArguments(0, n_tools, piece))
        if part.kind == "tool":
            if part.is_whole:
                events.append(ToolDone(0, n_tools))
            n_tools += 1
    return [*events, end, Done(Usage(7, 3, end.n_generated, 2, 4, 500, 60), Timings(3, 4, 0.75, end.n_generated, 1.5))]


@st.composite
def pieces(draw: Draw, text: str) -> list[str]:
    at = sorted(draw(st.sets(st.integers(0, len(text)), max_size=6)) | {0, len(text)})
    return [text[a:b] for a, b in itertools.pairwise(at) if b > a]


@st.composite
def ends(draw: Draw, said: list[Said]) -> Finished:
    n = draw(st.integers(1, 50))
    if said and not said[-1].is_whole:
        return Finished(0, "length", None, n)
    if said and said[-1].kind == "tool":
        return Finished(0, "tool_calls", None, n)
    return Finished(0, *draw(st.sampled_from([("stop", None), ("stop", "END"), ("length", None)])), n)


@st.composite
def two_cuts(draw: Draw) -> tuple[list[Said], Finished, list[Event], list[Event]]:
    """What was said, how it ended, and two streams of events that say it."""
    said = draw(turns())
    end = draw(ends(said))
    return said, end, draw(cut(said, end)), draw(cut(said, end))
