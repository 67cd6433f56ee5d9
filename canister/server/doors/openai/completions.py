"""`POST /v1/completions`: continues prompts as they are, without a chat template. Several prompts run together."""

from __future__ import annotations

import functools
import operator
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import asdict, replace
from typing import Annotated, Any

from fastapi import Request, Response
from pydantic import Field, JsonValue
from starlette.routing import Route

from canister.api import strict_json
from canister.dispatch import ModelView, herd_answers
from canister.server import answers
from canister.server.doors.openai import door, infill, kept, run
from canister.server.doors.openai.chat_answer import Head
from canister.server.doors.openai.completion_answer import stream, whole
from canister.server.doors.openai.errors import invalid, openai_failed
from canister.server.doors.openai.events import (
    Done,
    Event,
    Finished,
    PromptScored,
    TextDelta,
    Timings,
    Usage,
)
from canister.server.doors.openai.fields import MOST_LOGPROBS, GenerationFields, Text, Whole, Yes, read, shown
from canister.server.doors.openai.native import tokens
from canister.server.doors.openai.operations import Operation
from canister.server.doors.openai.side_by_side import side_by_side
from canister.server.doors.openai.stream import SSE, streamed
from canister.server.doors.openai.turn import Turn
from canister.server.requests import while_connected

KIND = "completions"
MAX_PROMPTS = 128

Json = dict[str, Any]
Prompt = str | tuple[int | str, ...]


class CompletionBody(GenerationFields):
    prompt: JsonValue = Field(None, description="A text, tokens, or a list of these.")
    logprobs: Annotated[Whole, Field(ge=0, le=MOST_LOGPROBS)] | None = Field(
        None, description="Probabilities of the tokens, and of so many likeliest ones at each place."
    )
    echo: Yes = Field(False, description="The prompt's text comes first.")
    best_of: Annotated[Whole, Field(ge=1)] | None = Field(
        None, description="So many answers are made, and the n likeliest of them told; not in a stream."
    )
    suffix: Text = Field("", description="What follows the text: the answer is what stands between the two.")

    @property
    def n_made(self) -> int:
        """Answers to each prompt, of which n are told."""
        return self.n if self.best_of is None else self.best_of


OPERATIONS = (
    Operation(
        "POST",
        "/v1/completions",
        "completion",
        "Texts that go on where prompts end, whole or as they come.",
        streams=SSE,
        example={"prompt": "Once upon a time", "max_tokens": 16},
        body=CompletionBody,
        differs=(
            "Without `/v1` the path is llama.cpp's own `/completion`.",
            "Without `max_tokens` a text goes on until the model ends it, or the context is full.",
            "`suffix` needs a model that was trained to fill in; others answer 501.",
            "`best_of`: the likeliest answers are those of the highest mean log-probability of a token.",
            "`echo` with `logprobs` tells the prompt's tokens too, with null for the first one; `max_tokens` may be 0."
            " Such a prompt is computed anew, whatever is cached.",
        ),
    ),
)


def routes() -> list[Route]:
    """Without /v1 the path is llama.cpp's own."""
    verbs = {"POST": create}
    return [door.at(path, verbs) for path in ("/v1/completions", f"{door.PREFIX}/v1/completions")]


async def create(request: Request) -> Response:
    data = await door.raw_body(request)
    body = await door.aside(len(data), lambda: read(CompletionBody, data))
    model = door.model_of(request, body.model)
    with door.counted(model, KIND):
        texts = body.bias_texts()
        tokens_of = await run.tokens_of(model, texts) if texts else {}
        is_large = strict_json.is_large(body.prompt, body.logit_bias)
        turns = await door.beside_loop(is_large, lambda: turns_of(body, model.view, tokens_of))
        begun = head_of(body, model.view)

        async def ask(part: int, turn: Turn) -> kept.Asked:
            async def make() -> kept.Made:
                wanted = await infill.filled(model, turn, body.suffix) if body.suffix else turn
                return kept.Made(wanted, asdict(begun))

            wish = kept.Wish(KIND, f"{begun.id}-{part}", data, part=part)
            return await while_connected(request, kept.ask(request, model, wish, make))

        asked = [await ask(part, turn) for part, turn in enumerate(turns)]
        head = Head(**asked[0].about)
        sources = [one.events for one in asked]
        events = sources[0] if len(sources) == 1 else together(sources, body.n_made, model.view.n_slots)
        n = len(turns) * body.n_made
        befores = [await tokens.text_of(model, turn.prompt or "") for turn in turns] if body.echo else []
        echoed = [before for before in befores for _ in range(body.n_made)]
        if body.stream:
            return await streamed(
                request,
                stream(events, head, n, echoed),
                openai_failed,
                quiet_seconds=body.silences(),
                source=events,
            )
        async with aclosing(events):
            answer, used = await while_connected(request, whole(events, head, n, echoed, best=(body.n, body.n_made)))
        return answers.document(answer, headers=door.usage_headers(used))


