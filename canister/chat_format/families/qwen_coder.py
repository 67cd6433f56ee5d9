"""Qwen3-Coder, Qwen 3.5 and later, Nemotron 3, StepFun: <tool_call><function=NAME><parameter=KEY>…, and Seed-OSS."""

from __future__ import annotations

from dataclasses import dataclass, replace

from canister.chat_format import json_text
from canister.chat_format.family import Family, Row, Thoughts, WantedCalls
from canister.chat_format.marks import Gap, Mark, mark
from canister.chat_format.reader import Steps
from canister.chat_format.reading import Outcome, Reading
from canister.chat_format.tagged import Tags


@dataclass(frozen=True, slots=True)
class _Wrapped:
    """Tagged calls, each between two marks."""

    tags: Tags
    begin: str
    end: str

    @property
    def opener(self) -> Mark:
        return mark(self.begin, Gap.SPACE, self.tags.begin)

    def read(self, it: Reading, opener: Mark) -> Steps[Outcome]:
        outcome = yield from (json_text.call(it) if opener == _JSON else self.tags.read(it))
        if outcome == "whole":
            yield from it.reader.closes(self.end)
        return outcome

    def write(self, wanted: WantedCalls) -> str:
        lark = wanted.lark
        begin, end, line = lark.text(f"{self.begin}\n"), lark.text(f"\n{self.end}"), lark.text("\n")
        call = f"{begin} {lark.either(self.tags.write(wanted, tool) for tool in wanted.tools)} {end}"
        return lark.many(call, line) if wanted.many else call


_TAGS = Tags("<function=", ">", "<parameter=", ">", "</parameter>", "</function>", pad="\n")
_JSON = mark("<tool_call>", Gap.SPACE, ahead=("{",))
_CALLS = _Wrapped(_TAGS, "<tool_call>", "</tool_call>")
_SEED_CALLS = _Wrapped(replace(_TAGS, pad=""), "<seed:tool_call>", "</seed:tool_call>")

QWEN_CODER = Family(
    name="qwen-coder",
    openers=(_CALLS.opener, _JSON, mark(_TAGS.begin)),
    read_calls=_CALLS.read,
    write_calls=_CALLS.write,
    triggers=(_CALLS.begin,),
    special=(_CALLS.begin, _CALLS.end),
    thought_openers=(_CALLS.opener,),
)
SEED = Family(
    name="seed-oss",
    openers=(_SEED_CALLS.opener,),
    read_calls=_SEED_CALLS.read,
    write_calls=_SEED_CALLS.write,
    triggers=(_SEED_CALLS.begin,),
    special=(_SEED_CALLS.begin, _SEED_CALLS.end),
    thoughts=(Thoughts("<seed:think>", "</seed:think>"),),
)

ROWS = (
    Row(SEED, has=("<seed:tool_call>",)),
    Row(QWEN_CODER, has=("<tool_call>", "<function=", "<parameter=")),
)
