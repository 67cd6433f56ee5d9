"""The number of tokens of a conversation, without an answer to it: `…/input_tokens` of OpenAI and llama.cpp."""

from __future__ import annotations

from fastapi import Request, Response
from starlette.routing import Route

from canister.server import answers
from canister.server.doors.openai import chat, door, run
from canister.server.doors.openai.chat import ChatBody
from canister.server.doors.openai.door import Model
from canister.server.doors.openai.errors import TOO_LONG, DoorError
from canister.server.doors.openai.operations import Operation
from canister.server.doors.openai.turn import Turn
from canister.server.requests import while_connected

OPERATIONS = (
    Operation(
        "POST",
        "/v1/chat/completions/input_tokens",
        "count_chat_tokens",
        "How many tokens the prompt of a chat request has.",
        body=ChatBody,
        example=chat.EXAMPLE,
    ),
)


def routes() -> list[Route]:
    return door.route("/v1/chat/completions/input_tokens", {"POST": of_chat})


async def of_chat(request: Request) -> Response:
    body = await door.body_of(request, ChatBody)
    model = door.model_of(request, body.model)
    with door.counted(model, "input_tokens"):
        n_tokens = await while_connected(request, n_tokens_of(model, await chat.turn_for(model, body)))
    return answers.document({"object": "response.input_tokens", "input_tokens": n_tokens})


async def n_tokens_of(model: Model, turn: Turn) -> int:
    """Of the prompt, also of one that is too long to be answered."""
    try:
        return (await run.admit(model, turn)).n_prompt
    except DoorError as error:
        n_prompt = error.extra.get("n_prompt_tokens")
        if error.code == TOO_LONG and isinstance(n_prompt, int):
            return n_prompt
        raise
