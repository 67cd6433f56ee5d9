"""The content of a model's output: text, thoughts and tool calls, in pieces as they come. Plain records."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias


class Text(NamedTuple):
    """A piece of the answer; never empty."""

    text: str


class Thought(NamedTuple):
    """A piece of the model's thoughts before its answer; never empty."""

    text: str


class ToolBegin(NamedTuple):
    """A call begins. id: as the model wrote it, None where its form has none that is unique."""

    name: str
    id: str | None = None


class ToolArguments(NamedTuple):
    """A piece of the JSON text of the call's arguments; the pieces of a whole call make one JSON object."""

    text: str


class ToolEnd(NamedTuple):
    """The call is whole. A call that is cut off or cannot be read has none."""


ParsedEvent: TypeAlias = Text | Thought | ToolBegin | ToolArguments | ToolEnd


class ToolCall(NamedTuple):
    """A whole call. arguments: JSON text of an object."""

    name: str
    arguments: str
    id: str | None = None


class Parsed(NamedTuple):
    """A whole output. calls: the whole ones. is_broken: a call was begun and is not whole."""

    text: str
    thought: str
    calls: tuple[ToolCall, ...]
    is_broken: bool


def joined(events: list[ParsedEvent]) -> Parsed:
    """The pieces put together."""
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[ToolCall] = []
    is_open = is_broken = False
    name, call_id, arguments = "", None, list[str]()
    for event in events:
        if isinstance(event, Text):
            texts.append(event.text)
        elif isinstance(event, Thought):
            thoughts.append(event.text)
        elif isinstance(event, ToolBegin):
            is_broken |= is_open
            is_open, name, call_id, arguments = True, event.name, event.id, []
        elif isinstance(event, ToolArguments):
            arguments.append(event.text)
        else:
            calls.append(ToolCall(name, "".join(arguments), call_id))
            is_open = False
    return Parsed("".join(texts), "".join(thoughts), tuple(calls), is_broken or is_open)
