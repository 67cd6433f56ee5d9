"""Messages and tools of a chat request, checked and brought into the one form that templates get.

    {"role", "content": text | None, "tool_calls", "tool_call_id", "name", "reasoning_content"}

Content of several texts stays so, [{"type": "text", "text"}, …]: templates put them together in their own ways.
Errors name the field, as in `messages[2].content`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import JsonValue

from canister.api.rest_records import MAX_MESSAGES, MAX_PARTS, MAX_TOOLS
from canister.server.doors.openai.errors import DoorError, invalid
from canister.server.doors.openai.fields import shown
from canister.server.doors.openai.turn import ToolChoice

Message = dict[str, JsonValue]

_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool"}
_ROLES["function"] = "tool"  # before there were tools
_TEXT_PARTS = ("text", "input_text", "output_text")
_NO_TEXT = {"image_url": "image", "input_image": "image", "image": "image", "input_audio": "audio", "audio": "audio"}
_NO_TEXT |= {"video_url": "video", "file": "file", "input_file": "file", "document": "document"}


def messages_of(value: JsonValue, name: str = "messages") -> tuple[Message, ...]:
    """The messages in that form. Raises DoorError."""
    if not isinstance(value, list) or not value:
        raise invalid(f"{name}: a list of one or more messages is wanted (given: {shown(value)})", name)
    if len(value) > MAX_MESSAGES:
        raise invalid(f"{name}: at most {MAX_MESSAGES} messages are taken, not {len(value)}", name)
    said = tuple(_message(message, f"{name}[{index}]") for index, message in enumerate(value))
    if len(said) > 1 and said[-1]["role"] == said[-2]["role"] == "assistant":
        raise invalid(f"{name}: two messages of the assistant are last; put them into one", name)
    return said


def _message(value: JsonValue, name: str) -> Message:
    if not isinstance(value, dict):
        raise invalid(f"{name}: an object with role and content is wanted (given: {shown(value)})", name)
    given = {key: part for key, part in value.items() if part is not None}
    role = given.get("role")
    if role is None:
        raise invalid(f"{name}.role is missing", f"{name}.role")
    if not isinstance(role, str) or role not in _ROLES:
        raise invalid(f"{name}.role: {shown(role)} is none of {', '.join(list(_ROLES)[:5])}", f"{name}.role")
    message: Message = {"role": _ROLES[role], "content": _content(given.get("content"), f"{name}.content")}
    thought = given.get("reasoning_content", given.get("reasoning"))
    if role == "assistant":
        if thought is not None:
            message["reasoning_content"] = _text(thought, f"{name}.reasoning_content")
        if given.get("tool_calls"):
            message["tool_calls"] = _tool_calls(given["tool_calls"], f"{name}.tool_calls")
        if message["content"] is None and len(message) == 2:
            raise invalid(f"{name}: a message of the assistant has content or tool_calls", f"{name}.content")
    elif message["content"] is None:
        raise invalid(f"{name}.content is missing", f"{name}.content")
    for key in ("name", "tool_call_id"):
        if key in given:
            message[key] = _text(given[key], f"{name}.{key}")
    return message


def content_of(value: JsonValue, name: str) -> str | None:
    """Text, or the texts of parts, a line each; None for none."""
    content = _content(value, name)
    return None if content is None else text_of(content)


def text_of(content: JsonValue) -> str:
    """A message's content as one text, a line for each of several."""
    if isinstance(content, list):
        return "\n".join(str(part["text"]) for part in content if isinstance(part, dict))
    return "" if content is None else str(content)


def _content(value: JsonValue, name: str) -> JsonValue:
    if value is None or isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise invalid(f"{name}: a text or a list of parts is wanted (given: {shown(value)})", name)
    if len(value) > MAX_PARTS:
        raise invalid(f"{name}: at most {MAX_PARTS} parts are taken, not {len(value)}", name)
    texts = [_part(part, f"{name}[{index}]") for index, part in enumerate(value)]
    if len(texts) > 1:
        return [{"type": "text", "text": text} for text in texts]
    return texts[0] if texts else None


def _part(part: JsonValue, name: str) -> str:
    if isinstance(part, str):
        return part
    kind = part.get("type") if isinstance(part, dict) else None
    if not isinstance(part, dict) or not isinstance(kind, str):
        raise invalid(f'{name}: {{"type": "text", "text": …}} is wanted (given: {shown(part)})', name)
    if kind in _TEXT_PARTS:
        return _text(part.get("text"), f"{name}.text")
    if kind == "refusal":
        return _text(part.get("refusal"), f"{name}.refusal")
    if kind in _NO_TEXT:
        raise invalid(f"{name}: {_NO_TEXT[kind]} input is not supported: send text", name)
    raise invalid(f"{name}.type: {shown(kind)} is not supported, text is", f"{name}.type")


def _text(value: JsonValue, name: str) -> str:
    if not isinstance(value, str):
        raise invalid(f"{name}: a text is wanted (given: {shown(value)})", name)
    return value


def _tool_calls(value: JsonValue, name: str) -> list[JsonValue]:
    if not isinstance(value, list):
        raise invalid(f"{name}: a list is wanted (given: {shown(value)})", name)
    return [_tool_call(call, f"{name}[{index}]") for index, call in enumerate(value)]


