"""GLM 4.5 and later, and what took its form over: <tool_call>NAME<arg_key>KEY</arg_key><arg_value>VALUE</arg_value>."""

from __future__ import annotations

from canister.chat_format import json_text
from canister.chat_format.family import Family, Row, Thoughts, WantedCalls
from canister.chat_format.marks import Gap, Mark, mark
from canister.chat_format.reader import Steps
from canister.chat_format.reading import Outcome, Reading
from canister.chat_format.tagged import Tags, read_section, write_section

BEGIN, END = "<tool_call>", "</tool_call>"
_JSON = mark(BEGIN, Gap.SPACE, ahead=("{",))


def _family(name: str, line: str) -> Family:
    tags = Tags(
        BEGIN, "", "<arg_key>", "</arg_key>", "</arg_value>", END, valued="<arg_value>", line=line, may_not_close=True
    )

    def read(it: Reading, opener: Mark) -> Steps[Outcome]:
        if opener != _JSON:
            return (yield from tags.read(it))
        outcome = yield from json_text.call(it)
        yield from it.reader.closes(END)
        return outcome

    def write(wanted: WantedCalls) -> str:
        lark = wanted.lark
        call = lark.either(tags.write(wanted, tool) for tool in wanted.tools)
        return lark.many(call, lark.text(line) if line else "") if wanted.many else call

    return Family(
        name=name,
        openers=(_JSON, mark(BEGIN)),
        read_calls=read,
        write_calls=write,
        triggers=(BEGIN,),
        special=(BEGIN, END, "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"),
    )


GLM_LINES = _family("glm-4.5", "\n")
GLM = _family("glm-4.7", "")

# Hunyuan 3 writes the same tags with a suffix, and a section around them.
_S = ":opensource"
_HY_TAGS = Tags(
    f"<tool_call{_S}>",
    f"<tool_sep{_S}>",
    f"<arg_key{_S}>",
    f"</arg_key{_S}>",
    f"</arg_value{_S}>",
    f"</tool_call{_S}>",
    valued=f"<arg_value{_S}>",
)
_HY_BEGIN, _HY_END = f"<tool_calls{_S}>", f"</tool_calls{_S}>"


def _read_hunyuan(it: Reading, _opener: Mark) -> Steps[Outcome]:
    return (yield from read_section(it, _HY_TAGS, _HY_END))


def _write_hunyuan(wanted: WantedCalls) -> str:
    return write_section(wanted, _HY_TAGS, _HY_BEGIN + "\n", _HY_END)


HUNYUAN_3 = Family(
    name="hunyuan-3",
    openers=(mark(_HY_BEGIN),),
    read_calls=_read_hunyuan,
    write_calls=_write_hunyuan,
    triggers=(_HY_BEGIN,),
    special=tuple(
        f"<{slash}{tag}{_S}>"
        for tag in ("tool_calls", "tool_call", "arg_key", "arg_value", "tool_sep")
        for slash in ("", "/")
    ),
    thoughts=(Thoughts(f"<think{_S}>", f"</think{_S}>"),),
)

ROWS = (
    Row(HUNYUAN_3, has=("<tool_sep{}>", _S)),
    Row(HUNYUAN_3, has=(_HY_BEGIN,)),
    Row(GLM_LINES, has=("<arg_key>", "</arg_key>\n<arg_value>")),
    Row(GLM_LINES, has=("<arg_key>", "</arg_key>\\n<arg_value>")),
    Row(GLM, has=("<arg_key>", "<arg_value>")),
)
