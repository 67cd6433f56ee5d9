"""Hermes, Qwen 2.5 and Qwen 3, and what speaks like them: <tool_call>{"name": …, "arguments": {…}}</tool_call>."""

from __future__ import annotations

import json

from canister.chat_format import json_text
from canister.chat_format.family import Family, Wanted
from canister.chat_format.lark import SPACE
from canister.chat_format.marks import Mark, mark
from canister.chat_format.reader import Steps
from canister.chat_format.reading import Outcome, Reading

BEGIN, END = "<tool_call>", "</tool_call>"


def read_calls(it: Reading, _opener: Mark) -> Steps[Outcome]:
    outcome = yield from json_text.call(it)
    if outcome == "whole":
        yield from it.reader.closes(END)
    return outcome


def write_calls(wanted: Wanted) -> str:
    lark = wanted.lark
    calls = [
        " ".join((lark.text(BEGIN + "\n"), json_call(wanted, tool.name, tool.parameters), lark.text("\n" + END)))
        for tool in wanted.tools
    ]
    call = lark.either(calls)
    return lark.many(call, SPACE) if wanted.many else call


def json_call(wanted: Wanted, name: str, parameters: object, key: str = "arguments") -> str:
    """The body of {"name": "…", "arguments": …}."""
    lark = wanted.lark
    begin = f'{{"name": {json.dumps(name, ensure_ascii=False)}, "{key}": '
    return f"{lark.text(begin)} {lark.json(parameters)} {lark.text('}')}"


GENERIC = Family(
    name="generic",
    openers=(mark(BEGIN),),
    read_calls=read_calls,
    write_calls=write_calls,
    triggers=(BEGIN, '{"name"'),
    special=(BEGIN, END),
    bare="{",
    shows_tools=False,
)

HERMES = Family(
    name="hermes",
    openers=(mark(BEGIN),),
    read_calls=read_calls,
    write_calls=write_calls,
    triggers=(BEGIN,),
    special=(BEGIN, END),
)
