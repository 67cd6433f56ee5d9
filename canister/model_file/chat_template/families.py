"""What llama.cpp does to the messages and prompts of some families, told by marks in their templates.

A family's training has forms that its template alone does not make of OpenAI's messages: thoughts in a field of another
name, results of tools inside the message that called them. How a family goes on with a begun message is here too.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from canister.model_file.chat_template.messages import Normal, text_of

Adapt = Callable[[Sequence[Normal]], list[Normal]]


@dataclass(frozen=True, slots=True)
class Continuation:
    """The text before what a begun message says: opening, thought_begin, its thoughts, thought_end, its content.

    opening: None: what the template itself ends with where the model is to begin. after: only where the prompt so far
    ends with this, the opening is needed. empty_thought: where there are no thoughts, instead of their marks.
    """

    thought_begin: str = ""
    thought_end: str = ""
    opening: str | None = ""
    after: str = ""
    empty_thought: str | None = None


@dataclass(frozen=True, slots=True)
class Family:
    """marks: all are in the template. unmarked: none of these is."""

    marks: tuple[str, ...]
    continuation: Continuation
    unmarked: tuple[str, ...] = ()
    adapt: Adapt | None = None


def family_of(source: str) -> Family | None:
    """None: nothing but what the template itself tells."""
    for family in _FAMILIES:
        if all(mark in source for mark in family.marks) and not any(mark in source for mark in family.unmarked):
            return family
    return None


def repaired(source: str) -> str:
    """The template without checks that refuse what the form of the messages here makes right."""
    if "<|channel|>" in source:
        source = source.replace(_NO_CHANNELS, "{%- if false %}")
    if "[TOOL_CALLS]" in source:
        source = source.replace(_NO_EMPTY_CALLS, "{%- if false %}")
    return source


def trims_texts(source: str) -> bool:
    """Left over white space sends StepFun's model into loops of thoughts."""
    return "You have access to the following functions in JSONSchema format" in source


def trimmed(message: Normal) -> Normal:
    content = message["content"]
    if isinstance(content, list):
        content = [{**part, "text": str(part["text"]).strip()} for part in content]
    else:
        content = text_of(content).strip()
    thought = {"reasoning_content": str(message["reasoning_content"]).strip()} if "reasoning_content" in message else {}
    return {**message, "content": content, **thought}


def opening_of(continuation: Continuation, prompt: str) -> str | None:
    return continuation.opening if prompt.endswith(continuation.after) else ""


def finished(prompt: str, source: str, add_generation_prompt: bool) -> str:
    """The prompt with what its template leaves out or has too much."""
    if "<|channel|>" in source and not add_generation_prompt:
        return "<|end|>".join(prompt.rsplit("<|return|>", 1))  # it goes on, so nothing has been returned
    if _GEMMA_4 in source and add_generation_prompt and prompt.endswith(_GEMMA_4_END):
        return prompt + _GEMMA_4_TURN
    return prompt


# -- messages


def _thinking_blocks(messages: Sequence[Normal]) -> list[Normal]:
    """Ministral: thoughts are a block of the content."""
    return [_with_blocks(message) if message["role"] in ("system", "assistant") else message for message in messages]


def _with_blocks(message: Normal) -> Normal:
    content = message["content"]
    blocks: list[object] = []
    if "reasoning_content" in message:
        blocks.append({"type": "thinking", "thinking": message["reasoning_content"]})
    blocks += content if isinstance(content, list) else [{"type": "text", "text": content}]
    return {**{key: value for key, value in message.items() if key != "reasoning_content"}, "content": blocks}


def _thinking_field(messages: Sequence[Normal]) -> list[Normal]:
    """LFM2: thoughts are in `thinking`."""
    return [{**m, "thinking": m["reasoning_content"]} if "reasoning_content" in m else m for m in messages]


def _thinking_field_or_content(messages: Sequence[Normal]) -> list[Normal]:
    """gpt-oss: and a message with thoughts and calls has no content."""
    return [
        {key: value for key, value in message.items() if key != "content"}
        if "reasoning_content" in message and "tool_calls" in message
        else message
        for message in _thinking_field(messages)
    ]


def _results_in_order(messages: Sequence[Normal]) -> list[Normal]:
    """DeepSeek V4: results stand in the order of the calls that they answer."""
    said = list(messages)
    order: dict[object, int] = {}
    index = 0
    while index < len(said):
        calls = said[index].get("tool_calls")
        if said[index]["role"] == "assistant" and isinstance(calls, list):
            order = {call.get("id"): at for at, call in enumerate(calls) if isinstance(call, dict) and call.get("id")}
        run = index
        while run < len(said) and said[run]["role"] in ("user", "tool"):
            run += 1
        places = [at for at in range(index, run) if said[at]["role"] == "tool"]
        results = sorted((said[at] for at in places), key=lambda result: order.get(result.get("tool_call_id"), 0))
        for at, result in zip(places, results, strict=True):
            said[at] = result
        index = max(run, index + 1)
    return said


def _results_inside(messages: Sequence[Normal]) -> list[Normal]:
    """Gemma 4's first templates: a message with calls has their results, and the text that follows them."""
    said: list[Normal] = []
    index = 0
    while index < len(messages):
        message = messages[index]
        index += 1
        calls = message.get("tool_calls")
        if message["role"] != "assistant" or not isinstance(calls, list):
            said.append(message)
            continue
        turn: Normal = {"role": "assistant", "tool_calls": calls}
        results: list[object] = []
        while index < len(messages) and messages[index]["role"] == "tool":
            results.append(_result(messages[index], calls[len(results)] if len(results) < len(calls) else None))
            index += 1
        if results:
            turn["tool_responses"] = results
        after = messages[index] if index < len(messages) else None
        if after is not None and after["role"] == "assistant" and "tool_calls" not in after and after["content"]:
            turn["content"] = after["content"]
            index += 1
        if "reasoning_content" in message:
            turn["reasoning_content"] = message["reasoning_content"]
        said.append(turn)
    return said


