"""Events as OpenAI's chat completions: `whole` makes one object, `stream` the chunks. Pure over events.

Chunks are assembled from texts made once a stream, since there is a chunk a token.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from dataclasses import dataclass, field
from typing import Any

from canister.api.tokens import Likely, Token
from canister.server.doors.openai.encoding import dumps
from canister.server.doors.openai.events import (
    Begun,
    Done,
    Event,
    Finished,
    Progress,
    TextDelta,
    ThoughtDelta,
    Timed,
    Timings,
    ToolArguments,
    ToolBegun,
    ToolDone,
    Usage,
)

Json = dict[str, Any]

LOWEST = -3.4028234663852886e38  # where JSON has no −∞
END = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class Head:
    """The parts of an answer about itself. wants_…: requested by the client."""

    id: str
    created: int
    model: str
    fingerprint: str
    wants_logprobs: bool = False
    wants_usage: bool = False
    wants_prompt: bool = False
    wants_prompt_logprobs: bool = False

    def about(self, kind: str) -> Json:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
        }


# -- whole


@dataclass(slots=True)
class _Choice:
    text: list[str] = field(default_factory=list)
    thoughts: list[str] = field(default_factory=list)
    calls: list[tuple[str, str, list[str]]] = field(default_factory=list)  # id, name, arguments
    logprobs: list[Json] = field(default_factory=list)
    finish: str | None = None

    def message(self) -> Json:
        text = "".join(self.text)
        message: Json = {"role": "assistant", "content": text if text or not self.calls else None}
        if self.thoughts:
            message["reasoning_content"] = "".join(self.thoughts)
        if self.calls:
            message["tool_calls"] = [
                {"id": id, "type": "function", "function": {"name": name, "arguments": "".join(arguments)}}
                for id, name, arguments in self.calls
            ]
        return message


async def whole(events: AsyncIterator[Event], head: Head) -> tuple[Json, Usage]:
    """The answer as one object, with its usage."""
    choices: dict[int, _Choice] = {}
    prompt, done = "", Done(Usage(0, 0, 0))
    async for event in events:
        match event:
            case TextDelta(number, text, tokens):
                choice = choices.setdefault(number, _Choice())
                choice.text.append(text)
                if head.wants_logprobs:
                    choice.logprobs += map(logprob, tokens)
            case ThoughtDelta(number, text, _):
                choices.setdefault(number, _Choice()).thoughts.append(text)
            case ToolBegun():
                choices.setdefault(event.choice, _Choice()).calls.append((event.id, event.name, []))
            case ToolArguments():
                choices[event.choice].calls[event.index][2].append(event.text)
            case Finished():
                choices.setdefault(event.choice, _Choice()).finish = event.finish
            case Begun():
                prompt = event.prompt
            case Done():
                done = event
            case Progress() | Timed() | ToolDone():
                pass
    answer = head.about("chat.completion")
    answer["choices"] = [
        {
            "index": number,
            "message": choice.message(),
            "logprobs": {"content": choice.logprobs, "refusal": None} if head.wants_logprobs else None,
            "finish_reason": choice.finish,
        }
        for number, choice in sorted(choices.items())
    ]
    answer |= {"usage": usage(done.usage), "timings": timings(done.timings)}
    if head.wants_prompt:
        answer["__verbose"] = {"prompt": prompt}
    return answer, done.usage


# -- streams


async def stream(events: AsyncIterator[Event], head: Head, n: int = 1) -> AsyncGenerator[bytes]:
    """Server-sent events, each whole. n: the number of choices."""
    about = dumps(head.about("chat.completion.chunk"))[:-1]
    frame = f'data: {about},"choices":['
    starts = [f'{frame}{{"index":{number},"delta":' for number in range(n)]
    plain_end = ',"logprobs":null,"finish_reason":null}]'
    timed = ""
    n_unfinished = n
    last: Finished | None = None
    async for event in events:
        match event:
            case TextDelta(number, text, tokens):
                end = plain_end
                if head.wants_logprobs and tokens:
                    told = dumps({"content": [logprob(token) for token in tokens], "refusal": None})
                    end = f',"logprobs":{told},"finish_reason":null}}]'
                yield f'{starts[number]}{{"content":{dumps(text)}}}{end}{timed}}}\n\n'.encode("utf-8", "replace")
                timed = ""
            case ThoughtDelta(number, text, _):
                delta = f'{{"reasoning_content":{dumps(text)}}}'
                yield f"{starts[number]}{delta}{plain_end}{timed}}}\n\n".encode("utf-8", "replace")
                timed = ""
            case ToolBegun():
                function = {"name": event.name, "arguments": ""}
                call = {"index": event.index, "id": event.id, "type": "function", "function": function}
                delta = dumps({"tool_calls": [call]})
                yield f"{starts[event.choice]}{delta}{plain_end}{timed}}}\n\n".encode("utf-8", "replace")
                timed = ""
            case ToolArguments():
                delta = dumps({"tool_calls": [{"index": event.index, "function": {"arguments": event.text}}]})
                yield f"{starts[event.choice]}{delta}{plain_end}{timed}}}\n\n".encode("utf-8", "replace")
                timed = ""
            case Timed():
                timed = f',"timings":{dumps(timings(event.timings))}'
            case Begun():
                more = f',"__verbose":{dumps({"prompt": event.prompt})}' if head.wants_prompt else ""
                for start in starts:
                    delta = '{"role":"assistant","content":null}'
                    yield f"{start}{delta}{plain_end}{more}}}\n\n".encode("utf-8", "replace")
                    more = ""
            case Progress():
                more = f',"prompt_progress":{dumps(progress(event))}'
                yield f"{starts[0]}{{}}{plain_end}{more}}}\n\n".encode()
            case Finished():
                n_unfinished -= 1
                if n_unfinished:
                    yield f"{starts[event.choice]}{{}}{_end(event)}}}\n\n".encode()
                else:
                    last = event  # the last end is sent when all is committed, with the usage
            case Done():
                told = f',"timings":{dumps(timings(event.timings))}'
                if last is not None:
                    more = "" if head.wants_usage else told
                    yield f"{starts[last.choice]}{{}}{_end(last)}{more}}}\n\n".encode()
                if head.wants_usage:
                    yield f'{frame}],"usage":{dumps(usage(event.usage))}{told}}}\n\n'.encode()
            case ToolDone():
                pass
    yield END


def _end(event: Finished) -> str:
    return f',"logprobs":null,"finish_reason":"{event.finish}"}}]'


# -- parts


def usage(of: Usage) -> Json:
    """Tokens as OpenAI counts them, and the costs of the calls."""
    return {
        "prompt_tokens": of.n_prompt,
        "completion_tokens": of.n_generated,
        "total_tokens": of.n_prompt + of.n_generated,
        "prompt_tokens_details": {"cached_tokens": of.n_cached},
        "completion_tokens_details": {"reasoning_tokens": of.n_thought},
        "instructions": of.instructions,
        "cycles": of.cycles,
        "calls": of.n_calls,
        **of.told_receipts,
    }


def timings(of: Timings) -> Json:
    """Timings in the form of llama.cpp's server."""
    return {
        "cache_n": of.n_cached,
        **_pace("prompt", of.n_prompt, of.prompt_seconds),
        **_pace("predicted", of.n_generated, of.decode_seconds),
    }


def _pace(name: str, n: int, seconds: float) -> Json:
    return {
        f"{name}_n": n,
        f"{name}_ms": round(seconds * 1000, 3),
        f"{name}_per_token_ms": round(seconds * 1000 / n, 3) if n else 0.0,
        f"{name}_per_second": round(n / seconds, 3) if seconds > 0 else 0.0,
    }


def progress(of: Progress) -> Json:
    return {
        "total": of.n_prompt,
        "cache": of.n_cached,
        "processed": of.n_done,
        "time_ms": round(of.seconds * 1000),
    }


def logprob(token: Token) -> Json:
    return {**_likely(token.data, token.logprob), "top_logprobs": likeliest(token.top)}


def likeliest(tokens: Iterable[Likely]) -> list[Json]:
    return [_likely(token.data, token.logprob) for token in tokens]


def _likely(data: bytes, of: float | None) -> Json:
    return {"token": data.decode("utf-8", "replace"), "logprob": finite(of), "bytes": list(data)}


def finite(logprob: float | None) -> float:
    return LOWEST if logprob is None else max(logprob, LOWEST)
