"""`/api/embed` and the older `/api/embeddings`: vectors of texts in Ollama's forms."""

from __future__ import annotations

import json
import time

from fastapi import Request, Response
from pydantic import Field, JsonValue

from canister.server.answers import JSON
from canister.server.doors.openai import door
from canister.server.doors.openai.door import Model
from canister.server.doors.openai.embeddings import (
    VALUES_AT_ONCE,
    Given,
    check_dimensions,
    cut,
    embedded,
    numbers,
    texts_of,
)
from canister.server.doors.openai.fields import Body, Text, Whole, Yes
from canister.server.doors.openai.ollama.request import LATEST
from canister.server.doors.openai.operations import Operation
from canister.server.requests import while_connected

_MODEL = {"model": "llama_cpp"}

OPERATIONS = (
    Operation(
        "POST",
        "/api/embed",
        "ollama_embed",
        "Ollama's vectors of texts, of length 1.",
        example={**_MODEL, "input": ["Who are you?"]},
        differs=("`options` and `keep_alive` are ignored. Unless `truncate` is false, a long text is cut off.",),
    ),
    Operation(
        "POST",
        "/api/embeddings",
        "ollama_embeddings",
        "The older form: the vector of one text, as the model gives it.",
        example={**_MODEL, "prompt": "Who are you?"},
    ),
)


class EmbedBody(Body):
    model: Text | None = None
    input: JsonValue = None
    truncate: Yes = True
    dimensions: Whole | None = None


class OldEmbedBody(Body):
    model: Text | None = None
    prompt: Text = Field("")


async def create(request: Request) -> Response:
    started = time.perf_counter_ns()
    body = await door.body_of(request, EmbedBody)
    model = _model(request, body.model)
    name = json.dumps(body.model or model.view.name)
    if not body.input:
        return Response(f'{{"model":{name},"embeddings":[]}}', media_type=JSON)
    texts = texts_of(body.input)
    dimensions = body.dimensions if body.dimensions is not None and body.dimensions > 0 else None
    check_dimensions(dimensions, model.view.n_embd)
    with door.counted(model, "ollama_embed"):
        made = await while_connected(request, embedded(model, texts, truncates=body.truncate))

        def written() -> str:
            return ",".join(numbers(cut(vector, dimensions)) for vector in made.normalized())

        vectors = await door.beside_loop(sum(map(len, made.vectors)) > VALUES_AT_ONCE, written)
    told = f'"total_duration":{time.perf_counter_ns() - started},"load_duration":0'
    return Response(
        f'{{"model":{name},"embeddings":[{vectors}],{told},"prompt_eval_count":{sum(made.n_tokens)}}}', media_type=JSON
    )


async def create_one(request: Request) -> Response:
    body = await door.body_of(request, OldEmbedBody)
    model = _model(request, body.model)
    if not body.prompt:
        return Response('{"embedding":[]}', media_type=JSON)
    texts: list[Given] = [body.prompt]
    with door.counted(model, "ollama_embeddings"):
        made = await while_connected(request, embedded(model, texts, "prompt", truncates=True))
    return Response(f'{{"embedding":{numbers(made.vectors[0])}}}', media_type=JSON)


def _model(request: Request, name: str | None) -> Model:
    return door.model_of(request, None if name is None else name.removesuffix(LATEST))