def _result(message: Normal, call: object) -> Normal:
    response = message["content"]
    if isinstance(response, str):
        try:
            response = json.loads(response)
        except (ValueError, RecursionError):
            response = message["content"]
    function = call.get("function") if isinstance(call, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    return {"name": name or message.get("tool_call_id", ""), "response": response}


# -- the table; the first that fits counts

_NO_CHANNELS = (
    '{%- if "<|channel|>analysis<|message|>" in message.content or "<|channel|>final<|message|>" in message.content %}'
)
_NO_EMPTY_CALLS = (
    "{%- if (message['content'] is none or message['content'] == '' or message['content']|length == 0) and "
    "(message['tool_calls'] is not defined or message['tool_calls'] is none or message['tool_calls']|length == 0) %}"
)
_GEMMA_4 = "'<|tool_call>call:'"
_GEMMA_4_TODAY = "{#- OpenAI Chat Completions:"
_GEMMA_4_END, _GEMMA_4_TURN = "<turn|>\n", "<|turn>model\n"
_GEMMA_4_BEGUN = Continuation("<|channel>thought\n", "<channel|>", _GEMMA_4_TURN, after=_GEMMA_4_END)
_LFM2 = Continuation("<think>", "</think>", "<|im_start|>assistant\n")
_DEEPSEEK = Continuation("<think>", "</think>", "<｜Assistant｜>")
_QWEN_CODER = ("<tool_call>", "<function=", "<parameter=")
_QWEN_CODER_CLOSE = ("'<tool_call><function=' ~ tool_call.name ~ '>'",)

_FAMILIES = (
    Family(
        ("[SYSTEM_PROMPT]", "[TOOL_CALLS]", "[ARGS]"),
        Continuation("[THINK]", "[/THINK]"),
        unmarked=("[CALL_ID]",),
        adapt=_thinking_blocks,
    ),
    Family(
        ("<|channel|>",),
        Continuation(
            "<|start|>assistant<|channel|>analysis<|message|>",
            "<|end|><|start|>assistant<|channel|>final<|message|>",
        ),
        adapt=_thinking_field_or_content,
    ),
    Family(
        ("<atem:function_calls>", "<|eom|>"),
        Continuation(
            "<|start|>assistant to=self<|message|>",
            "<|eom|><|start|>assistant to=user<|message|>",
        ),
    ),
    Family(
        (">>>all", ">>>${recipient}"),
        Continuation(opening="<|start_header_id|>assistant<|end_header_id|>\n\n>>>all\n"),
    ),
    Family(
        ("<|tool_calls_section_begin|>", "<|tool_call_begin|>"),
        Continuation("<think>", "</think>", "<|im_assistant|>assistant<|im_middle|>"),
    ),
    Family(
        ("<|open|>", "<|close|>", "<|end_of_msg|>"),
        Continuation(
            "<|open|>think<|sep|>",
            "<|close|>think<|sep|><|open|>response<|sep|>",
            '<|open|>message role="assistant"<|sep|>',
        ),
    ),
    Family(
        ("<role>ASSISTANT</role>", "<arg_key>"),
        Continuation("<think>", "</think>", "<role>ASSISTANT</role>\n"),
    ),
    Family(
        ("<|START_TEXT|>", "<|START_ACTION|>"),
        Continuation(
            "<|START_THINKING|>",
            "<|END_THINKING|><|START_TEXT|>",
            "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
        ),
    ),
    Family(("<|tool_list_start|>", "<|tool_list_end|>"), _LFM2, adapt=_thinking_field),
    Family(("List of tools: [",), _LFM2, unmarked=("<|tool_list_start|>",), adapt=_thinking_field),
    Family(
        ("<|role_sep|>", "<|message_sep|>"),
        Continuation(opening="assistant<|role_sep|>\n"),
        unmarked=("<|function_call|>",),
    ),
    Family(
        ("]<]minimax[>[", "<tool_call>", "<invoke name="),
        Continuation("<mm:think>", "</mm:think>", opening=None),
    ),
    Family(("dsml_token", "DSML", "function_calls"), _DEEPSEEK),
    Family(("dsml_token", "DSML", "tool_calls"), replace(_DEEPSEEK, empty_thought="</think>"), adapt=_results_in_order),
    Family((_GEMMA_4,), _GEMMA_4_BEGUN, unmarked=(_GEMMA_4_TODAY,), adapt=_results_inside),
    Family((_GEMMA_4,), _GEMMA_4_BEGUN),
    Family(
        ("Tool usage guidelines:", '<function name="', '<param name="'),
        Continuation("<think>\n", "\n</think>\n\n", "<|im_start|>assistant\n"),
    ),
    Family(
        (*_QWEN_CODER, "<think>"),
        Continuation("<think>\n", "\n</think>\n\n", "<|im_start|>assistant\n"),
        unmarked=_QWEN_CODER_CLOSE,
    ),
    Family(_QWEN_CODER, Continuation(opening="<|im_start|>assistant\n"), unmarked=_QWEN_CODER_CLOSE),
)
