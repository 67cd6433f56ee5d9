"""Families whose calls are JSON objects in a list, or a line each, between marks of their own."""

from __future__ import annotations

from canister.chat_format.family import Family, Row, Thoughts
from canister.chat_format.json_calls import JsonCalls
from canister.chat_format.marks import Gap, Mark, mark


def _family(
    name: str,
    calls: JsonCalls,
    *,
    openers: tuple[Mark, ...] = (),
    thoughts: tuple[Thoughts, ...] = (),
    silent: tuple[str, ...] = (),
    answer: tuple[str, str] = ("", ""),
    thought_openers: tuple[Mark, ...] = (),
) -> Family:
    return Family(
        name=name,
        openers=openers or (mark(calls.begin),),
        read_calls=calls.read,
        write_calls=calls.write,
        triggers=(calls.begin,),
        special=tuple(text for text in (calls.begin, calls.end) if text),
        thoughts=thoughts,
        silent=silent,
        answer=answer,
        thought_openers=thought_openers,
    )


COMMAND_R7B = _family(
    "command-r7b",
    JsonCalls(
        "<|START_ACTION|>",
        "<|END_ACTION|>",
        "list",
        name_key="tool_name",
        arguments_key="parameters",
        id_key="tool_call_id",
    ),
    thoughts=(Thoughts("<|START_THINKING|>", "<|END_THINKING|>"),),
    silent=("<|START_RESPONSE|>", "<|END_RESPONSE|>", "<|START_TEXT|>", "<|END_TEXT|>"),
    answer=("<|START_RESPONSE|>", "<|END_RESPONSE|>"),
)
COMMAND_R_PLUS = _family(
    "command-r-plus",
    JsonCalls("Action:\n```json\n", "\n```", "list", name_key="tool_name", arguments_key="parameters"),
    openers=(mark("Action:", Gap.SPACE, "```json"),),
)
GRANITE = _family(
    "granite",
    JsonCalls("<|tool_call|>", "", "list"),
    thoughts=(Thoughts("<think>", "</think>"),),
    silent=("<response>", "</response>"),
)
GRANITE_32 = _family(
    "granite-3.2",
    JsonCalls("<|tool_call|>", "", "list"),
    thoughts=(Thoughts("Here is my thought process:", "Here is my response:"),),
)
PHI_4 = _family(
    "phi-4",
    JsonCalls("<|tool_call|>", "<|/tool_call|>", "list"),
    openers=(mark("<|tool_call|>"), mark("functools", ahead=("[",))),
)
NEMOTRON = _family("nemotron", JsonCalls("<TOOLCALL>", "</TOOLCALL>", "list"))
TOOL_CALLS = JsonCalls("<tool_calls>", "</tool_calls>", "list")
HUNYUAN = _family("hunyuan", TOOL_CALLS, silent=("<answer>", "</answer>"))
APRIEL = _family("apriel", TOOL_CALLS, thoughts=(Thoughts("<thinking>", "</thinking>"),))
_FINAL, _FINAL_END = "[BEGIN FINAL RESPONSE]", "[END FINAL RESPONSE]"
APRIEL_THINKER = _family(
    "apriel-thinker",
    TOOL_CALLS,
    thoughts=(Thoughts("Here are my reasoning steps:\n", _FINAL),),
    silent=(_FINAL_END,),
    thought_openers=(mark(TOOL_CALLS.begin),),
)
JAMBA = _family("jamba", TOOL_CALLS)
MINIMAX_M1 = _family("minimax-m1", JsonCalls("<tool_calls>", "</tool_calls>", "lines", line="\n"))
INTERNLM = _family(
    "internlm",
    JsonCalls("<|action_start|><|plugin|>", "<|action_end|>", arguments_key="parameters", line="\n"),
    openers=(mark("<|action_start|>", Gap.SPACE, "<|plugin|>"),),
)
GIGACHAT = _family("gigachat", JsonCalls("<|function_call|>", ""))
_ROLE = "function call<|role_sep|>\n"
GIGACHAT_3 = _family(
    "gigachat-3",
    JsonCalls("<|message_sep|>\n\n" + _ROLE, ""),
    openers=(mark("<|message_sep|>", Gap.SPACE, _ROLE), mark(_ROLE)),
)
FIREFUNCTION = _family("firefunction", JsonCalls(" functools", "", "list"), openers=(mark("functools", ahead=("[",)),))

ROWS = (
    Row(COMMAND_R7B, has=("<|START_ACTION|>",)),
    Row(COMMAND_R_PLUS, has=("Action:", "```json", "tool_name")),
    Row(PHI_4, has=("<|tool_call|>", "<|/tool_call|>")),
    Row(PHI_4, has=("<|tool|>", "<|/tool|>")),
    Row(GRANITE_32, has=("<|tool_call|>", "Here is my thought process")),
    Row(GRANITE, has=("<|tool_call|>",)),
    Row(NEMOTRON, has=("<TOOLCALL>",)),
    Row(APRIEL_THINKER, has=("<tool_calls>", _FINAL)),
    Row(APRIEL, has=("<tool_calls>", "<thinking>")),
    Row(HUNYUAN, has=("<tool_calls>", "<answer>")),
    Row(MINIMAX_M1, has=("<tool_calls>\\n", "<beginning_of_sentence>")),
    Row(MINIMAX_M1, has=("<tool_calls>\n", "<beginning_of_sentence>")),
    Row(JAMBA, has=("<tool_calls>",)),
    Row(INTERNLM, has=("<|action_start|>", "<|plugin|>")),
    Row(GIGACHAT, has=("<|function_call|>",)),
    Row(GIGACHAT_3, has=("function call", "role_sep")),
    Row(FIREFUNCTION, has=("functools[",)),
)
