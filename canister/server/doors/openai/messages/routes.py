"""`POST /v1/messages` and `/v1/messages/count_tokens`, for Claude Code and Anthropic's SDKs."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

from fastapi import Request, Response
from starlette.routing import Route

from canister.dispatch import herd_answers
from canister.server import answers
from canister.server.doors.openai import chat, counting, door, fields, kept
from canister.server.doors.openai.chat import ChatBody
from canister.server.doors.openai.errors import DoorError, anthropic_form
from canister.server.doors.openai.events import Done, Event, Usage
from canister.server.doors.openai.messages import answer
from canister.server.doors.openai.messages.answer import About, Stream
from canister.server.doors.openai.messages.request import chat_body, hides_thoughts
from canister.server.doors.openai.operations import Operation
from canister.server.doors.openai.stream import SSE, streamed
from canister.server.requests import while_connected

KIND = "messages"

_EXAMPLE = {"messages": [{"role": "user", "content": "Who are you?"}], "max_tokens": 64}

OPERATIONS = (
    Operation(
        "POST",
        "/v1/messages",
        "create_message",
        "Anthropic's Messages: the assistant's next message, whole or as it comes.",
        example=_EXAMPLE,
        streams=SSE,
        differs=(
            "Texts, thoughts, tool calls and their results are taken, and documents that are text; images and PDFs are "
            "refused with 400. Tools that Anthropic runs itself, such as web search, are left out.",
            "`max_tokens` may be missing: until the context is full. `temperature`, `top_k` and llama.cpp's other "
            "settings are taken at the top level. `thinking.budget_tokens` is not enforced.",
            "`message_start` counts the whole prompt; what of it was cached, and what the answer "
            "costs, is told by `message_delta`.",
            'Errors are `{"type": "error", "error": {"type", "message"}, "request_id"}`.',
        ),
    ),
    Operation(
        "POST",
        "/v1/messages/count_tokens",
        "count_message_tokens",
        "How many tokens the prompt of such a request has.",
        example=_EXAMPLE,
    ),
)


def routes() -> list[Route]:
    return [
        *door.route("/v1/messages", {"POST": create}, anthropic_form),
        *door.route("/v1/messages/count_tokens", {"POST": count}, anthropic_form),
    ]


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request in OpenAI's form, and what is Anthropic's alone."""

    body: ChatBody
    hides_thoughts: bool


async def create(request: Request) -> Response:
    data, asked = await _asked(request)
    model = door.model_of(request, asked.body.model)
    with door.counted(model, KIND):

        async def make() -> kept.Made:
            return kept.Made(await chat.turn_for(model, asked.body), {"id": answer_id})

        answer_id = f"msg_{herd_answers.drawn('id', 12).hex()}"
        begun = await while_connected(request, kept.ask(request, model, kept.Wish(KIND, answer_id, data), make))
        about = About(begun.about["id"], model.view.name, asked.hides_thoughts)
        if asked.body.stream:

            def failed(error: DoorError) -> bytes:
                return answer.failed(anthropic_form(error, door.request_id(request)))

            return _with_id(
                request,
                await streamed(
                    request,
                    _frames(begun.events, about),
                    failed,
                    comment=answer.PING,
                    quiet_seconds=asked.body.silences(),
                ),
            )
        made = await while_connected(request, _all(begun.events))
        return _with_id(request, answers.document(answer.whole(about, made), headers=door.usage_headers(_usage(made))))


async def count(request: Request) -> Response:
    _, asked = await _asked(request)
    model = door.model_of(request, asked.body.model)
    with door.counted(model, "count_tokens"):
        turn = await chat.turn_for(model, asked.body)
        n_tokens = await while_connected(request, counting.n_tokens_of(model, turn))
    return _with_id(request, answers.document({"input_tokens": n_tokens}))


async def _asked(request: Request) -> tuple[bytes, _Asked]:
    data = await door.raw_body(request)
    return data, await door.aside(len(data), lambda: _read(data))


def _read(data: bytes) -> _Asked:
    body = fields.object_of(data)
    return _Asked(fields.read_value(ChatBody, chat_body(body)), hides_thoughts(body))


async def _frames(events: AsyncGenerator[Event], about: About) -> AsyncGenerator[bytes]:
    stream = Stream(about)
    async with aclosing(events):
        async for event in events:
            if frame := stream.feed(event):
                yield frame


async def _all(events: AsyncGenerator[Event]) -> list[Event]:
    async with aclosing(events):
        return [event async for event in events]


def _usage(events: list[Event]) -> Usage:
    last = events[-1]
    return last.usage if isinstance(last, Done) else Usage(0, 0, 0)


def _with_id(request: Request, response: Response) -> Response:
    """The request's id, where Anthropic's clients look for it."""
    response.headers["request-id"] = door.request_id(request)
    return response
