"""Gemma 4 and FunctionGemma: call:NAME{…} in a notation of their own. Gemma 3 has no marks: it is taught by words."""

from __future__ import annotations

from canister.chat_format.family import Family, Row, Thoughts, WantedCalls
from canister.chat_format.marks import Mark, mark
from canister.chat_format.notation import Notation
from canister.chat_format.reader import Steps
from canister.chat_format.reading import Outcome, Reading
from canister.chat_format.tagged import is_of_name

_CALL = "call:"


def _family(name: str, begin: str, end: str, quote: str, thoughts: tuple[Thoughts, ...] = ()) -> Family:
    notation = Notation(quote)

    def read(it: Reading, _opener: Mark) -> Steps[Outcome]:
        reader = it.reader
        if not (yield from reader.closes(_CALL)):
            return "not a call"
        function = yield from reader.while_(is_of_name)
        if function not in it.tools or not (yield from reader.takes(ahead=("{",))):
            return "not a call"
        it.begin(function)
        if not (yield from notation.read(reader, it.output.arguments)) or not it.output.end_call():
            return "broken"
        yield from reader.closes(end)
        return "whole"

    def write(wanted: WantedCalls) -> str:
        lark = wanted.lark
        call = lark.either(
            f"{lark.text(begin + _CALL + tool.name)} {notation.write(wanted, tool.parameters)} {lark.text(end)}"
            for tool in wanted.tools
        )
        return lark.many(call) if wanted.many else call

    return Family(
        name=name,
        openers=(mark(begin),),
        read_calls=read,
        write_calls=write,
        triggers=(begin,),
        special=(begin, end, quote),
        thoughts=thoughts,
    )


GEMMA_4 = _family("gemma-4", "<|tool_call>", "<tool_call|>", '<|"|>', (Thoughts("<|channel>thought\n", "<channel|>"),))
FUNCTION_GEMMA = _family("function-gemma", "<start_function_call>", "<end_function_call>", "<escape>")

ROWS = (
    Row(GEMMA_4, has=("<|tool_call>",)),
    Row(FUNCTION_GEMMA, has=("<start_function_call>",)),
)
