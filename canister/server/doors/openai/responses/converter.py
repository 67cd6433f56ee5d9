"""From events of a turn to those of Responses, and to its object. Pure: the same events give the same numbers."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from canister.api.tokens import Token
from canister.dispatch.herd_answers import RESPONSE_PREFIX
from canister.server.doors.openai.chat_answer import logprob
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
    Usage,
)

Json = dict[str, Any]
Status = Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]
_Kind = Literal["message", "reasoning", "function_call"]

PREFIX = RESPONSE_PREFIX
ITEM_PREFIXES: Mapping[_Kind, str] = {"message": "msg_", "reasoning": "rs_", "function_call": "fc_"}
_TEXT_KINDS: Mapping[_Kind, str] = {"message": "output_text", "reasoning": "reasoning_text"}
_INDEX_DIGITS = 4


def item_id(kind: _Kind, response_id: str, index: int) -> str:
    """The id of an output item. It has the answer and the place, so an answer that is read again has the same ids."""
    return f"{ITEM_PREFIXES[kind]}{response_id.removeprefix(PREFIX)}{index:0{_INDEX_DIGITS}x}"


def response_of(id: str) -> str | None:
    """The id of the answer that an output item belongs to, from the item's id; None for foreign ids."""
    prefix, separator, rest = id.partition("_")
    is_ours = f"{prefix}{separator}" in ITEM_PREFIXES.values() and len(rest) > _INDEX_DIGITS
    return f"{PREFIX}{rest[:-_INDEX_DIGITS]}" if is_ours else None


