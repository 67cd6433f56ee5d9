"""`POST /v1/chat/completions`: a conversation in, the assistant's next message out, whole or as it comes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import asdict
from typing import Annotated

from fastapi import Request, Response
from pydantic import Field, JsonValue
from starlette.routing import Route

from canister.api import strict_json
from canister.dispatch import ModelView, herd_answers
from canister.flags.parse import RunArgs
from canister.server import answers
from canister.server.doors.openai import chat_answer, door, kept, run
from canister.server.doors.openai.chat_messages import messages_of, tools_of
from canister.server.doors.openai.door import Model
from canister.server.doors.openai.errors import invalid, openai_failed
from canister.server.doors.openai.fields import (
    MOST_LOGPROBS,
    GenerationFields,
    Text,
    Whole,
    Yes,
    read,
    schema_of,
    shown,
)
from canister.server.doors.openai.operations import Operation
from canister.server.doors.openai.stream import SSE, streamed
from canister.server.doors.openai.turn import Turn
from canister.server.requests import while_connected

KIND = "chat_completions"
EXAMPLE = {"messages": [{"role": "user", "content": "Who are you?"}], "max_tokens": 64}

Schema = dict[str, JsonValue] | bool | None


class ChatBody(GenerationFields):
    """A chat request. `turn_of` checks messages, tools and formats, and names what is wrong in them."""

    messages: JsonValue = Field(None, description="system, developer, user, assistant and tool; texts alone.")
    logprobs: Yes = Field(False, description="Probabilities of the answer's tokens.")
    top_logprobs: Annotated[Whole, Field(ge=0, le=MOST_LOGPROBS)] | None = Field(
        None, description="And of so many likeliest ones at each place."
    )
    response_format: JsonValue = Field(None, description="text, json_object, json_schema.")
    tools: JsonValue = Field(None, description="Functions that may be called.")
    tool_choice: JsonValue = Field(None, description="none, auto, required, or a function's name in an object.")
    parallel_tool_calls: Yes = Field(
        True, description="Several calls in one message; one where `tool_choice` names a function."
    )
    reasoning_effort: Annotated[Text, Field(max_length=64)] | None = Field(
        None, description="For the template; none: no thoughts."
    )
    reasoning_format: Text | None = Field(None, description="none: thoughts stay in content.")
    chat_template_kwargs: dict[str, JsonValue] = Field({}, description="Variables of the template.")
    add_generation_prompt: Yes | None = Field(None, description="false: the prompt ends with the last message.")
    continue_final_message: Yes | None = Field(
        None, description="The last message, which is the assistant's, is continued."
    )


OPERATIONS = (
    Operation(
        "POST",
        "/v1/chat/completions",
        "chat_completion",
        "The assistant's next message in a conversation, whole or as it comes.",
        streams=SSE,
        example=EXAMPLE,
        body=ChatBody,
        differs=(
            "Messages are text: images, audio and files are refused with 400.",
            "Without `max_tokens` an answer goes on until the model ends it, or the context is full.",
            "A last message of the assistant is continued; only what is new comes back.",
            "Thoughts are `reasoning_content`, and are taken back under this name or `reasoning`.",
            "`usage` also tells `instructions`, `cycles`, `calls` and `receipts`, the ids of their receipts; "
            "`timings` are as llama.cpp's server has them.",
            "Fields that are not in the table are ignored, such as `store`, `metadata`, `user` and `service_tier`.",
        ),
    ),
)


def routes() -> list[Route]:
    return door.route("/v1/chat/completions", {"POST": create})


async def create(request: Request) -> Response:
    data = await door.raw_body(request)
    body = await door.aside(len(data), lambda: read(ChatBody, data))
    model = door.model_of(request, body.model)
    with door.counted(model, KIND):

        async def make() -> kept.Made:
            return kept.Made(await turn_for(model, body), asdict(begun))

        begun = head_of(body, model.view)
        asked = await while_connected(request, kept.ask(request, model, kept.Wish(KIND, begun.id, data), make))
        events, head = asked.events, chat_answer.Head(**asked.about)
        if body.stream:
            return await streamed(
                request,
                chat_answer.stream(events, head, body.n),
                openai_failed,
                quiet_seconds=body.silences(),
                source=events,
            )
        async with aclosing(events):
            answer, usage = await while_connected(request, chat_answer.whole(events, head))
        return answers.document(answer, headers=door.usage_headers(usage))


async def turn_for(model: Model, body: ChatBody) -> Turn:
    """The turn of a body. Texts in its logit_bias are tokenized for it."""
    texts = body.bias_texts()
    tokens_of = await run.tokens_of(model, texts) if texts else {}
    is_large = strict_json.is_large(body.messages, body.tools, body.chat_template_kwargs, body.logit_bias)
    return await door.beside_loop(is_large, lambda: turn_of(body, model.view, tokens_of))


def turn_of(body: ChatBody, view: ModelView, tokens_of: Mapping[str, Sequence[int]] | None = None) -> Turn:
    """The turn of a body. Pure. DoorError names the field. tokens_of: of texts in logit_bias."""
    defaults = view.args
    messages = messages_of(body.messages) if body.has("messages") else None
    if messages is None:
        raise invalid("messages is missing", "messages")
    tools = tools_of(body.tools, body.tool_choice)
    schema = _schema(body)
    if body.grammar and (tools.tools and tools.choice != "none"):
        raise invalid("grammar: it cannot be had together with tools; leave one of them out", "grammar")
    continues = _continues(body, messages[-1])
    options = _options(body, defaults)
    effort = body.reasoning_effort or defaults.reasoning_effort or None
    return Turn(
        messages=messages,
        tools=tools.tools,
        tool_choice=tools.choice,
        tool_name=tools.name,
        parallel_tool_calls=body.parallel_tool_calls,
        sampling=body.sampling(defaults, view.n_vocab, tokens_of),
        seed=body.seed_or(defaults),
        max_tokens=body.max_tokens_or(defaults),
        stops=body.stop,
        n=body.choices(view.n_slots),
        n_logprobs=_n_logprobs(body),
        output_schema=schema,
        grammar=body.grammar,
        reasoning_effort=None if effort == "none" else effort,
        thinks=_thinks(effort, options, defaults),
        splits_thoughts=(body.reasoning_format or defaults.reasoning_format) != "none",
        template_options=options,
        add_generation_prompt=not continues and body.add_generation_prompt is not False,
        continues=continues,
        cache_key=body.prompt_key(),
        reuses=body.cache_prompt,
        wants_progress=body.stream and body.return_progress,
        wants_timings=body.stream and body.timings_per_token,
    )


def head_of(body: ChatBody, view: ModelView) -> chat_answer.Head:
    return chat_answer.Head(
        id=f"chatcmpl-{herd_answers.drawn('id', 16).hex()}",
        created=herd_answers.asked_at(),
        model=view.name,
        fingerprint=view.fingerprint,
        wants_logprobs=body.logprobs,
        wants_usage=body.stream_options.include_usage,
        wants_prompt=body.verbose,
    )


def _n_logprobs(body: ChatBody) -> int | None:
    if not body.logprobs and body.top_logprobs is not None:
        raise invalid("top_logprobs: it needs logprobs to be true", "top_logprobs")
    return (body.top_logprobs or 0) if body.logprobs else None


def _continues(body: ChatBody, last: Mapping[str, JsonValue]) -> bool:
    """Does the answer continue the last message?"""
    is_own = last["role"] == "assistant"
    if body.continue_final_message:
        if body.add_generation_prompt:
            raise invalid(
                "continue_final_message and add_generation_prompt exclude each other: set one of them",
                "continue_final_message",
            )
        if not is_own:
            raise invalid("continue_final_message: the last message is not the assistant's", "continue_final_message")
    continues = body.continue_final_message or (is_own and body.continue_final_message is None)
    if continues and "tool_calls" in last:
        raise invalid("messages: a message with tool calls cannot be continued", "messages")
    return continues


def _options(body: ChatBody, defaults: RunArgs) -> dict[str, JsonValue]:
    """Variables of the template: the body's, and those of the flags where it has none."""
    own: dict[str, JsonValue] = {} if defaults.reasoning_preserve else {"preserve_reasoning": False}
    return {**own, **json.loads(defaults.chat_template_kwargs or "{}"), **body.chat_template_kwargs}


