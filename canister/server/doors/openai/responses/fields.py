"""A request of Responses: its fields, its turn, and the fields that its object repeats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field, JsonValue

from canister.dispatch import ModelView
from canister.server.doors.openai.chat_messages import Tools, tools_of
from canister.server.doors.openai.errors import DoorError, invalid
from canister.server.doors.openai.fields import MOST_LOGPROBS, GenerationFields, Text, Whole, Yes, schema_of, shown
from canister.server.doors.openai.responses.items import Json, messages_of
from canister.server.doors.openai.turn import Turn

LOGPROBS = "message.output_text.logprobs"

Metadata = Annotated[dict[str, str], Field(max_length=16)]


class ResponsesBody(GenerationFields):
    """A request for an answer. `asked_of` checks items, tools and formats, and names what is wrong."""

    input: JsonValue = Field(None, description="A text, or items; what is no text is refused.")
    instructions: Text | None = Field(None, description="A system message; not carried over to the next answer.")
    previous_response_id: Text | None = Field(None, description="The answer that this one goes on from.")
    max_output_tokens: Annotated[Whole, Field(ge=1)] | None = Field(None, description="Of the whole answer.")
    tools: JsonValue = Field(None, description="Functions that may be called; other kinds are skipped.")
    tool_choice: JsonValue = Field(None, description="none, auto, required, a function's name, or some allowed ones.")
    parallel_tool_calls: Yes = Field(
        True, description="Several calls in one answer; one where `tool_choice` names a function."
    )
    text: JsonValue = Field(None, description="format: text, json_object, json_schema.")
    reasoning: JsonValue = Field(None, description="effort: for the template; none: no thoughts.")
    include: tuple[Text, ...] = Field((), description=f"{LOGPROBS}; others are ignored.")
    top_logprobs: Annotated[Whole, Field(ge=0, le=MOST_LOGPROBS)] | None = Field(
        None, description="Probabilities of so many likeliest tokens at each place, and of those that came."
    )
    store: Yes = Field(True, description="Kept, to be had again by its id.")
    background: Yes = Field(False, description="Goes on without its client.")
    metadata: Metadata = Field({}, description="Given back as it is.")
    truncation: Text | None = Field(None, description="An input that is too long is refused, whatever this says.")
    conversation: JsonValue = Field(None, description="Refused; see previous_response_id.")
    prompt: JsonValue = Field(None, description="Refused: there are no stored prompts.")
    chat_template_kwargs: dict[str, JsonValue] = Field({}, description="Variables of the template.")
    user: Text | None = Field(None, description="Given back as it is.")
    safety_identifier: Text | None = Field(None, description="Given back as it is.")
    service_tier: Text | None = Field(None, description="Ignored.")
    max_tool_calls: Whole | None = Field(None, description="Of tools that run here, so ignored.")


@dataclass(frozen=True, slots=True)
class Asked:
    """turn: to be answered. base: the object of the answer, as far as it is known before."""

    turn: Turn
    base: Json


def check(body: ResponsesBody) -> None:
    """DoorError for what is not offered here."""
    if body.has("conversation"):
        raise invalid("conversation: there are none here; send previous_response_id, or all items", "conversation")
    if body.has("prompt"):
        raise invalid("prompt: there are no stored prompts here; send instructions and input", "prompt")
    if body.background and not body.store:
        raise invalid("background: it needs store to be true", "background")


def asked_of(
    body: ResponsesBody,
    items: Sequence[Json],
    view: ModelView,
    head: Mapping[str, object],
    tokens_of: Mapping[str, Sequence[int]] | None = None,
) -> Asked:
    """Pure. DoorError names the field. items: of the whole conversation. head: id and created_at."""
    check(body)
    messages = messages_of(items, body.instructions)
    given, skipped = _functions(body.tools)
    tools = _chosen(given, body.tool_choice, skipped)
    if body.grammar and tools.tools and tools.choice != "none":
        raise invalid("grammar: it cannot be had together with tools; leave one of them out", "grammar")
    schema = _schema(body)
    effort = _effort(body)
    is_own = messages[-1]["role"] == "assistant"
    continues = is_own and "tool_calls" not in messages[-1]
    turn = Turn(
        messages=messages,
        tools=tools.tools,
        tool_choice=tools.choice,
        tool_name=tools.name,
        parallel_tool_calls=body.parallel_tool_calls,
        sampling=body.sampling(view.args, view.n_vocab, tokens_of),
        seed=body.seed_or(view.args),
        max_tokens=body.max_output_tokens or body.max_tokens_or(view.args),
        stops=body.stop,
        n_logprobs=body.top_logprobs or 0 if body.top_logprobs is not None or LOGPROBS in body.include else None,
        output_schema=schema,
        grammar=body.grammar,
        reasoning_effort=None if effort == "none" else effort,
        thinks=False if effort == "none" else None,
        template_options=body.chat_template_kwargs,
        add_generation_prompt=not continues,
        continues=continues,
        cache_key=body.prompt_key(),
        reuses=body.cache_prompt,
    )
    return Asked(turn, _base(body, turn, given, view, head))


# -- what is asked for


def _functions(value: JsonValue) -> tuple[list[JsonValue], bool]:
    """The functions among the tools, and whether there were others, which a provider would run."""
    if value is None:
        return [], False
    if not isinstance(value, list):
        raise invalid(f"tools: a list is wanted (given: {shown(value)})", "tools")
    for index, tool in enumerate(value):
        if not isinstance(tool, dict) or not isinstance(tool.get("type"), str):
            raise invalid(f"tools[{index}]: an object with a type is wanted (given: {shown(tool)})", f"tools[{index}]")
    functions = [_flat(tool) for tool in value if isinstance(tool, dict) and tool["type"] == "function"]
    return functions, len(functions) < len(value)


def _flat(tool: dict[str, JsonValue]) -> JsonValue:
    """A function in this interface's form. One in the form of chat completions is converted."""
    within = tool.get("function")
    return {"type": "function", **within} if isinstance(within, dict) else tool


