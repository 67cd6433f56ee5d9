"""DeepSeek R1 and V3 (function, name, and JSON in a fence) and V3.1 (name and JSON), between tokens of their own."""

from __future__ import annotations

from canister.chat_format import json_text
from canister.chat_format.family import Family, Row, WantedCalls
from canister.chat_format.marks import Mark, Marks, mark
from canister.chat_format.reader import Steps, never
from canister.chat_format.reading import Outcome, Reading
from canister.chat_format.tagged import is_of_name

CALLS, CALLS_END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
CALL, CALL_END, SEPARATOR = "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>", "<｜tool▁sep｜>"
_KIND = "function"
_IN_SECTION = Marks.of(CALL, CALLS_END)


def _read(it: Reading, _opener: Mark) -> Steps[Outcome]:
    n_read = 0
    while (yield from it.reader.until(_IN_SECTION, never)) == mark(CALL):
        it.reader.forget()
        outcome = yield from _call(it)
        if outcome != "whole":
            return "broken"
        n_read += 1
    return "whole" if n_read else "broken"


def _call(it: Reading) -> Steps[Outcome]:
    reader = it.reader
    told: list[str] = []
    if (yield from reader.until(Marks.of(SEPARATOR), told.append)) is None:
        return "not a call"
    name = "".join(told).strip()
    if name == _KIND:
        name = yield from reader.while_(is_of_name)
        if not (yield from reader.closes("```json")):
            return "not a call"
    outcome = yield from json_text.named_call(it, name)
    yield from reader.closes("```")
    yield from reader.closes(CALL_END)
    return outcome


def _write_v3(wanted: WantedCalls) -> str:
    return _section(wanted, CALL + _KIND + SEPARATOR, "\n```json\n", "\n```" + CALL_END, "\n")


def _write_v31(wanted: WantedCalls) -> str:
    return _section(wanted, CALL, SEPARATOR, CALL_END, "")


def _section(wanted: WantedCalls, before: str, named: str, end: str, line: str) -> str:
    lark = wanted.lark
    call = lark.either(
        f"{lark.text(before + tool.name + named)} {lark.json(dict(tool.parameters))} {lark.text(end)}"
        for tool in wanted.tools
    )
    calls = lark.many(call, lark.text(line) if line else "") if wanted.many else call
    return f"{lark.text(CALLS)} {calls} {lark.text(CALLS_END)}"


_SPECIAL = (CALLS, CALLS_END, CALL, CALL_END, SEPARATOR)
DEEPSEEK_V3 = Family(
    name="deepseek-v3",
    openers=(mark(CALLS),),
    read_calls=_read,
    write_calls=_write_v3,
    triggers=(CALLS,),
    special=_SPECIAL,
)
DEEPSEEK_V31 = Family(
    name="deepseek-v3.1",
    openers=(mark(CALLS),),
    read_calls=_read,
    write_calls=_write_v31,
    triggers=(CALLS,),
    special=_SPECIAL,
)

ROWS = (
    Row(DEEPSEEK_V3, has=(CALLS, "```json")),
    Row(DEEPSEEK_V31, has=(CALLS,)),
)