def _thinks(effort: str | None, options: Mapping[str, JsonValue], defaults: RunArgs) -> bool | None:
    """Are there thoughts before the answer? None: as the template has it."""
    if effort == "none":
        return False
    thinks = options.get("enable_thinking")
    if thinks is None:
        return None if defaults.reasoning == "auto" else defaults.reasoning == "on"
    if not isinstance(thinks, bool):
        name = "chat_template_kwargs.enable_thinking"
        raise invalid(f"{name}: true or false is wanted (given: {shown(thinks)})", name)
    return thinks


def _schema(body: ChatBody) -> Schema:
    """The schema in response_format or json_schema."""
    schema = body.schema_or_none()
    given = body.response_format if body.has("response_format") else None
    if given is None:
        return schema
    kind = given.get("type", "text") if isinstance(given, dict) else None
    if not isinstance(given, dict) or kind not in ("text", "json_object", "json_schema"):
        raise invalid(
            f"response_format: its type is text, json_object or json_schema (given: {shown(given)})", "response_format"
        )
    if kind == "text":
        return schema
    if schema is not None or body.grammar:
        raise invalid("response_format: json_schema or grammar is given too; send one of them", "response_format")
    if kind == "json_object":
        found = given.get("schema")
        return schema_of({} if found is None else found, "response_format.schema")
    return _named_schema(given)


def _named_schema(given: Mapping[str, JsonValue]) -> Schema:
    within = given.get("json_schema")
    if isinstance(within, dict) and within.get("schema") is not None:
        return schema_of(within["schema"], "response_format.json_schema.schema")
    if given.get("schema") is not None:
        return schema_of(given["schema"], "response_format.schema")
    raise invalid("response_format.json_schema.schema is missing", "response_format.json_schema.schema")
