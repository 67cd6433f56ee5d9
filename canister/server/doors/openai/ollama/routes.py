"""`/api/chat`, `/api/generate` and the views of models, for tools that know only Ollama."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass

from fastapi import Request, Response
from pydantic import BaseModel, JsonValue
from starlette.routing import Route

from canister.api.rest_only import PROPS
from canister.api.rest_records import Props
from canister.dispatch import herd_answers
from canister.server import answers
from canister.server.doors.openai import chat, completions, door, fields, infill, kept
from canister.server.doors.openai.chat import ChatBody
from canister.server.doors.openai.completions import CompletionBody
from canister.server.doors.openai.door import Handler, Model
from canister.server.doors.openai.errors import DoorError, ollama_form
from canister.server.doors.openai.events import Begun, Done, Event
from canister.server.doors.openai.ollama import embeddings, models, request
from canister.server.doors.openai.ollama.answer import About, Kind, Stream, joined, loaded, sent
from canister.server.doors.openai.operations import Operation
from canister.server.doors.openai.stream import NDJSON, streamed
from canister.server.doors.openai.turn import Turn
from canister.server.requests import while_connected
from canister.system import distribution

OPERATORS = "models are for the server's operator: 'canister models' loads, fetches and removes them"

_MODEL = {"model": "llama_cpp"}
_ASK = {"messages": [{"role": "user", "content": "Who are you?"}]}

OPERATIONS = (
    Operation(
        "POST",
        "/api/chat",
        "ollama_chat",
        "Ollama's chat: streamed unless `stream` is false.",
        example={**_MODEL, **_ASK},
        streams=NDJSON,
        differs=(
            "Not without `/api`. Models are not pushed, made, copied or deleted here: that is refused; a pull of one "
            "that is there succeeds.",
            "`keep_alive`, and `options` that are about loading a model, such as `num_ctx`, are ignored. What does not "
            "fit into the context is refused, never cut off.",
            '`tool_choice` is taken as OpenAI has it. Errors are `{"error": "text"}`.',
        ),
    ),
    Operation(
        "POST",
        "/api/generate",
        "ollama_generate",
        "Ollama's text that goes on where a prompt ends.",
        example={**_MODEL, "prompt": "Once upon a time"},
        streams=NDJSON,
        differs=("`template` and `context` are refused: send `raw`, or messages to `/api/chat`.",),
    ),
    *embeddings.OPERATIONS,
    Operation("POST", "/api/show", "ollama_show", "One model in detail.", example=_MODEL),
    Operation("GET", "/api/tags", "ollama_tags", "The models that the caller may use."),
    Operation("GET", "/api/ps", "ollama_ps", "The models that are loaded."),
    Operation("GET", "/api/version", "ollama_version", "The version of Ollama's interface that is answered."),
)


def routes() -> list[Route]:
    verbs: dict[str, Mapping[str, Handler]] = {
        "/api/chat": {"POST": create_chat},
        "/api/generate": {"POST": create_text},
        "/api/embed": {"POST": embeddings.create},
        "/api/embeddings": {"POST": embeddings.create_one},
        "/api/show": {"POST": show},
        "/api/tags": {"GET": tags},
        "/api/ps": {"GET": running},
        "/api/version": {"GET": version},
        "/api/pull": {"POST": pull},
        "/api/push": {"POST": for_operators},
        "/api/create": {"POST": for_operators},
        "/api/copy": {"POST": for_operators},
        "/api/delete": {"DELETE": for_operators},
        "/api/blobs/{digest}": {"POST": for_operators, "GET": for_operators},
    }
    return [door.at(prefix + path, taken, ollama_form) for prefix in ("", door.PREFIX) for path, taken in verbs.items()]


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request in OpenAI's form. name: of the model, as it was asked for. suffix: what follows the place to fill in;
    None: nothing is filled in.
    """

    name: str
    is_streamed: bool
    is_empty: bool
    wants_logprobs: bool
    body: ChatBody | CompletionBody
    suffix: str | None = None


# -- answers


async def create_chat(request: Request) -> Response:
    return await _create(request, "chat", _chat)


async def create_text(request: Request) -> Response:
    return await _create(request, "generate", _text)


