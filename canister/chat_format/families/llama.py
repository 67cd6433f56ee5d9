"""Llama 3 speaks JSON without a mark, or after <|python_tag|>; Llama 4 Python in brackets; xLAM a bare JSON list."""

from __future__ import annotations

import json

from canister.chat_format import json_text, pythonic
from canister.chat_format.family import BARE, Family, Row, WantedCalls
from canister.chat_format.json_calls import JsonCalls
from canister.chat_format.lark import SPACE
from canister.chat_format.marks import Gap, Mark, mark
from canister.chat_format.reader import Steps
from canister.chat_format.reading import Outcome, Reading

PYTHON = "<|python_tag|>"
_NAMED = (('"name": "', '"'), ('"name":"', '"'))


def _read(it: Reading, _opener: Mark) -> Steps[Outcome]:
    if (yield from it.reader.skip_space()) != "{":
        return (yield from pythonic.read_calls(it))
    outcome = yield from json_text.call(it)
    while outcome == "whole" and (yield from it.reader.takes(Gap.SPACE, ";", Gap.SPACE, ahead=("{",))):
        outcome = yield from json_text.call(it)
    return outcome


def bare_json(wanted: WantedCalls, key: str) -> list[str]:
    """The bodies of {"name": …, key: {…}}, from the name on where that is what triggered."""
    lark = wanted.lark
    begin = "" if wanted.is_triggered else lark.text("{")
    return [
        " ".join(
            [
                begin,
                lark.text('"name":'),
                SPACE,
                lark.text(json.dumps(tool.name) + f', "{key}": '),
                lark.json(dict(tool.parameters)),
                lark.text("}"),
            ]
        )
        for tool in wanted.tools
    ]


def _write(wanted: WantedCalls) -> str:
    return wanted.lark.either(bare_json(wanted, "parameters"))


LLAMA_3 = Family(
    name="llama-3",
    openers=(mark(PYTHON),),
    read_calls=_read,
    write_calls=_write,
    triggers=_NAMED,
    special=(PYTHON,),
    bare="{",
)


def _read_python(it: Reading, opener: Mark) -> Steps[Outcome]:
    return (yield from pythonic.read_calls(it, "" if opener == BARE else "<|python_end|>"))


LLAMA_4 = Family(
    name="llama-4",
    openers=(mark("<|python_start|>"),),
    read_calls=_read_python,
    write_calls=pythonic.write_list,
    triggers=(("[", "("),),
    special=("<|python_start|>", "<|python_end|>"),
    bare="[",
)

_XLAM = JsonCalls("", "", "list")


def _write_xlam(wanted: WantedCalls) -> str:
    if not wanted.is_triggered:
        return _XLAM.write(wanted)
    lark = wanted.lark
    first = lark.either(bare_json(wanted, "arguments"))
    rest = lark.either(_XLAM.write_one(wanted, tool) for tool in wanted.tools)
    more = f'("," {SPACE} {rest})*' if wanted.many else ""
    return f'{first} {more} {SPACE} "]"'


XLAM = Family(
    name="xlam",
    openers=(),
    read_calls=_XLAM.read,
    write_calls=_write_xlam,
    triggers=_NAMED,
    bare="[{",
)

ROWS = (
    Row(LLAMA_4, has=("<|header_start|>",)),
    Row(LLAMA_3, has=("<|start_header_id|>", "ipython", "parameters")),
    Row(LLAMA_3, has=(PYTHON,)),
    Row(XLAM, has=("list of JSON", "tool_calls", '"arguments"')),
)
