"""Messages and tools in the one form that templates get, with llama.cpp's members in llama.cpp's order.

    {"role", "content": text | [{"type": "text", "text"}], "reasoning_content", "name", "tool_call_id", "tool_calls"}

The order shows where a template writes a whole message as JSON. What is empty or null is left out, but for content.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from canister.model_file.chat_template.errors import TemplateError

Message = Mapping[str, object]
Normal = dict[str, object]

_TEXTS = ("reasoning_content", "name", "tool_call_id")


def normal_message(message: Message, name: str) -> Normal:
    """name: of the message, for errors. Arguments of calls are texts in it. Raises TemplateError."""
    normal: Normal = {"role": message.get("role"), "content": _content(message.get("content"))}
    normal |= {key: message[key] for key in _TEXTS if message.get(key)}
    calls = message.get("tool_calls")
    if isinstance(calls, list) and calls:
        normal["tool_calls"] = [_normal_call(call, name) for call in calls]
    known = (*normal, *_TEXTS, "tool_calls")
    return normal | {key: value for key, value in message.items() if key not in known and value is not None}


def normal_tools(tools: Sequence[object]) -> list[object]:
    """Functions have a description and parameters, which templates read without asking; what is no function stays."""
    return [_normal_tool(tool) for tool in tools]


def text_of(content: object, between: str = "\n") -> str:
    """The texts of parts, in one."""
    if isinstance(content, list):
        return between.join(str(part["text"]) for part in content if isinstance(part, dict) and "text" in part)
    return "" if content is None else str(content)


def with_text(message: Normal) -> Normal:
    return {**message, "content": text_of(message["content"])}


def with_parts(message: Normal) -> Normal:
    content = message["content"]
    return message if isinstance(content, list) else {**message, "content": [{"type": "text", "text": content}]}


def with_object_arguments(message: Normal) -> Normal:
    """Arguments of calls as the objects that their texts say; a text that is no JSON stays."""
    calls = message.get("tool_calls")
    if not isinstance(calls, list):
        return message
    return {**message, "tool_calls": [_with_object(call) for call in calls]}


def without_system(messages: Sequence[Normal]) -> list[Normal]:
    """System messages put before the text of the next user message."""
    said: list[Normal] = []
    pending = ""
    for message in messages:
        text = text_of(message["content"])
        if message["role"] == "system":
            pending = f"{pending}\n{text}" if pending else text
        elif message["role"] == "user" and pending:
            said.append({**message, "content": f"{pending}\n{text}" if text else pending})
            pending = ""
        else:
            said.append(message)
    return [*said, {"role": "user", "content": pending}] if pending else said


def _content(content: object) -> object:
    if isinstance(content, list):
        parts = [part for part in content if isinstance(part, dict) and "text" in part]
        return [{"type": "text", "text": str(part["text"])} for part in parts] if parts else ""
    return text_of(content)


def _normal_call(call: object, name: str) -> object:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(call, dict) or not isinstance(function, dict):
        return call
    arguments = function.get("arguments")
    try:
        if isinstance(arguments, str):
            _value_of(arguments)
        else:
            arguments = json.dumps(arguments or {}, ensure_ascii=False, separators=(",", ":"))
    except RecursionError:
        raise TemplateError(f"the arguments of a tool call in {name} are nested too deeply") from None
    normal: Normal = {"type": "function", "function": {"name": function.get("name"), "arguments": arguments or "{}"}}
    if call.get("id"):
        normal["id"] = call["id"]
    return normal


def _with_object(call: object) -> object:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(call, dict) or not isinstance(function, dict):
        return call
    return {**call, "function": {**function, "arguments": _value_of(function["arguments"])}}


def _value_of(text: str) -> object:
    """Of JSON; a text that is none stays."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _normal_tool(tool: object) -> object:
    function = tool.get("function") if isinstance(tool, Mapping) else None
    if not isinstance(function, Mapping):
        return tool
    said: Normal = {
        "name": function.get("name"),
        "description": function.get("description") or "",
        "parameters": function.get("parameters") or {},
    }
    return {"type": "function", "function": said}
