"""Hermes, Qwen 2.5 and 3, and what speaks like them: <tool_call>{"name": …, "arguments": {…}}</tool_call>.

The generic family is the same, taught by words, where a template says nothing of tools.
"""

from __future__ import annotations

from dataclasses import replace

from canister.chat_format.families.llama import bare_json
from canister.chat_format.family import Family, Row, WantedCalls
from canister.chat_format.json_calls import JsonCalls
from canister.chat_format.marks import mark

BEGIN, END = "<tool_call>", "</tool_call>"
_CALLS = JsonCalls(BEGIN, END, line="\n")

HERMES = Family(
    name="hermes",
    openers=(mark(BEGIN),),
    read_calls=_CALLS.read,
    write_calls=_CALLS.write,
    triggers=(BEGIN,),
    special=(BEGIN, END),
)

# ERNIE 4.5 puts its answer in tags of its own.
ERNIE = replace(HERMES, name="ernie", silent=("<response>", "</response>"))


def _write_generic(wanted: WantedCalls) -> str:
    """With its mark; or, where it binds from the name on, what a model wrote without it."""
    marked = _CALLS.write(wanted)
    if not wanted.is_triggered:
        return marked
    return wanted.lark.either([marked, *bare_json(wanted, "arguments")])


GENERIC = replace(
    HERMES,
    name="generic",
    write_calls=_write_generic,
    triggers=(BEGIN, ('"name": "', '"'), ('"name":"', '"')),
    bare="{",
    shows_tools=False,
)

ROWS = (
    Row(ERNIE, has=(BEGIN, "<response>", "tools")),
    Row(HERMES, has=(BEGIN, "tools")),
)
