"""A request of Anthropic's Messages → the same in OpenAI's form, whose fields `fields.py` reads. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import JsonValue

from canister.server.doors.openai.fields import misfit
from canister.server.doors.openai.messages.conversation import messages_of

# OpenAI's fields without meaning here, and Anthropic's own that are read below or mean nothing here.
_LEFT_OUT = frozenset(
    {
        *("n", "n_cmpl", "logprobs", "top_logprobs", "n_probs", "stream_options", "response_format", "stop"),
        *("system", "stop_sequences", "thinking", "output_config", "output_format", "tools", "tool_choice"),
        *("metadata", "service_tier", "container", "context_management", "mcp_servers", "betas", "cache_control"),
    }
)
_CHOICES = {"auto": "auto", "any": "required", "tool": "required", "none": "none"}
_THINKS = {"enabled": True, "adaptive": True, "between_tools": True, "disabled": False}


def chat_body(body: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """The body of a chat completion that asks for the same. DoorError names the field.

    Sampling settings under llama.cpp's names are kept. Tools that Anthropic runs itself are left out.
    """
    asked: dict[str, JsonValue] = {key: value for key, value in body.items() if key not in _LEFT_OUT}
    asked["messages"] = [*messages_of(body.get("system"), body.get("messages"))]
    asked["stop"] = _stops(body.get("stop_sequences"))
    asked.update(_tools(body.get("tools"), body.get("tool_choice")))
    asked.update(_thinking(body.get("thinking"), body.get("chat_template_kwargs")))
    asked.update(_output(body.get("output_config"), body.get("output_format")))
    return {key: value for key, value in asked.items() if value is not None}


def hides_thoughts(body: Mapping[str, JsonValue]) -> bool:
    """Should existing thoughts be hidden?"""
    thinking = body.get("thinking")
    return isinstance(thinking, dict) and thinking.get("display") == "omitted"


def _stops(stops: JsonValue) -> JsonValue:
    if stops is None:
        return None
    if not isinstance(stops, list) or not all(isinstance(stop, str) and stop for stop in stops):
        raise misfit("stop_sequences", "a list of texts that are not empty", stops)
    return stops


def _tools(tools: JsonValue, choice: JsonValue) -> dict[str, JsonValue]:
    if tools is not None and not isinstance(tools, list):
        raise misfit("tools", "a list of tools", tools)
    made: list[JsonValue] = []
    for index, tool in enumerate(tools or []):
        if not isinstance(tool, dict):
            raise misfit(f"tools[{index}]", "an object with name and input_schema", tool)
        if tool.get("type") in (None, "custom"):
            made.append(_tool(tool, f"tools[{index}]"))
    found: dict[str, JsonValue] = {"tools": made, "parallel_tool_calls": True} if made else {}
    return found if choice is None else {**found, **_choice(choice)}


def _tool(tool: Mapping[str, JsonValue], field: str) -> JsonValue:
    name, schema = tool.get("name"), tool.get("input_schema")
    if not isinstance(name, str) or not name:
        raise misfit(f"{field}.name", "a text that is not empty", name)
    if not isinstance(schema, dict):
        raise misfit(f"{field}.input_schema", "a JSON schema", schema)
    function: dict[str, JsonValue] = {"name": name, "parameters": schema}
    if isinstance(tool.get("description"), str):
        function["description"] = tool["description"]
    return {"type": "function", "function": function}


def _choice(choice: JsonValue) -> dict[str, JsonValue]:
    kind = choice.get("type") if isinstance(choice, dict) else None
    if not isinstance(choice, dict) or not isinstance(kind, str) or kind not in _CHOICES:
        raise misfit("tool_choice.type", f"one of {', '.join(_CHOICES)}", kind)
    found: dict[str, JsonValue] = {"tool_choice": _CHOICES[kind]}
    if choice.get("disable_parallel_tool_use") is True:
        found["parallel_tool_calls"] = False
    if kind == "tool":
        name = choice.get("name")
        if not isinstance(name, str):
            raise misfit("tool_choice.name", "the name of a tool", name)
        found["tool_choice"] = {"type": "function", "function": {"name": name}}
    return found


def _thinking(thinking: JsonValue, options: JsonValue) -> dict[str, JsonValue]:
    if thinking is None:
        return {}
    kind = thinking.get("type") if isinstance(thinking, dict) else None
    if not isinstance(kind, str) or kind not in _THINKS:
        raise misfit("thinking.type", f"one of {', '.join(_THINKS)}", kind)
    if options is not None and not isinstance(options, dict):
        return {}  # it is told of chat_template_kwargs
    return {"chat_template_kwargs": {"enable_thinking": _THINKS[kind], **(options or {})}}


def _output(config: JsonValue, output_format: JsonValue) -> dict[str, JsonValue]:
    """output_format: the place of a schema before there was output_config."""
    found: dict[str, JsonValue] = {}
    field = "output_format"
    if config is not None:
        if not isinstance(config, dict):
            raise misfit("output_config", "an object", config)
        found["reasoning_effort"] = config.get("effort")
        if config.get("format") is not None:
            output_format, field = config["format"], "output_config.format"
    if output_format is None:
        return found
    schema = output_format.get("schema") if isinstance(output_format, dict) else None
    if not isinstance(output_format, dict) or output_format.get("type") != "json_schema" or schema is None:
        raise misfit(field, '{"type": "json_schema", "schema": …}', output_format)
    return {**found, "response_format": {"type": "json_schema", "json_schema": {"schema": schema}}}
