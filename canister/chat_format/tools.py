"""The tools that a model may call, and which of them it may or must. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from canister.chat_format.schemas import NO_ARGUMENTS, Schema, arguments_of
from canister.errors import BadRequest

ToolChoice = Literal["none", "auto", "required"]

MAX_NAME_CHARACTERS = 256
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:/-]*")
SHOWN_CHARACTERS = 80


@dataclass(frozen=True, slots=True)
class Tool:
    """parameters: JSON schema of the arguments, an object, as it binds. told: as it came."""

    name: str
    description: str = ""
    parameters: Schema = field(default_factory=lambda: NO_ARGUMENTS)
    told: object = None


def tools_of(told: Sequence[object]) -> tuple[Tool, ...]:
    """Tools in the form of the OpenAI API: {"type": "function", "function": {"name", "description", "parameters"}}.

    BadRequest names a tool that cannot be a function.
    """
    tools: dict[str, Tool] = {}
    for index, one in enumerate(told):
        tool = _tool(one, f"tools[{index}]")
        if tool.name in tools:
            raise BadRequest(f"tools[{index}] has the name {tool.name!r} of another tool; names must differ")
        tools[tool.name] = tool
    return tuple(tools.values())


def chosen(tools: Sequence[Tool], choice: ToolChoice, name: str | None) -> tuple[Tool, ...]:
    """The tools that may be called: all offered ones, or the one requested by name."""
    if choice == "none":
        return ()
    if name is not None:
        found = tuple(tool for tool in tools if tool.name == name)
        if not found:
            offered = ", ".join(tool.name for tool in tools) or "none"
            raise BadRequest(f"tool_choice asks for {_shown(name)}, which is not among the tools ({offered})")
        return found
    if choice == "required" and not tools:
        raise BadRequest('tool_choice is "required" but there are no tools; give tools, or leave tool_choice out')
    return tuple(tools)


def _tool(told: object, where: str) -> Tool:
    function = told.get("function") if isinstance(told, Mapping) else None
    if not isinstance(told, Mapping) or told.get("type", "function") != "function" or not isinstance(function, Mapping):
        raise BadRequest(
            f'{where} is {_shown(told)}; a tool is {{"type": "function", "function": {{"name", "description", '
            '"parameters"}}'
        )
    name, parameters = function.get("name"), function.get("parameters")
    if not isinstance(name, str) or not _NAME.fullmatch(name) or len(name) > MAX_NAME_CHARACTERS:
        raise BadRequest(
            f"{where} has the name {_shown(name)}, which cannot be a function's; use letters, digits, _ and -, "
            f"at most {MAX_NAME_CHARACTERS}"
        )
    if parameters is not None and not isinstance(parameters, Mapping):
        raise BadRequest(f"{where} ({name}) has the parameters {_shown(parameters)}, which is no JSON schema")
    if isinstance(parameters, Mapping) and parameters.get("type", "object") != "object":
        raise BadRequest(
            f"{where} ({name}) has parameters of the type {_shown(parameters['type'])}; arguments are an object"
        )
    description = function.get("description")
    try:
        bound = arguments_of(parameters)
    except BadRequest as error:
        raise BadRequest(f"the parameters of the function {name!r} cannot be bound: {error}") from None
    return Tool(name, description if isinstance(description, str) else "", bound, parameters)


def _shown(value: object) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        text = repr(type(value).__name__)
    return text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "…"
