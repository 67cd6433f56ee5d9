"""Events → Ollama's answers: lines of JSON, or all of it in one. Pure, except for the clock that it gets.

A tool call is sent when it is complete, since its arguments are an object. One that is cut off is not sent.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

from pydantic import JsonValue

from canister.api.tokens import Token
from canister.server.doors.openai.chat_answer import finite
from canister.server.doors.openai.encoding import encoded
from canister.server.doors.openai.events import (
    Begun,
    Done,
    Event,
    Finished,
    TextDelta,
    ThoughtDelta,
    ToolArguments,
    ToolBegun,
    ToolDone,
)

Kind = Literal["chat", "generate"]


@dataclass(frozen=True, slots=True)
class About:
    """kind: which route is answered. model: as requested. now_ns: since 1970. wants_logprobs: of each token."""

    kind: Kind
    model: str
    now_ns: Callable[[], int]
    wants_logprobs: bool = False


@dataclass(slots=True)
class Stream:
    """Feed it the events of a turn with one choice, and send each line that it returns."""

    about: About
    _start_ns: int = 0
    _begun_ns: int = 0
    _end: Finished = field(default_factory=lambda: Finished(0, "stop"))
    _call: ToolBegun | None = None
    _arguments: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._start_ns = self._begun_ns = self.about.now_ns()

    def feed(self, event: Event) -> list[dict[str, JsonValue]]:
        match event:
            case Begun():
                self._begun_ns = self.about.now_ns()
            case TextDelta():
                return [self._line(text=event.text, tokens=event.tokens)]
            case ThoughtDelta():
                return [self._line(thought=event.text, tokens=event.tokens)]
            case ToolBegun():
                self._call, self._arguments = event, []
            case ToolArguments():
                self._arguments.append(event.text)
            case ToolDone() if self._call is not None:
                call, self._call = self._call, None
                return [self._line(calls=[_call(call, "".join(self._arguments))])]
            case Finished():
                self._end = event
            case Done():
                return [{**self._line(), "done": True, **self._last(event)}]
        return []

    def empty(self) -> dict[str, JsonValue]:
        """A line that says nothing, for a silence."""
        return self._line()

    def _line(
        self,
        text: str = "",
        thought: str = "",
        calls: Sequence[JsonValue] = (),
        tokens: Sequence[Token] = (),
    ) -> dict[str, JsonValue]:
        line: dict[str, JsonValue] = {"model": self.about.model, "created_at": _time(self.about.now_ns())}
        said: dict[str, JsonValue] = {"thinking": thought} if thought else {}
        if calls:
            said["tool_calls"] = [*calls]
        if self.about.kind == "chat":
            line["message"] = {"role": "assistant", "content": text, **said}
        else:
            line.update({"response": text, **said})
        if tokens and self.about.wants_logprobs:
            line["logprobs"] = [_logprob(token) for token in tokens]
        return {**line, "done": False}

    def _last(self, done: Done) -> dict[str, JsonValue]:
        usage, timings = done.usage, done.timings
        return {
            "done_reason": "length" if self._end.finish == "length" else "stop",
            "total_duration": self.about.now_ns() - self._start_ns,
            "load_duration": self._begun_ns - self._start_ns,
            "prompt_eval_count": usage.n_prompt,
            "prompt_eval_duration": round(timings.prompt_seconds * 1e9),
            "eval_count": usage.n_generated,
            "eval_duration": round(timings.decode_seconds * 1e9),
        }


def whole(about: About, events: Iterable[Event]) -> dict[str, JsonValue]:
    """The content of all lines in one answer."""
    stream = Stream(about)
    return joined(about.kind, [line for event in events for line in stream.feed(event)])


def joined(kind: Kind, lines: Sequence[dict[str, JsonValue]]) -> dict[str, JsonValue]:
    text: list[str] = []
    thought: list[str] = []
    calls: list[JsonValue] = []
    logprobs: list[JsonValue] = []
    for line in lines:
        said = line["message"] if kind == "chat" else line
        assert isinstance(said, dict)
        text.append(str(said["content" if kind == "chat" else "response"]))
        thought.append(str(said.get("thinking", "")))
        calls += _list(said.get("tool_calls"))
        logprobs += _list(line.get("logprobs"))
    made: dict[str, JsonValue] = {"thinking": "".join(thought)} if any(thought) else {}
    if calls:
        made["tool_calls"] = calls
    answer = dict(lines[-1])
    if kind == "chat":
        answer["message"] = {"role": "assistant", "content": "".join(text), **made}
    else:
        answer.update({"response": "".join(text), **made})
    return {**answer, "logprobs": logprobs} if logprobs else answer


def loaded(about: About) -> dict[str, JsonValue]:
    """The answer to a request without prompt or messages: the model is loaded."""
    return {**Stream(about).empty(), "done": True, "done_reason": "load"}


def sent(line: Mapping[str, object]) -> bytes:
    return encoded(line) + b"\n"


def _list(value: JsonValue) -> list[JsonValue]:
    return value if isinstance(value, list) else []


def _call(call: ToolBegun, text: str) -> JsonValue:
    try:
        arguments: JsonValue = json.loads(text or "{}")
    except ValueError:
        arguments = {}
    return {"id": call.id, "function": {"index": call.index, "name": call.name, "arguments": arguments}}


def _logprob(token: Token) -> JsonValue:
    return {
        **_chosen(token.data, token.logprob),
        "top_logprobs": [_chosen(likely.data, likely.logprob) for likely in token.top],
    }


def _chosen(data: bytes, logprob: float | None) -> dict[str, JsonValue]:
    return {"token": data.decode("utf-8", "replace"), "logprob": finite(logprob), "bytes": [*data]}


def _time(ns: int) -> str:
    """RFC 3339, in UTC, with nanoseconds."""
    seconds, rest = divmod(ns, 1_000_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:09d}Z"
