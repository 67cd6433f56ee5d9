"""Outputs read whole and in pieces, and tools to call: what the tests of chat formats share."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence

from canister.chat_format import BoundForm, Form, OutputParser, Parsed, ParsedEvent, joined

CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


def tool(name: str, parameters: object = None) -> dict[str, object]:
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


WEATHER = tool("get_weather", CITY)
TIME = tool("get_time")
ORDER = tool(
    "order",
    {
        "type": "object",
        "properties": {
            "item": {"type": "string"},
            "n": {"type": "integer"},
            "gift": {"type": "boolean"},
            "tags": {"type": "array", "items": {"type": "string"}},
            "to": {"type": "object", "properties": {"street": {"type": "string"}, "zip": {"type": "string"}}},
        },
        "required": ["item", "n"],
    },
)
TOOLS = (WEATHER, TIME, ORDER)


def events_of(binding: BoundForm, pieces: Iterable[str], is_cut: bool = False) -> list[ParsedEvent]:
    return told_by(binding.parser(), pieces, is_cut)


def told_by(parser: OutputParser, pieces: Iterable[str], is_cut: bool = False) -> list[ParsedEvent]:
    events = [event for piece in pieces for event in parser.feed(piece)]
    return [*events, *parser.end(is_cut)]


def read(binding: BoundForm, output: str, is_cut: bool = False) -> Parsed:
    """The output read whole; character by character and in threes it must say the same."""
    whole = joined(events_of(binding, [output], is_cut))
    for step in (1, 3):
        pieces = [output[at : at + step] for at in range(0, len(output), step)]
        assert joined(events_of(binding, pieces, is_cut)) == whole
    return whole


def calls(parsed: Parsed) -> list[tuple[str, object]]:
    return [(call.name, json.loads(call.arguments)) for call in parsed.calls]


def said(
    form: Form, output: str, *, prompt: str = "", tools: Sequence[object] = TOOLS, is_cut: bool = False
) -> tuple[str, str, list[tuple[str, object]]]:
    """(text, thought, calls) of an output."""
    parsed = read(form.bind(tools, prompt=prompt), output, is_cut)
    return parsed.text, parsed.thought, calls(parsed)


def template(*marks: str) -> str:
    """A template that writes these marks, and tells the model of tools."""
    return "{% if tools %}{{ tools | tojson }}{% endif %}" + "".join("{{ '" + one + "' }}" for one in marks)


_WORD = re.compile(r"\s+")


def plain(text: str) -> str:
    return _WORD.sub(" ", text).strip()
