"""`POST /completion`, `/completions` and `/infill`, as llama.cpp's server has them: prompts that go in as they are."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from fastapi import Request, Response
from pydantic import JsonValue
from starlette.routing import Route

from canister.api import strict_json
from canister.api.rest_records import InfillInput
from canister.dispatch import herd_answers
from canister.server import answers
from canister.server.doors.openai import door, fields, infill, kept, run
from canister.server.doors.openai.door import Model
from canister.server.doors.openai.encoding import encoded, sse
from canister.server.doors.openai.errors import openai_failed
from canister.server.doors.openai.events import Event, Usage
from canister.server.doors.openai.native import tokens
from canister.server.doors.openai.native.answer import Answer
from canister.server.doors.openai.native.early_end import ended_early
from canister.server.doors.openai.native.prompts import Prompt, prompts_of
from canister.server.doors.openai.native.request import CompletionBody, InfillBody, about, infill_body, turn_of
from canister.server.doors.openai.operations import Operation
from canister.server.doors.openai.side_by_side import side_by_side
from canister.server.doors.openai.stream import SSE, streamed
from canister.server.doors.openai.turn import Turn
from canister.server.requests import while_connected

Json = dict[str, JsonValue]


KIND = "completion"
_NOT_V1 = "Not with `/v1`, where llama.cpp's server does not have it either."

OPERATIONS = (
    Operation(
        "POST",
        "/completion",
        "native_completion",
        "llama.cpp's own completion; `/completions` is the same.",
        body=CompletionBody,
        example={"prompt": "Once upon a time", "n_predict": 32},
        streams=SSE,
        differs=(_NOT_V1, "`id_slot` is ignored, slots are the server's choice."),
    ),
    Operation(
        "POST",
        "/infill",
        "infill",
        "What stands between two texts, for editors such as llama.vim; 501 for models that were not trained to it.",
        body=InfillBody,
        example={"input_prefix": "def half(x):\n    ", "input_suffix": "\n", "n_predict": 32},
        streams=SSE,
        differs=(_NOT_V1,),
    ),
)


def routes() -> list[Route]:
    """/v1/completions is OpenAI's."""
    verbs = {"/completion": create, "/completions": create, "/infill": fill_in}
    return [
        door.at(prefix + path, {"POST": handler}) for prefix in ("", door.PREFIX) for path, handler in verbs.items()
    ]


@dataclass(frozen=True, slots=True)
class _Asked:
    """data: the body as it came. is_list: the request had a list of prompts, so the answer is a list."""

    data: bytes
    body: CompletionBody
    prompts: Sequence[Prompt]
    is_list: bool


async def create(request: Request) -> Response:
    data = await door.raw_body(request)
    asked = await door.aside(len(data), lambda: _read(data))
    model = door.model_of(request, asked.body.model)
    with door.counted(model, KIND):
        return await _answered(request, model, asked)


async def fill_in(request: Request) -> Response:
    data = await door.raw_body(request)
    body = await door.aside(len(data), lambda: infill_body(fields.object_of(data)))
    model = door.model_of(request, body.model)
    with door.counted(model, "infill"):
        n_predict = body.max_tokens_or(model.view.args)
        wanted = InfillInput.model_validate(
            {
                "input_prefix": body.input_prefix,
                "input_suffix": body.input_suffix,
                "input_extra": body.input_extra,
                "prompt": body.prompt or "",
                "n_predict": -1 if n_predict is None else n_predict,
            }
        )
        prompt = await while_connected(request, infill.prompt_for(model, wanted))
        return await _answered(request, model, _Asked(data, body, [prompt], is_list=False))


def _read(data: bytes) -> _Asked:
    body = fields.read(CompletionBody, data)
    return _Asked(data, body, *prompts_of(body.prompt))


async def _answered(request: Request, model: Model, asked: _Asked) -> Response:
    body = asked.body
    sources = await while_connected(request, _sources(request, model, asked))
    made = _together(sources, max(1, model.view.n_slots // body.n_answers))
    if body.stream:
        return await streamed(
            request,
            _frames(made),
            openai_failed,
            quiet_seconds=body.silences(),
        )
    await while_connected(request, _drained(made))
    found = [one for source in sources for one in source.answer.whole()]
    content: JsonValue = [*found] if asked.is_list or len(found) > 1 else found[0]
    headers = door.usage_headers(_sum([source.answer.usage for source in sources]))
    return Response(encoded(content), headers=headers, media_type=answers.JSON)


# -- several prompts


@dataclass(frozen=True, slots=True)
class _Source:
    """A prompt's events, and the answer that they make."""

    events: AsyncGenerator[Event]
    answer: Answer


async def _sources(request: Request, model: Model, asked: _Asked) -> list[_Source]:
    """All prompts admitted, none begun. An Idempotency-Key counts for one prompt alone."""
    body = asked.body
    texts = body.bias_texts()
    biased = await run.tokens_of(model, texts) if texts else {}
    is_large = strict_json.is_large(body.prompt, body.logit_bias, len(asked.prompts) * [""])
    turns = await door.beside_loop(is_large, lambda: [turn_of(body, model.view, one, biased) for one in asked.prompts])
    found: list[_Source] = []
    for index, turn in enumerate(turns):
        events = await _begun(request, model, turn, asked.data) if len(turns) == 1 else await _events(model, turn)
        if body.limits.are_any:
            events = ended_early(events, body.limits, time.monotonic)
        text = await tokens.text_of(model, asked.prompts[index])
        found.append(_Source(events, Answer(about(body, turn, model.view, index, text))))
    return found


async def _events(model: Model, turn: Turn) -> AsyncGenerator[Event]:
    return run.events(await run.admit(model, turn))


async def _begun(request: Request, model: Model, turn: Turn, data: bytes) -> AsyncGenerator[Event]:
    async def make() -> kept.Made:
        return kept.Made(turn, {})

    return (await kept.ask(request, model, kept.Wish(KIND, herd_answers.drawn("id", 12).hex(), data), make)).events


async def _together(sources: Sequence[_Source], at_once: int) -> AsyncGenerator[Json]:
    """The stream of all of them, in the order of events, with so many prompts at once."""
    streams = [source.events for source in sources]
    async with aclosing(side_by_side(streams, at_once)) as numbered:
        async for number, event in numbered:
            for told in sources[number].answer.feed(event):
                yield told


async def _frames(made: AsyncGenerator[Json]) -> AsyncGenerator[bytes]:
    async with aclosing(made):
        yield b""
        async for told in made:
            yield sse(told)


async def _drained(made: AsyncGenerator[Json]) -> None:
    async with aclosing(made):
        async for _ in made:
            pass


def _sum(parts: Sequence[Usage]) -> Usage:
    return Usage(
        0,
        0,
        0,
        instructions=sum(part.instructions for part in parts),
        cycles=sum(part.cycles for part in parts),
        receipts=tuple(id for part in parts for id in part.receipts),
    )