def _chosen(functions: Sequence[JsonValue], choice: JsonValue, skipped: bool) -> Tools:
    nested: list[JsonValue] = []
    for tool in functions:
        assert isinstance(tool, dict)
        nested.append({"type": "function", "function": {key: part for key, part in tool.items() if key != "type"}})
    if not nested and skipped and choice is not None and choice != "none":
        choice = "auto"  # it was one of the skipped tools
    try:
        return tools_of(nested, _nested(choice))
    except DoorError as error:
        raise invalid(str(error).replace("].function", "]"), (error.param or "").replace("].function", "]")) from None


def _nested(choice: JsonValue) -> JsonValue:
    """A choice in the form of chat completions."""
    if not isinstance(choice, dict):
        return choice
    kind = choice.get("type")
    if kind == "function" and "function" not in choice:
        return {"type": "function", "function": {"name": choice.get("name")}}
    if kind == "allowed_tools" and "allowed_tools" not in choice:
        given = choice.get("tools")
        some = [_nested(tool) for tool in given if _is_function(tool)] if isinstance(given, list) else given
        return {"type": "allowed_tools", "allowed_tools": {"mode": choice.get("mode", "auto"), "tools": some}}
    return choice if kind in ("function", "allowed_tools") else "auto"  # a tool that a provider would run


def _is_function(tool: JsonValue) -> bool:
    return not isinstance(tool, dict) or tool.get("type", "function") == "function"


def _schema(body: ResponsesBody) -> dict[str, JsonValue] | bool | None:
    """The schema in text.format or json_schema."""
    schema = body.schema_or_none()
    given = _format(body)
    kind = given.get("type")
    if kind == "text":
        return schema
    if schema is not None or body.grammar:
        raise invalid("text.format: json_schema or grammar is given too; send one of them", "text.format")
    if kind == "json_object":
        return schema_of(given.get("schema") or {}, "text.format.schema")
    within = given.get("json_schema")
    found = within.get("schema") if isinstance(within, dict) else given.get("schema")
    if found is None:
        raise invalid("text.format.schema is missing", "text.format.schema")
    return schema_of(found, "text.format.schema")


def _format(body: ResponsesBody) -> dict[str, JsonValue]:
    text = _object(body.text, "text")
    given = text.get("format")
    if given is None:
        return {"type": "text"}
    kind = given.get("type", "text") if isinstance(given, dict) else None
    if not isinstance(given, dict) or kind not in ("text", "json_object", "json_schema"):
        wanted = "its type is text, json_object or json_schema"
        raise invalid(f"text.format: {wanted} (given: {shown(given)})", "text.format")
    return {**given, "type": kind}


def _effort(body: ResponsesBody) -> str | None:
    effort = _object(body.reasoning, "reasoning").get("effort")
    if effort is not None and not (isinstance(effort, str) and len(effort) <= 64):
        raise invalid(f"reasoning.effort: a short text is wanted (given: {shown(effort)})", "reasoning.effort")
    return effort


def _object(value: JsonValue, name: str) -> dict[str, JsonValue]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise invalid(f"{name}: an object is wanted (given: {shown(value)})", name)
    return value


# -- what is told again


def _base(
    body: ResponsesBody, turn: Turn, functions: Sequence[JsonValue], view: ModelView, head: Mapping[str, object]
) -> Json:
    choice = body.tool_choice if isinstance(body.tool_choice, dict) and turn.tool_name else turn.tool_choice
    told: dict[str, Any] = {
        **head,
        "object": "response",
        "model": view.name,
        "background": body.background,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "max_tool_calls": body.max_tool_calls,
        "metadata": body.metadata,
        "parallel_tool_calls": body.parallel_tool_calls,
        "previous_response_id": body.previous_response_id,
        "prompt_cache_key": body.prompt_cache_key,
        "reasoning": {"effort": _effort(body), "summary": None},
        "safety_identifier": body.safety_identifier,
        "service_tier": "default",
        "store": body.store,
        "temperature": turn.sampling.temperature,
        "text": {"format": _format(body), "verbosity": _object(body.text, "text").get("verbosity") or "medium"},
        "tool_choice": choice,
        "tools": [_told_tool(tool) for tool in functions if isinstance(tool, dict)],
        "top_logprobs": body.top_logprobs or 0,
        "top_p": turn.sampling.top_p,
        "truncation": "disabled",
        "user": body.user,
    }
    return told


def _told_tool(tool: dict[str, JsonValue]) -> Json:
    return {"parameters": None, "strict": True, "description": None, **tool}
