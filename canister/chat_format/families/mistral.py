"""Mistral: [TOOL_CALLS] and a JSON list (up to Nemo), or [TOOL_CALLS]name[ARGS]{…}, with [CALL_ID]id between them."""

from __future__ import annotations

from dataclasses import replace

from canister.chat_format import json_text
from canister.chat_format.family import Family, Row, Thoughts, WantedCalls
from canister.chat_format.json_calls import JsonCalls
from canister.chat_format.marks import Mark, Marks, mark
from canister.chat_format.reader import Steps
from canister.chat_format.reading import Outcome, Reading

BEGIN, ID, ARGUMENTS = "[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"
_LIST = JsonCalls(BEGIN, "", "list")
_PARTS = Marks.of(ID, ARGUMENTS)


def _read(it: Reading, opener: Mark) -> Steps[Outcome]:
    reader = it.reader
    if (yield from reader.skip_space()) in ("[", "{"):
        return (yield from _LIST.read(it, opener))
    name: list[str] = []
    call_id: list[str] = []
    found = yield from reader.until(_PARTS, name.append)
    if found == mark(ID):
        found = yield from reader.until(_PARTS, call_id.append)
    if found != mark(ARGUMENTS):
        return "not a call"
    return (yield from json_text.named_call(it, "".join(name).strip(), "".join(call_id).strip() or None))


def _write(wanted: WantedCalls) -> str:
    lark = wanted.lark
    call = lark.either(
        f"{lark.text(BEGIN + tool.name + ARGUMENTS)} {lark.json(dict(tool.parameters))}" for tool in wanted.tools
    )
    return lark.many(call) if wanted.many else call


MISTRAL = Family(
    name="mistral",
    openers=(mark(BEGIN),),
    read_calls=_read,
    write_calls=_write,
    triggers=(BEGIN,),
    special=(BEGIN, ID, ARGUMENTS),
    id_characters=9,
)
MAGISTRAL = replace(MISTRAL, name="magistral", thoughts=(Thoughts("[THINK]", "[/THINK]"),))
MISTRAL_LIST = replace(MISTRAL, name="mistral-list", write_calls=_LIST.write)

ROWS = (
    Row(MAGISTRAL, has=(BEGIN, "[THINK]")),
    Row(MISTRAL, has=(BEGIN, ARGUMENTS)),
    Row(MISTRAL_LIST, has=(BEGIN,)),
)