# -- request


def turns_of(body: CompletionBody, view: ModelView, tokens_of: Mapping[str, Sequence[int]] | None = None) -> list[Turn]:
    """A turn for each prompt. Pure. DoorError names the field."""
    if body.n_made < body.n:
        raise invalid(f"best_of: at least n ({body.n}) is wanted (given: {body.best_of})", "best_of")
    if body.n_made > max(body.n, view.n_slots):
        raise invalid(f"best_of: {body.best_of} answers are wanted, the model has {view.n_slots} slots", "best_of")
    if body.n_made > body.n and body.stream:
        raise invalid("best_of: which answers are the likeliest is known in the end; leave out stream", "best_of")
    scores = body.echo and body.logprobs is not None
    if scores and body.suffix:
        raise invalid("echo: the prompt's tokens are told without those of a suffix; leave out suffix", "echo")
    turn = Turn(
        sampling=body.sampling(view.args, view.n_vocab, tokens_of),
        seed=body.seed_or(view.args),
        max_tokens=body.max_tokens_or(view.args),
        stops=body.stop,
        n=max(body.choices(view.n_slots), body.n_made),
        n_logprobs=0 if body.logprobs is None and body.n_made > body.n else body.logprobs,
        n_prompt_logprobs=body.logprobs if scores else None,
        output_schema=body.schema_or_none(),
        grammar=body.grammar,
        cache_key=body.prompt_key(),
        reuses=body.cache_prompt,
        wants_progress=body.stream and body.return_progress,
        wants_timings=body.stream and body.timings_per_token,
    )
    return [turn.model_copy(update={"prompt": prompt}) for prompt in prompts_of(body.prompt)]


def prompts_of(value: JsonValue) -> list[Prompt]:
    """A text or tokens are one prompt. A list of texts, or of lists of tokens, is several."""
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list) or not value:
        raise invalid(f"prompt: a text, tokens, or a list of these is wanted (given: {shown(value)})", "prompt")
    if _is_tokens(value):
        return [_tokens(value, "prompt")]
    if len(value) > MAX_PROMPTS:
        raise invalid(f"prompt: at most {MAX_PROMPTS} prompts are taken, not {len(value)}", "prompt")
    return [_prompt(one, f"prompt[{index}]") for index, one in enumerate(value)]


def _prompt(value: JsonValue, name: str) -> Prompt:
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value and _is_tokens(value):
        return _tokens(value, name)
    raise invalid(f"{name}: a text or a list of tokens is wanted (given: {shown(value)})", name)


def _is_tokens(value: list[JsonValue]) -> bool:
    return all(isinstance(token, int) and not isinstance(token, bool) for token in value)


def _tokens(value: list[JsonValue], name: str) -> tuple[int, ...]:
    tokens = tuple(token for token in value if isinstance(token, int))
    wrong = next((token for token in tokens if not 0 <= token < 2**31), None)
    if wrong is not None:
        raise invalid(f"{name}: {wrong} is no token", name)
    return tokens


def head_of(body: CompletionBody, view: ModelView) -> Head:
    return Head(
        id=f"cmpl-{herd_answers.drawn('id', 16).hex()}",
        created=herd_answers.asked_at(),
        model=view.name,
        fingerprint=view.fingerprint,
        wants_logprobs=body.logprobs is not None,
        wants_prompt_logprobs=body.echo and body.logprobs is not None,
        wants_usage=body.stream_options.include_usage,
        wants_prompt=body.verbose,
    )


# -- several prompts


async def together(sources: Sequence[AsyncGenerator[Event]], n: int, n_slots: int) -> AsyncGenerator[Event]:
    """The events of several prompts as those of one turn: choice j of prompt i is choice i · n + j.

    At most as many prompts run at once as the model has slots. Begun comes once a prompt, Done once in all.
    """
    sums: list[Done] = []
    async with aclosing(side_by_side(sources, max(1, n_slots // n))) as numbered:
        async for index, event in numbered:
            if isinstance(event, Done):
                sums.append(event)
            else:
                yield _moved(event, index * n)
    if sums:
        yield _sum(sums)


def _moved(event: Event, first: int) -> Event:
    if isinstance(event, TextDelta):
        return event._replace(choice=event.choice + first)
    if isinstance(event, Finished | PromptScored):
        return replace(event, choice=event.choice + first)
    return event


def _sum(parts: Sequence[Done]) -> Done:
    used = (_values(part.usage) for part in parts)
    took = (_values(part.timings) for part in parts)
    return Done(Usage(*_added(used)), Timings(*_added(took)))


def _values(record: Usage | Timings) -> list[Any]:
    return [getattr(record, name) for name in record.__slots__]


def _added(records: Iterable[list[Any]]) -> list[Any]:
    """Numbers are added, and the ids of receipts put one behind the other."""
    return [functools.reduce(operator.add, values) for values in zip(*records, strict=True)]
