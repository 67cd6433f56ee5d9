"""Kimi K2 (functions.NAME:0 and JSON between tokens) and K3 (elements that tokens open and close)."""

from __future__ import annotations

from canister.chat_format import json_text
from canister.chat_format.family import Family, Row, Thoughts, WantedCalls
from canister.chat_format.marks import Mark, Marks, mark
from canister.chat_format.reader import Steps, never
from canister.chat_format.reading import Outcome, Reading
from canister.chat_format.tagged import Tags, read_section, write_section

CALLS, CALLS_END = "<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"
CALL, CALL_END, ARGUMENTS = "<|tool_call_begin|>", "<|tool_call_end|>", "<|tool_call_argument_begin|>"
_PREFIX = "functions."
_IN_SECTION = Marks.of(CALL, CALLS_END)


def _read(it: Reading, opener: Mark) -> Steps[Outcome]:
    found: Mark | None = opener
    if opener == mark(CALLS):
        found = yield from it.reader.until(_IN_SECTION, never)
    while found == mark(CALL):
        it.reader.forget()
        outcome = yield from _call(it)
        if outcome != "whole":
            return "broken"
        found = yield from it.reader.until(_IN_SECTION, never)
    return "whole"


def _call(it: Reading) -> Steps[Outcome]:
    told: list[str] = []
    if (yield from it.reader.until(Marks.of(ARGUMENTS), told.append)) is None:
        return "not a call"
    call_id = "".join(told).strip()
    outcome = yield from json_text.named_call(it, call_id.removeprefix(_PREFIX).rsplit(":", 1)[0], call_id)
    yield from it.reader.closes(CALL_END)
    return outcome


def _write(wanted: WantedCalls) -> str:
    lark = wanted.lark
    number = "/[0-9]{1,3}/"
    call = lark.either(
        f"{lark.text(CALL + _PREFIX + tool.name + ':')} {number} {lark.text(ARGUMENTS)} "
        f"{lark.json(dict(tool.parameters))} {lark.text(CALL_END)}"
        for tool in wanted.tools
    )
    return f"{lark.text(CALLS)} {lark.many(call) if wanted.many else call} {lark.text(CALLS_END)}"


KIMI_K2 = Family(
    name="kimi-k2",
    openers=(mark(CALLS), mark(CALL)),
    read_calls=_read,
    write_calls=_write,
    triggers=(CALLS,),
    special=(CALLS, CALLS_END, CALL, CALL_END, ARGUMENTS),
)


def _open(element: str) -> str:
    return f"<|open|>{element}<|sep|>"


def _close(element: str) -> str:
    return f"<|close|>{element}<|sep|>"


_TAGS = Tags(
    '<|open|>call tool="',
    '" index="',
    '<|open|>argument key="',
    "",
    _close("argument"),
    _close("call"),
    numbered='"<|sep|>',
    typed=('" type="', "string", "", '"<|sep|>'),
    line="",
    escapes_names=True,
)


def _read_k3(it: Reading, _opener: Mark) -> Steps[Outcome]:
    return (yield from read_section(it, _TAGS, _close("tools")))


def _write_k3(wanted: WantedCalls) -> str:
    return write_section(wanted, _TAGS, _open("tools"), _close("tools"))


KIMI_K3 = Family(
    name="kimi-k3",
    openers=(mark(_open("tools")),),
    read_calls=_read_k3,
    write_calls=_write_k3,
    triggers=(_open("tools"),),
    special=("<|open|>", "<|close|>", "<|sep|>"),
    thoughts=(Thoughts(_open("think"), _close("think"), or_ends=(_open("response"),)),),
    silent=(_open("response"), _close("response"), _close("message")),
    answer=(_open("response"), _close("response")),
)

ROWS = (
    Row(KIMI_K2, has=(CALL,)),
    Row(KIMI_K3, has=("<|open|>", "<|close|>", "<|sep|>")),
)
