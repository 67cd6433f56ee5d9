"""Harmony, which gpt-oss speaks: messages with channels. analysis is thought, commentary and final are text.

<|channel|>analysis<|message|>…<|end|><|start|>assistant<|channel|>commentary to=functions.NAME<|message|>{…}<|call|>
"""

from __future__ import annotations

from canister.chat_format import json_text
from canister.chat_format.family import Family, Row, Thoughts, WantedCalls
from canister.chat_format.lark import Lark
from canister.chat_format.marks import Gap, Mark, Marks, mark
from canister.chat_format.reader import Steps, never
from canister.chat_format.reading import Outcome, Reading
from canister.chat_format.tools import Tool

START, CHANNEL, MESSAGE, END = "<|start|>", "<|channel|>", "<|message|>", "<|end|>"
CALL, RETURN, CONSTRAIN = "<|call|>", "<|return|>", "<|constrain|>"
_TO, _FUNCTIONS = " to=", "functions."
_JSON_TO = _TO + _FUNCTIONS
_THOUGHT, _TEXTS = "analysis", ("commentary", "final")

_HEADER_ENDS = Marks.of(MESSAGE, END)
_NEXT = (START, "assistant")
_BODY_ENDS = Marks.of(
    *(mark(end, ahead=(Gap.SPACE, (START, Gap.END))) for end in (END, CALL, RETURN)),
    mark(START, ahead=("assistant", (CHANNEL, _TO))),
)


def _read(_family: Family, it: Reading, starts_in_thought: bool) -> Steps[None]:
    reader, output = it.reader, it.output
    if starts_in_thought:
        yield from _thought(it, "")
    while (yield from reader.ahead()):
        header: list[str] = []
        if (yield from reader.until(_HEADER_ENDS, header.append)) != mark(MESSAGE):
            if reader.is_over:
                reader.forget()
            yield from reader.takes(*_NEXT)
            continue
        reader.forget()
        told = "".join(header)
        channel = told.rsplit(CHANNEL, 1)[-1].replace(CONSTRAIN, " ").split()
        kind = channel[0] if channel and CHANNEL in told else ""
        name = _recipient(told)
        if name.removeprefix(_FUNCTIONS) in it.tools and name.startswith(_FUNCTIONS):
            yield from json_text.named_call(it, name.removeprefix(_FUNCTIONS))
            yield from reader.until(_BODY_ENDS, never)
        elif name not in ("", "assistant", "user"):
            yield from reader.until(_BODY_ENDS, never)  # to a tool that nobody offered
        elif kind == _THOUGHT:
            yield from _thought(it, CHANNEL + _THOUGHT + MESSAGE)
        else:
            yield from reader.until(_BODY_ENDS, output.text if kind in _TEXTS or not kind else never)
        yield from _next(it)


def _thought(it: Reading, opened_by: str) -> Steps[None]:
    it.output.begin_thought(opened_by)
    yield from it.reader.until(_BODY_ENDS, it.output.thought)
    it.output.end_thought(END)
    if not opened_by:
        yield from _next(it)


def _next(it: Reading) -> Steps[None]:
    it.reader.forget()
    yield from it.reader.skip_space()
    yield from it.reader.takes(*_NEXT)


def _recipient(header: str) -> str:
    _, found, told = header.rpartition(_TO.strip() if header.startswith(_TO.strip()) else _TO)
    return told.split("<", 1)[0].split()[0] if found and told.split("<", 1)[0].split() else ""


def _never(_it: Reading, _opener: Mark) -> Steps[Outcome]:
    yield from ()
    return "not a call"


def _write(wanted: WantedCalls) -> str:
    lark = wanted.lark
    if wanted.is_triggered:
        begin = lark.text(_JSON_TO)
        return lark.either(f"{begin} {_named(lark, tool)}" for tool in wanted.tools)
    in_role, in_channel = lark.text(_JSON_TO), lark.text(CHANNEL + "commentary" + _JSON_TO)
    return lark.either(
        [f"{in_role} {_in_role(lark, tool)}" for tool in wanted.tools]
        + [f"{in_channel} {_in_channel(lark, tool)}" for tool in wanted.tools]
    )


def _in_role(lark: Lark, tool: Tool) -> str:
    header = lark.text(tool.name + CHANNEL + "commentary " + CONSTRAIN + "json" + MESSAGE)
    return f"{header} {lark.json(dict(tool.parameters))}"


def _in_channel(lark: Lark, tool: Tool) -> str:
    header = lark.text(tool.name + " " + CONSTRAIN + "json" + MESSAGE)
    return f"{header} {lark.json(dict(tool.parameters))}"


def _named(lark: Lark, tool: Tool) -> str:
    return lark.either([_in_role(lark, tool), _in_channel(lark, tool)])


HARMONY = Family(
    name="harmony",
    openers=(),
    read_calls=_never,
    write_calls=_write,
    triggers=(_JSON_TO,),
    special=(START, CHANNEL, MESSAGE, END, CALL, RETURN, CONSTRAIN),
    thoughts=(Thoughts(CHANNEL + _THOUGHT + MESSAGE, END + START + "assistant"),),
    answer=(CHANNEL + "final" + MESSAGE, ""),
    read_output=_read,
)

ROWS = (Row(HARMONY, has=(CHANNEL, MESSAGE)),)
