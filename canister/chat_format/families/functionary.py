"""Functionary: v3.1 writes <function=NAME>{…}</function>, v3.2 a recipient after >>> and then what it is sent."""

from __future__ import annotations

from canister.chat_format import json_text
from canister.chat_format.family import Family, Row, WantedCalls
from canister.chat_format.marks import Mark, Marks, mark
from canister.chat_format.reader import Steps
from canister.chat_format.reading import Outcome, Reading
from canister.chat_format.tagged import is_of_name

_BEGIN, _END = "<function=", "</function>"
_NEXT, _ALL = ">>>", "all"


def _read_v31(it: Reading, _opener: Mark) -> Steps[Outcome]:
    name = yield from it.reader.while_(is_of_name)
    if not (yield from it.reader.takes(">")):
        return "not a call"
    outcome = yield from json_text.named_call(it, name)
    if outcome == "whole":
        yield from it.reader.closes(_END)
    return outcome


def _write_v31(wanted: WantedCalls) -> str:
    lark = wanted.lark
    call = lark.either(
        f"{lark.text(_BEGIN + tool.name + '>')} {lark.json(dict(tool.parameters))} {lark.text(_END)}"
        for tool in wanted.tools
    )
    return lark.many(call) if wanted.many else call


FUNCTIONARY_V31 = Family(
    name="functionary-v3.1",
    openers=(mark(_BEGIN),),
    read_calls=_read_v31,
    write_calls=_write_v31,
    triggers=(_BEGIN,),
)


def _read_v32(_family: Family, it: Reading, _starts_in_thought: bool) -> Steps[None]:
    """Messages, each with its recipient in the first line; the prompt wrote the first >>>."""
    reader, output = it.reader, it.output
    while True:
        reader.keep()
        name = yield from reader.while_(is_of_name)
        is_line = yield from reader.takes("\n")
        if is_line and name in it.tools:
            if (yield from json_text.named_call(it, name)) == "whole" and (yield from reader.closes(_NEXT)):
                continue
            return
        raw = reader.taken()
        if reader.is_over and reader.is_cut and not is_line:
            return
        output.text("" if is_line and name == _ALL else raw)
        if (yield from reader.until(Marks.of(_NEXT), output.text)) is None:
            return


def _write_v32(wanted: WantedCalls) -> str:
    lark = wanted.lark
    call = lark.either(f"{lark.text(tool.name + chr(10))} {lark.json(dict(tool.parameters))}" for tool in wanted.tools)
    return lark.many(call, lark.text(_NEXT)) if wanted.many else call


FUNCTIONARY_V32 = Family(
    name="functionary-v3.2",
    openers=(),
    read_calls=_read_v31,
    write_calls=_write_v32,
    triggers=(("", "\n{"),),
    answer=(_ALL + "\n", ""),
    read_output=_read_v32,
)

ROWS = (
    Row(FUNCTIONARY_V32, has=(">>>all",)),
    Row(FUNCTIONARY_V31, has=("<function=", "</function>"), lacks=("<parameter=",)),
)
