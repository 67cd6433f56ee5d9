"""Messages in Anthropic's form → messages in OpenAI's form, which chat templates know. Pure.

Turns of one side that follow each other are one turn, as with Anthropic.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from pydantic import JsonValue

from canister.server.doors.openai.errors import invalid
from canister.server.doors.openai.fields import misfit

ROLES = ("user", "assistant", "system")
NO_IMAGES = "image input is not supported: describe it in words"

# Claude Code's system text has a checksum of the request, so no two calls would have a common prefix.
_CHECKSUM = re.compile(r"\bcch=[0-9a-f]{5};")
_BLANK = "cch=fffff;"

Said: TypeAlias = dict[str, JsonValue]
"""A message in OpenAI's form."""


def messages_of(system: JsonValue, messages: JsonValue) -> list[Said]:
    """OpenAI's messages. system: text, text blocks, or None. Raises DoorError that names the field."""
    made: list[Said] = []
    if system is not None:
        made.append({"role": "system", "content": _CHECKSUM.sub(_BLANK, _texts(system, "system"))})
    if not isinstance(messages, list):
        raise misfit("messages", "a list of messages", messages)
    for index, message in enumerate(messages):
        for said in _converted(message, f"messages[{index}]"):
            _add(made, said)
    return made


def _add(made: list[Said], said: Said) -> None:
    """Append a message, or continue the former one if it is of the same side."""
    last = made[-1] if made else None
    role = said["role"]
    if last is None or last["role"] != role or role not in ("user", "assistant"):
        made.append(said)
        return
    for key in ("reasoning_content", "content"):
        text = _joined([part for part in (last.pop(key, None), said.get(key)) if isinstance(part, str)])
        if text is not None or key == "content":
            last[key] = text
    calls = [*_calls(last), *_calls(said)]
    if calls:
        last["tool_calls"] = calls
    elif last["content"] is None:
        last["content"] = ""


def _calls(said: Said) -> list[JsonValue]:
    calls = said.get("tool_calls")
    return calls if isinstance(calls, list) else []


def _converted(message: JsonValue, field: str) -> list[Said]:
    if not isinstance(message, dict):
        raise misfit(field, "an object with role and content", message)
    role, content = message.get("role"), message.get("content")
    if not isinstance(role, str) or role not in ROLES:
        raise misfit(f"{field}.role", f"one of {', '.join(ROLES)}", role)
    if isinstance(content, str):
        return [{"role": role, "content": content}]
    if not isinstance(content, list):
        raise misfit(f"{field}.content", "text or a list of blocks", content)
    return _said(role, content, f"{field}.content")


def _said(role: str, blocks: Sequence[JsonValue], field: str) -> list[Said]:
    """The content of one message's blocks: a message, and one for each result of a tool, after the text beside it.

    Texts, search results and documents become one text, with line breaks between them. Thinking becomes
    reasoning_content, and redacted thinking nothing; tool_use becomes tool_calls.
    """
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[JsonValue] = []
    results: list[Said] = []
    for index, found in enumerate(blocks):
        where = f"{field}[{index}]"
        block = _block(found, where)
        match block["type"]:
            case "thinking" if role == "assistant":
                thoughts.append(_text(block, "thinking", where))
            case "redacted_thinking" if role == "assistant":
                pass
            case "tool_use" if role == "assistant":
                calls.append(_tool_call(block, where))
            case "tool_result" if role == "user":
                results.append(_tool_result(block, where))
            case _:
                texts.append(_text_of(block, where))
    said: Said = {"role": role, "content": _joined(texts)}
    if thoughts:
        said["reasoning_content"] = _joined(thoughts)
    if calls:
        said["tool_calls"] = calls
    is_said = texts or thoughts or calls or not results
    if is_said and said["content"] is None and not calls:
        said["content"] = ""
    return [said, *results] if is_said else results


def _tool_call(block: Mapping[str, JsonValue], field: str) -> Said:
    arguments = block.get("input", {})
    if not isinstance(arguments, dict):
        raise misfit(f"{field}.input", "an object", arguments)
    text = json.dumps(arguments, ensure_ascii=False)
    function: Said = {"name": _text(block, "name", field), "arguments": text}
    return {"id": _text(block, "id", field), "type": "function", "function": function}


def _tool_result(block: Mapping[str, JsonValue], field: str) -> Said:
    content = block.get("content")
    text = "" if content is None else _texts(content, f"{field}.content")
    return {"role": "tool", "tool_call_id": _text(block, "tool_use_id", field), "content": text}


# -- blocks of text


def _texts(content: JsonValue, field: str) -> str:
    """The text of a field that takes text or blocks of text."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise misfit(field, "text or a list of text blocks", content)
    blocks = (_block(found, f"{field}[{index}]") for index, found in enumerate(content))
    return "\n".join(_text_of(block, f"{field}[{index}]") for index, block in enumerate(blocks))


def _text_of(block: Mapping[str, JsonValue], field: str) -> str:
    match block["type"]:
        case "text":
            return _text(block, "text", field)
        case "search_result":
            head = [_text(block, "title", field), _text(block, "source", field)]
            return "\n".join([*head, _texts(block.get("content", []), f"{field}.content")])
        case "document":
            return _document(block, field)
        case "tool_reference":
            return _text(block, "tool_name", field)
        case "image":
            raise invalid(f"{field}: {NO_IMAGES}", field)
        case other:
            raise invalid(f"{field}: blocks of type {other!r} are not understood here", f"{field}.type")


def _document(block: Mapping[str, JsonValue], field: str) -> str:
    source = block.get("source")
    if not isinstance(source, dict):
        raise misfit(f"{field}.source", "an object with a type", source)
    kind = source.get("type")
    if kind == "text":
        text = _text(source, "data", f"{field}.source")
    elif kind == "content":
        text = _texts(source.get("content"), f"{field}.source.content")
    else:
        raise invalid(f"{field}: a document of type {kind!r} is not read here, send its text", f"{field}.source")
    head = [part for part in (block.get("title"), block.get("context")) if isinstance(part, str) and part]
    return "\n".join([*head, text])


def _block(found: JsonValue, field: str) -> Mapping[str, JsonValue]:
    if not isinstance(found, dict) or not isinstance(found.get("type"), str):
        raise misfit(field, "an object with a type, such as text", found)
    return found


def _text(block: Mapping[str, JsonValue], key: str, field: str) -> str:
    value = block.get(key)
    if not isinstance(value, str):
        raise misfit(f"{field}.{key}", "a text", value)
    return value


def _joined(texts: Sequence[str]) -> str | None:
    """All in one text; None where there is none."""
    told = [text for text in texts if text]
    return "\n".join(told) if told else None
