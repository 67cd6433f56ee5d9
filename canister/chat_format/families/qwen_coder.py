"""Qwen3-Coder, Qwen 3.5 and later, Nemotron 3, StepFun: <tool_call><function=NAME><parameter=KEY>…, and Seed-OSS."""

from __future__ import annotations

from canister.chat_format import json_text
from canister.chat_format.family import Family, Row, Thoughts, Wanted
from canister.chat_format.marks import Gap, Mark, mark
from canister.chat_format.reader import Steps
from canister.chat_format.reading import Outcome, Reading
from canister.chat_format.tagged import Tags

_TAGS = Tags("<function=", ">", "<parameter=", ">", "</parameter>", "</function>", pad="\n")
_JSON = mark("<tool_call>", Gap.SPACE, ahead=("{",))
_MARKED = mark("<tool_call>", Gap.SPACE, _TAGS.begin)


def _read(it: Reading, opener: Mark) -> Steps[Outcome]:
    outcome = yield from (json_text.call(it) if opener == _JSON else _TAGS.read(it))
    if outcome == "whole":
        yield from it.reader.closes("</tool_call>")
    return outcome


def _write(wanted: Wanted) -> str:
    lark = wanted.lark
    begin, end, line = lark.text("<tool_call>\n"), lark.text("\n</tool_call>"), lark.text("\n")
    call = f"{begin} {lark.either(_TAGS.write(wanted, tool) for tool in wanted.tools)} {end}"
    return lark.many(call, line) if wanted.many else call


QWEN_CODER = Family(
    name="qwen-coder",
    openers=(_MARKED, _JSON, mark(_TAGS.begin)),
    read_calls=_read,
    write_calls=_write,
    triggers=("<tool_call>",),
    special=("<tool_call>", "</tool_call>"),
    thought_openers=(_MARKED,),
)

_SEED_TAGS = Tags("<function=", ">", "<parameter=", ">", "</parameter>", "</function>")
_SEED = mark("<seed:tool_call>", Gap.SPACE, _SEED_TAGS.begin)


def _read_seed(it: Reading, _opener: Mark) -> Steps[Outcome]:
    outcome = yield from _SEED_TAGS.read(it)
    if outcome == "whole":
        yield from it.reader.closes("</seed:tool_call>")
    return outcome


def _write_seed(wanted: Wanted) -> str:
    lark = wanted.lark
    begin, end, line = lark.text("<seed:tool_call>\n"), lark.text("\n</seed:tool_call>"), lark.text("\n")
    call = f"{begin} {lark.either(_SEED_TAGS.write(wanted, tool) for tool in wanted.tools)} {end}"
    return lark.many(call, line) if wanted.many else call


SEED = Family(
    name="seed-oss",
    openers=(_SEED,),
    read_calls=_read_seed,
    write_calls=_write_seed,
    triggers=("<seed:tool_call>",),
    special=("<seed:tool_call>", "</seed:tool_call>"),
    thoughts=(Thoughts("<seed:think>", "</seed:think>"),),
)

ROWS = (
    Row(SEED, has=("<seed:tool_call>",)),
    Row(QWEN_CODER, has=("<tool_call>", "<function=", "<parameter=")),
)
