"""The input of Responses, a text or items, and the messages of a turn that it makes. Pure.

A client may send back items that it got, with or without `type`, `id` and `status`. One message of a chat template is
several items here: thoughts, text, tool calls.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from canister.server.doors.openai.chat_messages import content_of
from canister.server.doors.openai.errors import invalid
from canister.server.doors.openai.fields import shown

Json = dict[str, Any]

MAX_ITEMS = 10_000
REFERENCE = "item_reference"

_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
_CALLS = {"function_call": "arguments", "custom_tool_call": "input"}
_RESULTS = ("function_call_output", "custom_tool_call_output")
_READ = ("message", "reasoning", *_CALLS, *_RESULTS, REFERENCE)

# Items of tools that a provider runs, and its notes to itself. Nothing of them is for the model.
_SKIPPED = frozenset(
    {
        "additional_tools",
        "apply_patch_call",
        "apply_patch_call_output",
        "code_interpreter_call",
        "compaction",
        "compaction_summary",
        "compaction_trigger",
        "computer_call",
        "computer_call_output",
        "configuration_update",
        "file_search_call",
        "image_generation_call",
        "local_shell_call",
        "local_shell_call_output",
        "mcp_approval_request",
        "mcp_approval_response",
        "mcp_call",
        "mcp_list_tools",
        "program",
        "program_output",
        "shell_call",
        "shell_call_output",
        "tool_search_call",
        "tool_search_output",
        "web_search_call",
    }
)


def items_of(value: object) -> list[Json]:
    """The items of an `input`, each with its type. A text is an item of the user's. DoorError names the place."""
    if isinstance(value, str):
        return [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": value}]}]
    if not isinstance(value, list) or not value:
        raise invalid(f"input: a text or a list of one or more items is wanted (given: {shown(value)})", "input")
    if len(value) > MAX_ITEMS:
        raise invalid(f"input: at most {MAX_ITEMS} items are taken, not {len(value)}", "input")
    return [_typed(item, f"input[{index}]") for index, item in enumerate(value)]


def references(items: Iterable[Mapping[str, Any]]) -> list[str]:
    """The ids of the items that are referred to."""
    return [item["id"] for item in items if item["type"] == REFERENCE]


def with_ids(items: Iterable[Json], response_id: str) -> list[Json]:
    """The items, each with an id, for lists."""
    hexed = response_id.partition("_")[2]
    return [{**item, "id": item.get("id") or f"in_{hexed}{index:04x}"} for index, item in enumerate(items)]


def messages_of(items: Sequence[Mapping[str, Any]], instructions: str | None = None) -> tuple[Json, ...]:
    """Messages of a turn. DoorError names the wrong item."""
    messages: list[Json] = [] if instructions is None else [{"role": "system", "content": instructions}]
    writing: Json | None = None  # the assistant's message that the next item may belong to
    for index, item in enumerate(items):
        place, kind = f"input[{index}]", item["type"]
        if kind in _SKIPPED:
            continue
        if kind == "reasoning" or kind in _CALLS or item.get("role") == "assistant":
            if writing is None or not _takes(writing, kind):
                writing = {"role": "assistant", "content": None}
                messages.append(writing)
            _add(writing, item, place)
            continue
        writing = None
        messages.append(_message(item, place))
    said = tuple(message for message in messages if not _is_thought_alone(message))
    if not said:
        raise invalid("input: there is no message in it", "input")
    if len(said) > 1 and said[-1]["role"] == said[-2]["role"] == "assistant":
        raise invalid("input: two messages of the assistant are last; put them into one", "input")
    return said


def _typed(item: object, place: str) -> Json:
    if not isinstance(item, dict):
        raise invalid(f"{place}: an object is wanted (given: {shown(item)})", place)
    given = {name: value for name, value in item.items() if value is not None}
    kind = given.get("type") or ("message" if "role" in given else REFERENCE if "id" in given else None)
    if kind is None:
        raise invalid(f"{place}.type is missing", f"{place}.type")
    if not isinstance(kind, str) or (kind not in _READ and kind not in _SKIPPED):
        raise invalid(f"{place}.type: {shown(kind)} is none of {', '.join(_READ)}", f"{place}.type")
    if kind == REFERENCE:
        _text(given, "id", place)
    if kind == "message" and given.get("role") not in _ROLES:
        raise invalid(f"{place}.role: {shown(given.get('role'))} is none of {', '.join(_ROLES)}", f"{place}.role")
    return {**given, "type": kind}


def _takes(writing: Json, kind: str) -> bool:
    """Does an item of this kind still belong to the message? Thoughts, text and calls come in this order."""
    return kind in _CALLS or (writing["content"] is None and "tool_calls" not in writing)


def _add(writing: Json, item: Mapping[str, Any], place: str) -> None:
    kind = item["type"]
    if kind == "reasoning":
        thoughts = [writing.get("reasoning_content"), _thought(item, place)]
        writing["reasoning_content"] = "\n".join(thought for thought in thoughts if thought)
    elif kind == "message":
        writing["content"] = content_of(item.get("content"), f"{place}.content") or ""
    else:
        call_id, name = _text(item, "call_id", place), _text(item, "name", place)
        given = _text({_CALLS[kind]: "", **item}, _CALLS[kind], place)
        arguments = {"input": given} if kind == "custom_tool_call" else given or "{}"
        call = {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
        writing.setdefault("tool_calls", []).append(call)


def _message(item: Mapping[str, Any], place: str) -> Json:
    if item["type"] == REFERENCE:
        raise invalid(f"{place}.id: no item {shown(item['id'])} is stored; send the item itself", f"{place}.id")
    field = "output" if item["type"] in _RESULTS else "content"
    content = content_of(item.get(field), f"{place}.{field}")
    if content is None:
        raise invalid(f"{place}.{field} is missing", f"{place}.{field}")
    if field == "content":
        return {"role": _ROLES[item["role"]], "content": content}
    return {"role": "tool", "content": content, "tool_call_id": _text(item, "call_id", place)}


def _is_thought_alone(message: Json) -> bool:
    """Thoughts without an answer, for which templates have no place."""
    return message["role"] == "assistant" and message["content"] is None and "tool_calls" not in message


def _text(item: Mapping[str, Any], name: str, place: str) -> str:
    value = item.get(name)
    if not isinstance(value, str):
        raise invalid(f"{place}.{name}: a text is wanted (given: {shown(value)})", f"{place}.{name}")
    return value


def _thought(item: Mapping[str, Any], place: str) -> str:
    """The text of the thoughts; none for those that another provider has encrypted."""
    parts = item.get("content") or item.get("summary") or []
    if not isinstance(parts, list):
        raise invalid(f"{place}.content: a list of parts is wanted (given: {shown(parts)})", f"{place}.content")
    texts = [part.get("text") for part in parts if isinstance(part, dict)]
    return "\n".join(text for text in texts if isinstance(text, str))
