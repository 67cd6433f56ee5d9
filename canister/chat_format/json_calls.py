"""Calls that are JSON objects between marks: <tool_call>{"name": …, "arguments": {…}}</tool_call> and its kin."""

from __future__ import annotations

import json
from dataclasses import dataclass

from canister.chat_format import json_text
from canister.chat_format.family import WantedCalls
from canister.chat_format.lark import SPACE
from canister.chat_format.marks import Mark
from canister.chat_format.reader import Steps
from canister.chat_format.reading import Outcome, Reading
from canister.chat_format.tools import Tool


@dataclass(frozen=True, slots=True)
class JsonCalls:
    """begin, end: the marks. many: "each": every call has its own; "list": a JSON list; "lines": one after the other.

    id_key: a member that numbers the calls, before the name.
    """

    begin: str
    end: str
    many: str = "each"
    name_key: str = "name"
    arguments_key: str = "arguments"
    id_key: str = ""
    line: str = ""

    def read(self, it: Reading, _opener: Mark) -> Steps[Outcome]:
        return (yield from json_text.calls(it, self.end))

    def write(self, wanted: WantedCalls) -> str:
        lark = wanted.lark
        begin, end = lark.text(self.begin + self.line), lark.text(self.line + self.end)
        call = lark.either(self.write_one(wanted, tool) for tool in wanted.tools)
        if self.many == "list":
            calls = lark.many(call, f'"," {SPACE}') if wanted.many else call
            return f'{begin} "[" {SPACE} {calls} {SPACE} "]" {end}'
        if self.many == "lines":
            return f"{begin} {lark.many(call, lark.text(chr(10))) if wanted.many else call} {end}"
        each = f"{begin} {call} {end}"
        return lark.many(each, SPACE) if wanted.many else each

    def write_one(self, wanted: WantedCalls, tool: Tool) -> str:
        """The body of one call's object."""
        lark = wanted.lark
        numbered = (
            f'{lark.text(chr(34) + self.id_key + chr(34) + ": ")} /"[0-9]{{1,3}}"/ {lark.text(", ")}'
            if self.id_key
            else ""
        )
        named = f'"{self.name_key}": {json.dumps(tool.name)}, "{self.arguments_key}": '
        return " ".join([lark.text("{"), numbered, lark.text(named), lark.json(dict(tool.parameters)), lark.text("}")])