def _tool_call(value: JsonValue, name: str) -> JsonValue:
    function = value.get("function") if isinstance(value, dict) else None
    if not isinstance(value, dict) or not isinstance(function, dict):
        raise invalid(f"{name}.function: an object with name and arguments is wanted", f"{name}.function")
    arguments = function.get("arguments")
    if arguments is not None and not isinstance(arguments, str | dict):
        raise invalid(
            f"{name}.function.arguments: the text of a JSON object is wanted (given: {shown(arguments)})",
            f"{name}.function.arguments",
        )
    named: dict[str, JsonValue] = {"name": _text(function.get("name"), f"{name}.function.name")}
    named["arguments"] = arguments or "{}"
    call: dict[str, JsonValue] = {"type": "function", "function": named}
    if value.get("id") is not None:
        call["id"] = _text(value["id"], f"{name}.id")
    return call


# -- tools


@dataclass(frozen=True, slots=True)
class Tools:
    """tools: {"type": "function", "function": {"name", …}}. name: the tool that must be called."""

    tools: tuple[dict[str, JsonValue], ...] = ()
    choice: ToolChoice = "auto"
    name: str | None = None


def tools_of(tools: JsonValue, choice: JsonValue) -> Tools:
    """`tools` and `tool_choice` of a chat request. Raises DoorError."""
    if tools is not None and not isinstance(tools, list):
        raise invalid(f"tools: a list is wanted (given: {shown(tools)})", "tools")
    given = tools or []
    if len(given) > MAX_TOOLS:
        raise invalid(f"tools: at most {MAX_TOOLS} tools are taken, not {len(given)}", "tools")
    known = tuple(_tool(tool, f"tools[{index}]") for index, tool in enumerate(given))
    names = [tool_name(tool) for tool in known]
    twice = next((name for name in names if names.count(name) > 1), None) if len(set(names)) < len(names) else None
    if twice is not None:
        raise invalid(f"tools: two have the name {shown(twice)}", "tools")
    return _chosen(known, names, choice)


def tool_name(tool: Mapping[str, JsonValue]) -> str:
    function = tool["function"]
    assert isinstance(function, dict)
    return str(function["name"])


def _tool(value: JsonValue, name: str) -> dict[str, JsonValue]:
    if not isinstance(value, dict):
        raise invalid(f"{name}: an object is wanted (given: {shown(value)})", name)
    kind = value.get("type", "function")
    if kind != "function":
        raise invalid(f"{name}.type: {shown(kind)} is not supported, function is", f"{name}.type")
    function = value.get("function")
    if not isinstance(function, dict):
        raise invalid(
            f"{name}.function: an object with a name is wanted (given: {shown(function)})", f"{name}.function"
        )
    kept: dict[str, JsonValue] = {key: part for key, part in function.items() if part is not None}
    if not isinstance(kept.get("name"), str) or not kept["name"]:
        raise invalid(f"{name}.function.name is missing", f"{name}.function.name")
    if not isinstance(kept.get("parameters", {}), dict):
        raise invalid(f"{name}.function.parameters: a JSON schema is an object", f"{name}.function.parameters")
    if not isinstance(kept.get("description", ""), str):
        raise invalid(f"{name}.function.description: a text is wanted", f"{name}.function.description")
    return {"type": "function", "function": kept}


def _chosen(tools: tuple[dict[str, JsonValue], ...], names: Sequence[str], choice: JsonValue) -> Tools:
    if choice is None or choice == "auto":
        return Tools(tools)
    if choice == "none":
        return Tools(tools, "none")
    if choice == "required" or choice == "any":
        if not tools:
            raise invalid("tool_choice: required, but there are no tools", "tool_choice")
        return Tools(tools, "required")
    if isinstance(choice, dict):
        function, allowed = choice.get("function"), choice.get("allowed_tools")
        if choice.get("type") == "function" and isinstance(function, dict):
            return Tools(tools, "required", _known(function.get("name"), names))
        if choice.get("type") == "allowed_tools" and isinstance(allowed, dict):
            return _allowed(tools, names, allowed)
    raise _no_choice(choice)


def _allowed(tools: tuple[dict[str, JsonValue], ...], names: Sequence[str], allowed: Mapping[str, JsonValue]) -> Tools:
    """Only some of the tools."""
    wanted = allowed.get("tools")
    if not isinstance(wanted, list) or allowed.get("mode") not in ("auto", "required"):
        raise _no_choice(dict(allowed))
    kept = set()
    for tool in wanted:
        function = tool.get("function") if isinstance(tool, dict) else None
        kept.add(_known(function.get("name") if isinstance(function, dict) else None, names))
    some = tuple(tool for tool in tools if tool_name(tool) in kept)
    return Tools(some, "required" if allowed["mode"] == "required" else "auto")


def _known(name: JsonValue, names: Sequence[str]) -> str:
    if not isinstance(name, str) or name not in names:
        raise invalid(f"tool_choice: there is no tool {shown(name)}", "tool_choice")
    return name


def _no_choice(choice: JsonValue) -> DoorError:
    return invalid(
        f"tool_choice: {shown(choice)} is none of none, auto, required, "
        '{"type": "function", "function": {"name": …}}',
        "tool_choice",
    )