async def _create(asking: Request, kind: Kind, read: Callable[[dict[str, JsonValue]], _Asked]) -> Response:
    data = await door.raw_body(asking)
    asked = await door.aside(len(data), lambda: read(fields.object_of(data)))
    model = door.model_of(asking, asked.body.model)
    about = About(kind, asked.name or model.view.name, time.time_ns, asked.wants_logprobs)
    with door.counted(model, f"ollama_{kind}"):
        if asked.is_empty:
            return _one(loaded(about))

        async def make() -> kept.Made:
            return kept.Made(await _turn(model, asked), {})

        stream = Stream(about)
        wish = kept.Wish(f"ollama_{kind}", herd_answers.drawn("id", 12).hex(), data)
        events = (await while_connected(asking, kept.ask(asking, model, wish, make))).events
        if asked.is_streamed:
            return await streamed(
                asking,
                _frames(events, stream),
                lambda error: sent(ollama_form(error, "")),
                media_type=NDJSON,
                comment=sent(stream.empty()),
            )
        return await while_connected(asking, _whole(events, stream))


def _chat(body: dict[str, JsonValue]) -> _Asked:
    is_empty = request.asks_for_nothing(body)
    # In a request without a prompt only the model counts.
    found = request.chat_body({"model": body.get("model"), "messages": []} if is_empty else body)
    return _asked(body, fields.read_value(ChatBody, found), is_empty=is_empty)


def _text(body: dict[str, JsonValue]) -> _Asked:
    is_empty = request.asks_for_nothing(body)
    if is_empty or not request.is_raw(body):
        return _asked(body, fields.read_value(ChatBody, request.generate_body(body)), is_empty=is_empty)
    suffix = body.get("suffix")
    if suffix is not None and not isinstance(suffix, str):
        raise fields.misfit("suffix", "a text", suffix)
    return _asked(body, fields.read_value(CompletionBody, request.raw_body(body)), suffix=suffix or None)


def _asked(
    body: Mapping[str, JsonValue],
    found: ChatBody | CompletionBody,
    *,
    is_empty: bool = False,
    suffix: str | None = None,
) -> _Asked:
    name = body.get("model")
    return _Asked(
        name=name if isinstance(name, str) else "",
        is_streamed=request.is_streamed(body),
        is_empty=is_empty,
        wants_logprobs=body.get("logprobs") is True,
        body=found,
        suffix=suffix,
    )


async def _turn(model: Model, asked: _Asked) -> Turn:
    body = asked.body
    if isinstance(body, ChatBody):
        return await chat.turn_for(model, body)
    (turn,) = completions.turns_of(body, model.view)
    return turn if asked.suffix is None else await infill.filled(model, turn, asked.suffix)


async def _frames(events: AsyncGenerator[Event], stream: Stream) -> AsyncGenerator[bytes]:
    async with aclosing(events):
        async for event in events:
            lines = stream.feed(event)
            if lines or isinstance(event, Begun):  # when it is admitted, the head goes out
                yield b"".join(map(sent, lines))


async def _whole(events: AsyncGenerator[Event], stream: Stream) -> Response:
    lines: list[dict[str, JsonValue]] = []
    headers: dict[str, str] = {}
    async with aclosing(events):
        async for event in events:
            lines += stream.feed(event)
            if isinstance(event, Done):
                headers = door.usage_headers(event.usage)
    return _one(joined(stream.about.kind, lines), headers)


# -- models


class Named(BaseModel):
    """A request about a model. Older clients say name."""

    model: str | None = None
    name: str | None = None
    stream: bool | None = None


async def show(asking: Request) -> Response:
    named = await door.body_of(asking, Named)
    model = door.model_of(asking, _name(named))
    reply = await model.canister.execute(PROPS, model.caller, lambda: None)
    if reply.error is not None:
        raise reply.error
    assert isinstance(reply.value, Props)
    return _one(models.shown(model.view, reply.value))


async def tags(asking: Request) -> Response:
    return _one({"models": [models.listed(model.view) for model in door.models_of(asking)]})


async def running(asking: Request) -> Response:
    return _one({"models": [models.running(model.view) for model in door.models_of(asking)]})


async def version(asking: Request) -> Response:
    return _one({"version": models.VERSION, "server": f"llama-canister {distribution.version()}"})


async def pull(asking: Request) -> Response:
    """Succeeds for an existing model. Others are not downloaded for a request."""
    named = await door.body_of(asking, Named)
    door.find_model(asking, str(request.bare_name(_name(named)) or ""))
    return _one({"status": "success"}, media_type=answers.JSON if named.stream is False else NDJSON)


async def for_operators(asking: Request) -> Response:
    raise DoorError(501, OPERATORS)


def _name(named: Named) -> str | None:
    return named.model or named.name


def _one(
    content: Mapping[str, JsonValue], headers: Mapping[str, str] | None = None, media_type: str = answers.JSON
) -> Response:
    return Response(sent(content), headers=dict(headers or {}), media_type=media_type)
