"""Apertus, LFM2, Olmo 3 and Solar: each has its own way to write a call."""

from __future__ import annotations

from canister.chat_format import json_text, pythonic, values
from canister.chat_format.family import Family, Row, Thoughts, WantedCalls
from canister.chat_format.marks import Mark, Marks, mark
from canister.chat_format.reader import Steps, never
from canister.chat_format.reading import Outcome, Reading

# -- Apertus: <|tools_prefix|>[{"NAME": {…}}]<|tools_suffix|>

_TOOLS, _TOOLS_END = "<|tools_prefix|>", "<|tools_suffix|>"


def _read_apertus(it: Reading, _opener: Mark) -> Steps[Outcome]:
    reader = it.reader
    if not (yield from reader.closes("[")):
        return "not a call"
    n_read = 0
    while not (yield from reader.closes("]")):
        if n_read and not (yield from reader.closes(",")):
            return "broken"
        name = (
            json_text.decoded((yield from json_text.whole_value(reader))) if (yield from reader.closes("{")) else None
        )
        if not isinstance(name, str) or not (yield from reader.closes(":")):
            return "broken" if n_read else "not a call"
        outcome = yield from json_text.named_call(it, name)
        if outcome != "whole" or not (yield from reader.closes("}")):
            return "broken" if n_read else outcome
        n_read += 1
    yield from reader.closes(_TOOLS_END)
    return "whole"


def _write_apertus(wanted: WantedCalls) -> str:
    lark = wanted.lark
    call = lark.either(
        f"{lark.text('{' + values.quoted(tool.name) + ': ')} {lark.json(dict(tool.parameters))} {lark.text('}')}"
        for tool in wanted.tools
    )
    calls = lark.many(call, lark.text(", ")) if wanted.many else call
    return f"{lark.text(_TOOLS + '[')} {calls} {lark.text(']' + _TOOLS_END)}"


APERTUS = Family(
    name="apertus",
    openers=(mark(_TOOLS),),
    read_calls=_read_apertus,
    write_calls=_write_apertus,
    triggers=(_TOOLS,),
    special=(_TOOLS, _TOOLS_END),
    thoughts=(Thoughts("<|inner_prefix|>", "<|inner_suffix|>"),),
)

# -- LFM2: <|tool_call_start|>[get_weather(city="Zürich")]<|tool_call_end|>

_LFM, _LFM_END = "<|tool_call_start|>", "<|tool_call_end|>"


def _read_lfm(it: Reading, _opener: Mark) -> Steps[Outcome]:
    return (yield from pythonic.read_calls(it, _LFM_END))


def _write_lfm(wanted: WantedCalls) -> str:
    return pythonic.write_list(wanted, _LFM + "[", "]" + _LFM_END)


LFM2 = Family(
    name="lfm2",
    openers=(mark(_LFM),),
    read_calls=_read_lfm,
    write_calls=_write_lfm,
    triggers=(_LFM,),
    special=(_LFM, _LFM_END),
)

# -- Olmo 3: <function_calls>get_weather(city="Zürich")</function_calls>, a call a line

_OLMO, _OLMO_END = "<function_calls>", "</function_calls>"


def _read_olmo(it: Reading, _opener: Mark) -> Steps[Outcome]:
    outcome: Outcome = "not a call"
    while not (yield from it.reader.closes(_OLMO_END)):
        outcome = yield from pythonic.read_calls(it)
        if outcome != "whole":
            break
    return outcome


def _write_olmo(wanted: WantedCalls) -> str:
    lark = wanted.lark
    call = lark.either(pythonic.write_call(wanted, tool) for tool in wanted.tools)
    calls = lark.many(call, lark.text("\n")) if wanted.many else call
    return f"{lark.text(_OLMO)} {calls} {lark.text(_OLMO_END)}"


OLMO_3 = Family(
    name="olmo-3", openers=(mark(_OLMO),), read_calls=_read_olmo, write_calls=_write_olmo, triggers=(_OLMO,)
)

# -- Solar: <|tool_call:begin|>ID<|tool_call:name|>NAME<|tool_call:args|>{…}<|tool_call:end|>

_SOLAR, _SOLAR_NAME, _SOLAR_ARGUMENTS = "<|tool_call:begin|>", "<|tool_call:name|>", "<|tool_call:args|>"
_SOLAR_END = "<|tool_call:end|>"


def _read_solar(it: Reading, _opener: Mark) -> Steps[Outcome]:
    call_id: list[str] = []
    name: list[str] = []
    for end, take in ((_SOLAR_NAME, call_id.append), (_SOLAR_ARGUMENTS, name.append)):
        if (yield from it.reader.until(Marks.of(end), take)) is None:
            return "not a call"
    outcome = yield from json_text.named_call(it, "".join(name).strip(), "".join(call_id).strip())
    if outcome == "whole":
        yield from it.reader.until(Marks.of(_SOLAR_END), never)
    return outcome


def _write_solar(wanted: WantedCalls) -> str:
    lark = wanted.lark
    call = lark.either(
        f"{lark.text(_SOLAR)} /[A-Za-z0-9_-]{{1,24}}/ {lark.text(_SOLAR_NAME + tool.name + _SOLAR_ARGUMENTS)} "
        f"{lark.json(dict(tool.parameters))} {lark.text(_SOLAR_END)}"
        for tool in wanted.tools
    )
    return lark.many(call) if wanted.many else call


SOLAR = Family(
    name="solar",
    openers=(mark(_SOLAR),),
    read_calls=_read_solar,
    write_calls=_write_solar,
    triggers=(_SOLAR,),
    special=(_SOLAR, _SOLAR_NAME, _SOLAR_ARGUMENTS, _SOLAR_END),
    thoughts=(Thoughts("<|think|>", "<|end|>"),),
    silent=("<|begin|>assistant", "<|content|>", "<|tool_calls|>", "<|calls|>", "<|end|>"),
    answer=("<|content|>", ""),
)

ROWS = (
    Row(APERTUS, has=(_TOOLS,)),
    Row(LFM2, has=(_LFM,)),
    Row(LFM2, has=("<|tool_list_start|>",)),
    Row(LFM2, has=("List of tools: [",)),
    Row(OLMO_3, has=(_OLMO,), lacks=("<invoke",)),
    Row(SOLAR, has=(_SOLAR,)),
)
