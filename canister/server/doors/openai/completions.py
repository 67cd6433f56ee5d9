"""`POST /v1/completions`: continues prompts as they are, without a chat template. Several prompts run together."""

from __future__ import annotations

import functools
import math
import operator
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass, field, replace
from typing import Annotated, Any

from fastapi import Request, Response
from pydantic import Field, JsonValue
from starlette.routing import Route

from canister.api import strict_json
from canister.api.tokens import Token
from canister.dispatch import ModelView
from canister.server import answers
from canister.server.doors.openai import door, infill, kept, run
from canister.server.doors.openai.chat_answer import END, Head, finite, progress, timings, usage
from canister.server.doors.openai.encoding import dumps
from canister.server.doors.openai.errors import invalid, openai_failed
from canister.server.doors.openai.events import Begun, Done, Event, Finished, Progress, TextDelta, Timed, Timings, Usage
from canister.server.doors.openai.fields import GenerationFields, Text, Whole, Yes, read, shown
from canister.server.doors.openai.native import tokens
from canister.server.doors.openai.operations import Operation
from canister.server.doors.openai.side_by_side import side_by_side
from canister.server.doors.openai.stream import SSE, streamed
from canister.server.doors.openai.turn import Turn
from canister.server.requests import while_connected

OBJECT = "text_completion"
KIND = "completions"
MAX_PROMPTS = 128
MOST_LOGPROBS = 20

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
            "`echo` together with `logprobs` is refused with 400.",
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
    if body.echo and body.logprobs is not None:
        raise invalid("echo: probabilities of the prompt's tokens are not supported; leave out logprobs", "echo")
    turn = Turn(
        sampling=body.sampling(view.args, view.n_vocab, tokens_of),
        seed=body.seed_or(view.args),
        max_tokens=body.max_tokens_or(view.args),
        stops=body.stop,
        n=max(body.choices(view.n_slots), body.n_made),
        n_logprobs=0 if body.logprobs is None and body.n_made > body.n else body.logprobs,
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
        id=f"cmpl-{secrets.token_urlsafe(24)}",
        created=int(time.time()),
        model=view.name,
        fingerprint=view.fingerprint,
        wants_logprobs=body.logprobs is not None,
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
    if isinstance(event, Finished):
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


# -- answer


@dataclass(slots=True)
class _Choice:
    """offset: characters of the text so far, the echo included."""

    text: list[str] = field(default_factory=list)
    tokens: list[Token] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    offset: int = 0
    finish: str | None = None

    def mean_logprob(self) -> float:
        """Of a token; of an answer without tokens the lowest."""
        return sum(token.logprob or 0.0 for token in self.tokens) / len(self.tokens) if self.tokens else -math.inf

    def add(self, text: str, tokens: Sequence[Token]) -> Json:
        """The logprobs of new text."""
        start = self.offset
        self.text.append(text)
        self.offset += len(text)
        offsets = []
        for token in tokens:
            offsets.append(start)
            start = min(start + len(token.data.decode("utf-8", "replace")), self.offset)
        self.tokens += tokens
        self.offsets += offsets
        return logprobs(tokens, offsets)


def logprobs(tokens: Sequence[Token], offsets: Sequence[int]) -> Json:
    """In the form of this route. Where several of the likeliest have the same text, the likeliest counts."""
    tops = [
        {one.data.decode("utf-8", "replace"): finite(one.logprob) for one in reversed(token.top)} for token in tokens
    ]
    return {
        "tokens": [token.data.decode("utf-8", "replace") for token in tokens],
        "token_logprobs": [finite(token.logprob) for token in tokens],
        "top_logprobs": tops,
        "text_offset": list(offsets),
    }


async def whole(
    events: AsyncIterator[Event], head: Head, n: int, echoed: Sequence[str] = (), best: tuple[int, int] = (1, 1)
) -> tuple[Json, Usage]:
    """The answer as one object, with its usage. n: choices in all. echoed: text in front of each choice's text.

    best: of how many choices to each prompt how many were made; the likeliest are told.
    """
    choices = _choices(n, echoed)
    prompts: list[str] = []
    done = Done(Usage(0, 0, 0))
    async for event in events:
        match event:
            case TextDelta(number, text, tokens):
                choices[number].add(text, tokens)
            case Finished():
                choices[event.choice].finish = event.finish
            case Begun():
                prompts.append(event.prompt)
            case Done():
                done = event
            case _:
                pass
    answer = head.about(OBJECT)
    answer["choices"] = [
        {
            "index": number,
            "text": "".join(choice.text),
            "logprobs": logprobs(choice.tokens, choice.offsets) if head.wants_logprobs else None,
            "finish_reason": choice.finish,
        }
        for number, choice in enumerate(_likeliest(choices, *best))
    ]
    answer |= {"usage": usage(done.usage), "timings": timings(done.timings)}
    if head.wants_prompt:
        answer["__verbose"] = {"prompt": prompts[0] if len(prompts) == 1 else prompts}
    return answer, done.usage


def _likeliest(choices: Sequence[_Choice], n: int, n_made: int) -> list[_Choice]:
    """Of each n_made choices in a row the n likeliest, the likeliest first; all of them in order where n is n_made."""
    if n == n_made:
        return [*choices]
    rows = [choices[first : first + n_made] for first in range(0, len(choices), n_made)]
    return [choice for row in rows for choice in sorted(row, key=_Choice.mean_logprob, reverse=True)[:n]]


def _choices(n: int, echoed: Sequence[str]) -> list[_Choice]:
    choices = [_Choice() for _ in range(n)]
    for choice, text in zip(choices, echoed, strict=False):
        choice.add(text, ())
    return choices


async def stream(events: AsyncIterator[Event], head: Head, n: int, echoed: Sequence[str] = ()) -> AsyncGenerator[bytes]:
    """Server-sent events, each whole; an empty one first. n, echoed: as of `whole`."""
    frame = f'data: {dumps(head.about(OBJECT))[:-1]},"choices":['
    choices = _choices(n, echoed)
    timed, is_first, n_unfinished = "", True, n
    last: Finished | None = None
    async for event in events:
        match event:
            case TextDelta(number, text, tokens):
                told = choices[number].add(text, tokens) if head.wants_logprobs else None
                part = _part(number, text, dumps(told) if told is not None and tokens else "null", "null")
                yield f"{frame}{part}{timed}}}\n\n".encode("utf-8", "replace")
                timed = ""
            case Timed():
                timed = f',"timings":{dumps(timings(event.timings))}'
            case Begun() if is_first:
                is_first = False
                yield b""
                for number, text in enumerate(echoed):
                    yield f"{frame}{_part(number, text, 'null', 'null')}}}\n\n".encode("utf-8", "replace")
            case Progress():
                more = f',"prompt_progress":{dumps(progress(event))}'
                yield f"{frame}{_part(0, '', 'null', 'null')}{more}}}\n\n".encode()
            case Finished():
                n_unfinished -= 1
                if n_unfinished:
                    yield f"{frame}{_part(event.choice, '', 'null', dumps(event.finish))}}}\n\n".encode()
                else:
                    last = event  # the last end is sent when all is committed, with the usage
            case Done():
                took = f',"timings":{dumps(timings(event.timings))}'
                if last is not None:
                    more = "" if head.wants_usage else took
                    yield f"{frame}{_part(last.choice, '', 'null', dumps(last.finish))}{more}}}\n\n".encode()
                if head.wants_usage:
                    yield f'{frame}],"usage":{dumps(usage(event.usage))}{took}}}\n\n'.encode()
            case _:
                pass
    yield END


def _part(number: int, text: str, logprobs: str, finish: str) -> str:
    return f'{{"index":{number},"text":{dumps(text)},"logprobs":{logprobs},"finish_reason":{finish}}}]'
