"""Which marks a template puts around thoughts, found out by applying it, as llama.cpp does: with and without thoughts,
with and without thinking, with and without calls.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from canister.model_file.chat_template.messages import Normal

_SAID, _THOUGHT = "said-7f3a", "thought-7f3a"
_ANCHOR = 64  # characters
_MARK = r"(?:<[^>]*>|\[[^\]]*\])"
_SEGMENT = re.compile(rf"{_MARK}|[^<\[]+|[<\[]")
_WRAPPED = re.compile(rf"({_MARK}\s*){_THOUGHT}(\s*{_MARK}\s*)")
_CLOSED = re.compile(rf"{_THOUGHT}\s*({_MARK}\s*)")

_USER: Normal = {"role": "user", "content": "asked-7f3a"}
_CALL = {"type": "function", "function": {"name": "f", "arguments": {"x": "1"}}, "id": "call00001"}
_TOOLS: list[object] = [
    {
        "type": "function",
        "function": {
            "name": "f",
            "description": "f",
            "parameters": {"type": "object", "properties": {"x": {"type": "string", "description": "x"}}},
        },
    }
]


@dataclass(frozen=True, slots=True)
class Marks:
    """What stands before thoughts, and between them and what is said. Both "": the template knows no thoughts."""

    begin: str = ""
    end: str = ""


@dataclass(frozen=True, slots=True)
class Trial:
    """messages: already in the template's form."""

    messages: tuple[Normal, ...]
    add_generation_prompt: bool = False
    thinks: bool = True
    tools: list[object] | None = None


Render = Callable[[Trial], str | None]  # None: the template fails


def marks_of(source: str, render: Render) -> Marks:
    marks = _of_tools(_of_switch(_of_message(render), render), render)
    if not (marks.begin or marks.end) and "content.split('</think>')" in source and "<SPECIAL_12>" not in source:
        return Marks("<think>", "</think>")  # it takes thoughts out of what was said, so the model writes them
    if "Write your thoughts between <think></think>" in source:  # Granite 3.3
        return Marks("<think>", "</think>")
    if "<SPECIAL_12>" in source and "<TOOL_RESPONSE>" in source:  # Nemotron Nano v2
        return Marks("<think>\n", "</think>")
    if "laguna_glm_thinking" in source:  # its models leave the template's white space out
        return Marks(marks.begin.strip(), marks.end.strip())
    return marks


def _of_message(render: Render) -> Marks:
    without = render(Trial((_USER, {"role": "assistant", "content": _SAID})))
    text = render(Trial((_USER, _thoughtful(_SAID))))
    if without is None or text is None:
        return Marks()
    if found := _WRAPPED.search(text):
        return Marks(found[1], found[2])
    found = _CLOSED.search(text)
    return Marks(end=found[1]) if found else Marks()


def _of_switch(marks: Marks, render: Render) -> Marks:
    """What a prompt ends with when thinking is off, and when it is on."""
    off = render(Trial((_USER,), add_generation_prompt=True, thinks=False))
    on = render(Trial((_USER,), add_generation_prompt=True))
    if off is None or on is None or off == on:
        return marks
    if on.startswith(off):
        return marks if marks.begin or not on[len(off) :].strip() else replace(marks, begin=on[len(off) :])
    if off.startswith(on):
        return marks if marks.end else _closed(marks, off, off[len(on) :])
    return _of_tails(marks, on, off)


def _closed(marks: Marks, off: str, end: str) -> Marks:
    segments = _segments(off)
    opened = len(segments) > 1 and segments[-1] == end.strip() and re.fullmatch(_MARK, segments[-2]) is not None
    return Marks(segments[-2] if opened else marks.begin, end)


def _of_tails(marks: Marks, on: str, off: str) -> Marks:
    """Where the switch changes more than the end: an end that goes on behind that of the other."""
    for base, extended in ((on, off), (off, on)):
        anchor = base[-_ANCHOR:]
        at = extended.rfind(anchor)
        segments = _segments(extended[at + len(anchor) :]) if at >= 0 else []
        if len(segments) == 2 and all(re.fullmatch(_MARK, segment) for segment in segments):
            return Marks(marks.begin or segments[0], marks.end or segments[1])
    return marks


def _of_tools(marks: Marks, render: Render) -> Marks:
    """Thoughts that only show beside calls."""
    plain = render(Trial((_USER, _thoughtful(_SAID)), tools=_TOOLS))
    text = render(Trial((_USER, {**_thoughtful(""), "tool_calls": [_CALL]}), tools=_TOOLS))
    if plain is None or text is None or _THOUGHT in plain or _THOUGHT not in text:
        return marks
    if found := _WRAPPED.search(text):
        return Marks(found[1], found[2].lstrip())
    found = _CLOSED.search(text)
    return replace(marks, end=found[1]) if found else marks


def _thoughtful(content: str) -> Normal:
    return {"role": "assistant", "content": content, "reasoning_content": _THOUGHT}


def _segments(text: str) -> list[str]:
    """Marks, and texts between them, without those of white space."""
    return [segment for segment in _SEGMENT.findall(text) if segment.strip()]
