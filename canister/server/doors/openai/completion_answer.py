"""Events as completions: `whole` makes one object, `stream` the chunks. Pure over events."""

from __future__ import annotations

import codecs
import math
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from canister.api.tokens import Token
from canister.server.doors.openai.chat_answer import END, Head, finite, progress, timings, usage
from canister.server.doors.openai.encoding import dumps
from canister.server.doors.openai.events import (
    Begun,
    Done,
    Event,
    Finished,
    Progress,
    PromptScored,
    TextDelta,
    Timed,
    Usage,
)

OBJECT = "text_completion"

Json = dict[str, Any]

_new_decoder = codecs.getincrementaldecoder("utf-8")


@dataclass(slots=True)
class _Choice:
    """offset: characters of the text so far, the echo included. echoed: tokens of the prompt among the others."""

    text: list[str] = field(default_factory=list)
    tokens: list[Token] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    offset: int = 0
    finish: str | None = None
    n_echoed: int = 0

    def mean_logprob(self) -> float:
        """Of a token; of an answer without tokens the lowest."""
        made = self.tokens[self.n_echoed :]
        return sum(token.logprob or 0.0 for token in made) / len(made) if made else -math.inf

    def echo(self, event: PromptScored) -> None:
        """Put the prompt's tokens in front of those that are made."""
        self.tokens[event.first :] = event.tokens
        self.n_echoed = len(self.tokens)
        if event.is_last:
            self.offsets = offsets_in("".join(self.text), self.tokens)

    def logprobs(self) -> Json:
        return logprobs(self.tokens, self.offsets)

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


def offsets_in(text: str, tokens: Iterable[Token]) -> list[int]:
    """The characters of a text in which its tokens begin. What they say before it, such as BOS, has no place in it."""
    decoder, begins, n = _new_decoder(errors="replace"), list[int](), 0
    for token in tokens:
        begins.append(n)
        n += len(decoder.decode(token.data))
    n_before = n + len(decoder.decode(b"", final=True)) - len(text)
    return [min(max(0, begin - max(0, n_before)), len(text)) for begin in begins]


def logprobs(tokens: Sequence[Token], offsets: Sequence[int]) -> Json:
    """In the form of this route. Where several of the likeliest have the same text, the likeliest counts."""
    tops = [
        None
        if token.logprob is None
        else {one.data.decode("utf-8", "replace"): finite(one.logprob) for one in reversed(token.top)}
        for token in tokens
    ]
    return {
        "tokens": [token.data.decode("utf-8", "replace") for token in tokens],
        "token_logprobs": [None if token.logprob is None else finite(token.logprob) for token in tokens],
        "top_logprobs": tops,
        "text_offset": list(offsets),
    }


async def _prompts_first(events: AsyncIterator[Event]) -> AsyncGenerator[Event]:
    """What a choice says is held until the prompt's tokens are told, once: choices that are kept run by themselves."""
    held: dict[int, list[Event]] = {}
    told: set[int] = set()
    async for event in events:
        if isinstance(event, PromptScored):
            if event.choice in told:
                continue
            yield event
            for number in range(event.choice, event.choice + event.n) if event.is_last else ():
                told.add(number)
                for one in held.pop(number, ()):
                    yield one
        elif isinstance(event, TextDelta | Finished) and event.choice not in told:
            held.setdefault(event.choice, []).append(event)
        else:
            yield event


async def whole(
    events: AsyncIterator[Event], head: Head, n: int, echoed: Sequence[str] = (), best: tuple[int, int] = (1, 1)
) -> tuple[Json, Usage]:
    """The answer as one object, with its usage. n: choices in all. echoed: text in front of each choice's text.

    best: of how many choices to each prompt how many were made; the likeliest are told.
    """
    choices = _choices(n, echoed)
    prompts: list[str] = []
    done = Done(Usage(0, 0, 0))
    async for event in _prompts_first(events) if head.wants_prompt_logprobs else events:
        match event:
            case TextDelta(number, text, tokens):
                choices[number].add(text, tokens)
            case Finished():
                choices[event.choice].finish = event.finish
            case PromptScored():
                for choice in choices[event.choice : event.choice + event.n]:
                    choice.echo(event)
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
            "logprobs": choice.logprobs() if head.wants_logprobs else None,
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
    async for event in _prompts_first(events) if head.wants_prompt_logprobs else events:
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
                for number, text in enumerate(() if head.wants_prompt_logprobs else echoed):
                    yield f"{frame}{_part(number, text, 'null', 'null')}}}\n\n".encode("utf-8", "replace")
            case PromptScored():
                for number in range(event.choice, event.choice + event.n):
                    choices[number].echo(event)
                    if event.is_last:
                        part = _part(number, echoed[number], dumps(choices[number].logprobs()), "null")
                        yield f"{frame}{part}}}\n\n".encode("utf-8", "replace")
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
