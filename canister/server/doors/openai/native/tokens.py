"""`POST /tokenize` and `/detokenize`, as llama.cpp's server has them."""

from __future__ import annotations

import asyncio
import itertools
from typing import Annotated

from fastapi import Request, Response
from pydantic import BaseModel, Field, JsonValue, TypeAdapter
from starlette.routing import Route

from canister.api.methods import Method
from canister.api.rest_only import DETOKENIZE, TOKENIZE
from canister.api.rest_records import (
    MAX_TOKENS,
    MAX_TOKENS_ALONE,
    DetokenizeInput,
    DetokenizeOutput,
    Piece,
    TokenizeInput,
    TokenizeOutput,
)
from canister.dispatch import Reply
from canister.server import answers
from canister.server.doors.openai import door
from canister.server.doors.openai.door import Model
from canister.server.doors.openai.fields import Body, Count, Text, Yes
from canister.server.doors.openai.native.prompts import Prompt, pieces_of
from canister.server.doors.openai.operations import Operation
from canister.server.requests import while_connected

AT_ONCE = 5000  # tokens that are encoded without a break

_TOKENS = TypeAdapter[list[int] | list[Piece]](list[int] | list[Piece])


class TokenizeBody(Body):
    model: Text | None = Field(None, description="A canister's name; absent: the first.")
    content: JsonValue = Field("", description="A text, or a list of texts and tokens.")
    add_special: Yes = Field(False, description="BOS comes first where the model has it so.")
    parse_special: Yes = Field(True, description="The likes of <|im_end|> are tokens, not texts.")
    with_pieces: Yes = Field(False, description="The text of each token too, or its bytes.")


class DetokenizeBody(Body):
    model: Text | None = Field(None, description="A canister's name; absent: the first.")
    tokens: Annotated[tuple[Count, ...], Field(max_length=MAX_TOKENS)] = Field((), description="Numbers of tokens.")


OPERATIONS = (
    Operation(
        "POST",
        "/tokenize",
        "tokenize_text",
        "The tokens of a text, as the model has them.",
        body=TokenizeBody,
        example={"content": "Who are you?", "with_pieces": True},
        differs=(
            "Not with `/v1`. A text that is longer than the context is read in pieces, so that some tokens differ.",
            f"At most {MAX_TOKENS_ALONE} tokens are told at once, {MAX_TOKENS} with their texts.",
        ),
    ),
    Operation(
        "POST",
        "/detokenize",
        "detokenize_tokens",
        "The text of tokens; special ones are shown.",
        body=DetokenizeBody,
        example={"tokens": [1, 2]},
        differs=("Not with `/v1`.",),
    ),
)


def routes() -> list[Route]:
    verbs = {"/tokenize": tokenize, "/detokenize": detokenize}
    return [
        door.at(prefix + path, {"POST": handler}) for prefix in ("", door.PREFIX) for path, handler in verbs.items()
    ]


async def tokenize(request: Request) -> Response:
    body = await door.body_of(request, TokenizeBody)
    content = pieces_of(body.content, "content")
    model = door.model_of(request, body.model)
    asked = TokenizeInput(
        content=content if isinstance(content, str) else [*content],
        add_special=body.add_special,
        parse_special=body.parse_special,
        with_pieces=body.with_pieces,
    )
    return await while_connected(request, _answer(model, TOKENIZE, asked))


async def detokenize(request: Request) -> Response:
    body = await door.body_of(request, DetokenizeBody)
    model = door.model_of(request, body.model)
    return await while_connected(request, _answer(model, DETOKENIZE, DetokenizeInput(tokens=[*body.tokens])))


async def _answer(model: Model, row: Method, asked: TokenizeInput | DetokenizeInput) -> Response:
    with door.counted(model, row.name):
        reply = await _run(model, row, asked)
    assert isinstance(reply.value, BaseModel)
    data = await asyncio.to_thread(_encoded, reply.value)
    return Response(data, headers=answers.cost_headers(reply.charge), media_type=answers.JSON)


def _encoded(value: BaseModel) -> bytes:
    """Tokens may be many, and what encodes them holds the interpreter's lock: so some at a time."""
    if not isinstance(value, TokenizeOutput):
        return value.model_dump_json().encode()
    tokens = value.tokens
    parts = (_TOKENS.dump_json(tokens[at : at + AT_ONCE])[1:-1] for at in range(0, len(tokens), AT_ONCE))
    return b'{"tokens":[' + b",".join(parts) + b"]}"


async def _run(model: Model, row: Method, asked: TokenizeInput | DetokenizeInput) -> Reply:
    reply = await model.canister.execute(row, model.caller, lambda: asked)
    if reply.error is not None:
        raise reply.error
    return reply


async def text_of(model: Model, prompt: Prompt) -> str:
    """A prompt as text, special tokens shown."""
    if isinstance(prompt, str):
        return prompt
    texts: list[str] = []
    for is_text, parts in itertools.groupby(prompt, key=lambda part: isinstance(part, str)):
        if is_text:
            texts += map(str, parts)
            continue
        asked = DetokenizeInput(tokens=[part for part in parts if isinstance(part, int)])
        value = await _run(model, DETOKENIZE, asked)
        assert isinstance(value.value, DetokenizeOutput)
        texts.append(value.value.content)
    return "".join(texts)