class Converter:
    """base: all fields of the object that are known at the request, among them `id` and `background`.

    response.created (.queued) .in_progress
        .output_item.added
            .content_part.added  .output_text.delta*     .output_text.done     .content_part.done
            .content_part.added  .reasoning_text.delta*  .reasoning_text.done  .content_part.done
            .function_call_arguments.delta*  .function_call_arguments.done
        .output_item.done
    response.completed | .incomplete | .failed
    """

    def __init__(self, base: Mapping[str, object]) -> None:
        self._base = dict(base)
        self._id = str(base["id"])
        self._n_events = 0
        self._output: list[Json] = []
        self._open: _Kind | None = None  # of the last item, while it is being written
        self._pieces: list[str] = []  # of its text or arguments
        self._logprobs: list[Json] = []
        self._status: Status = "queued" if base.get("background") else "in_progress"
        self._is_cut = False
        self._usage: Usage | None = None
        self._error: Json | None = None

    @property
    def n_events(self) -> int:
        """Events that were made so far."""
        return self._n_events

    def feed(self, event: Event) -> list[Json]:
        """The events of Responses that one event of the turn becomes."""
        return [self._numbered(made) for made in self._made(event)]

    def fail(self, code: str, message: str, param: str | None = None) -> list[Json]:
        """What is told of an answer that comes to no good end. code: one of those that Responses know."""
        self._error, self._status = {"code": code, "message": message}, "failed"
        error: Json = {"type": "error", "code": code, "message": message, "param": param}
        return [self._numbered(made) for made in (error, *self._closed(is_cut=True), self._whole("response.failed"))]

    def stop(self, status: Status) -> list[Json]:
        """The event of an answer that ends early. status: cancelled; or incomplete, which can be continued."""
        closed = [self._numbered(made) for made in self._closed(is_cut=True)]
        self._status = status
        return [*closed, self._numbered(self._whole("response.incomplete"))]

    def response(self, completed_at: float | None = None) -> Json:
        """The object as it stands."""
        output = copy.deepcopy(self._output)
        if self._open is not None:
            _write(output[-1], self._pieces, self._logprobs)
        is_cut = self._is_cut and self._status == "incomplete"
        return self._base | {
            "status": self._status,
            "error": self._error,
            "incomplete_details": {"reason": "max_output_tokens"} if is_cut else None,
            "output": output,
            "usage": None if self._usage is None else _usage(self._usage),
            "completed_at": completed_at,
        }

    # -- events

    def _made(self, event: Event) -> Iterator[Json]:
        match event:
            case Begun():
                yield self._whole("response.created")
                if self._status == "queued":
                    yield self._whole("response.queued")
                self._status = "in_progress"
                yield self._whole("response.in_progress")
            case TextDelta(text=text, tokens=tokens):
                yield from self._text("message", text, tokens)
            case ThoughtDelta(text=text):
                yield from self._text("reasoning", text)
            case ToolBegun():
                call_id = self._unused_call_id(event.id)
                yield from self._begun("function_call", {"call_id": call_id, "name": event.name, "arguments": ""})
            case ToolArguments():
                self._pieces.append(event.text)
                yield self._of_item("response.function_call_arguments.delta", {"delta": event.text})
            case ToolDone():
                yield from self._closed()
            case Finished():
                self._is_cut = event.finish == "length"
                if not self._output:  # clients look for a message
                    yield from self._begun_text("message")
                yield from self._closed(is_cut=self._is_cut)
            case Done():
                self._usage = event.usage
                self._status = "incomplete" if self._is_cut else "completed"
                yield self._whole(f"response.{self._status}")
            case _:
                return

    def _text(self, kind: _Kind, text: str, tokens: tuple[Token, ...] = ()) -> Iterator[Json]:
        if self._open != kind:
            yield from self._begun_text(kind)
        self._pieces.append(text)
        delta: Json = {"content_index": 0, "delta": text}
        if kind == "message":
            logprobs = [logprob(token) for token in tokens if token.logprob is not None]
            self._logprobs += logprobs
            delta["logprobs"] = _without_bytes(logprobs)
        yield self._of_item(f"response.{_TEXT_KINDS[kind]}.delta", delta)

    def _begun_text(self, kind: _Kind) -> Iterator[Json]:
        yield from self._begun(kind, {"role": "assistant", "content": []} if kind == "message" else _NO_THOUGHT)
        part: Json = {"type": _TEXT_KINDS[kind], "text": ""}
        if kind == "message":
            part |= {"annotations": [], "logprobs": []}
        self._output[-1]["content"] = [part]
        yield self._of_item("response.content_part.added", {"content_index": 0, "part": dict(part)})

    def _begun(self, kind: _Kind, fields: Mapping[str, object]) -> Iterator[Json]:
        yield from self._closed()
        index = len(self._output)
        item: Json = {"id": item_id(kind, self._id, index), "type": kind, "status": "in_progress", **fields}
        self._output.append(item)
        self._open, self._pieces, self._logprobs = kind, [], []
        yield {"type": "response.output_item.added", "output_index": index, "item": copy.deepcopy(item)}

    def _closed(self, *, is_cut: bool = False) -> Iterator[Json]:
        """End the item that is being written. A tool call that was cut has no event for its arguments."""
        kind, item = self._open, self._output[-1] if self._output else {}
        if kind is None:
            return
        _write(item, self._pieces, self._logprobs)
        self._open = None
        if kind == "function_call":
            if not is_cut:
                known = {"name": item["name"], "arguments": item["arguments"]}
                yield self._of_item("response.function_call_arguments.done", known)
        else:
            part = item["content"][0]
            done: Json = {"content_index": 0, "text": part["text"]}
            if kind == "message":
                done["logprobs"] = _without_bytes(self._logprobs)
            yield self._of_item(f"response.{_TEXT_KINDS[kind]}.done", done)
            yield self._of_item("response.content_part.done", {"content_index": 0, "part": copy.deepcopy(part)})
        item["status"] = "incomplete" if is_cut else "completed"
        index = len(self._output) - 1
        yield {"type": "response.output_item.done", "output_index": index, "item": copy.deepcopy(item)}

    def _unused_call_id(self, wanted: str) -> str:
        """Models that name their calls may name two alike, and clients tell them apart by it."""
        used = {item.get("call_id") for item in self._output}
        return wanted if wanted not in used else f"{wanted}_{len(self._output)}"

    def _of_item(self, kind: str, fields: Mapping[str, object]) -> Json:
        place = {"item_id": self._output[-1]["id"], "output_index": len(self._output) - 1}
        return {"type": kind, **place, **fields}

    def _whole(self, kind: str) -> Json:
        return {"type": kind, "response": self.response()}

    def _numbered(self, made: Json) -> Json:
        number = self._n_events
        self._n_events += 1
        return {"type": made["type"], "sequence_number": number, **made}


_NO_THOUGHT: Mapping[str, object] = {"summary": [], "content": []}


def _write(item: Json, pieces: list[str], logprobs: list[Json]) -> None:
    """Put the text that there is so far into the item that is being written."""
    if item["type"] == "function_call":
        item["arguments"] = "".join(pieces)
        return
    item["content"][0]["text"] = "".join(pieces)
    if item["type"] == "message":
        item["content"][0]["logprobs"] = copy.deepcopy(logprobs)


def _without_bytes(logprobs: list[Json]) -> list[Json]:
    """As events have them."""

    def short(one: Json) -> Json:
        return {"token": one["token"], "logprob": one["logprob"]}

    return [{**short(one), "top_logprobs": [short(likely) for likely in one["top_logprobs"]]} for one in logprobs]


def _usage(usage: Usage) -> Json:
    return {
        "input_tokens": usage.n_prompt,
        "input_tokens_details": {
            "cached_tokens": usage.n_cached,
            "cache_write_tokens": usage.n_prompt - usage.n_cached,
        },
        "output_tokens": usage.n_generated,
        "output_tokens_details": {"reasoning_tokens": usage.n_thought},
        "total_tokens": usage.n_prompt + usage.n_generated,
        "instructions": usage.instructions,
        "cycles": usage.cycles,
        "calls": usage.n_calls,
        **usage.told_receipts,
    }
