"""Events → an answer of Anthropic's Messages, whole or as a stream. Pure: the same events give the same answer.

A block begins where the answer changes to another kind of content, and ends before the next one begins. In a stream,
blocks have the indices of the whole answer's list.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from pydantic import JsonValue
from pydantic_core import from_json

from canister.server.doors.openai.encoding import sse
from canister.server.doors.openai.events import (
    Begun,
    Done,
    Event,
    Finished,
    TextDelta,
    ThoughtDelta,
    ToolArguments,
    ToolBegun,
    Usage,
)

_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}


@dataclass(frozen=True, slots=True)
class About:
    """The parts of an answer about itself. hides_thoughts: a block of thoughts is there, and empty."""

    id: str
    model: str
    hides_thoughts: bool = False


# -- whole


def whole(about: About, events: Iterable[Event]) -> dict[str, JsonValue]:
    """The answer from all events of a turn with one choice."""
    blocks: list[dict[str, JsonValue]] = []
    texts: list[list[str]] = []
    end, usage = Finished(0, "stop"), Usage(0, 0, 0)
    for event in events:
        match event:
            case TextDelta() | ThoughtDelta() | ToolArguments():
                if (made := _opened(event, blocks[-1] if blocks else None)) is not None:
                    blocks.append(made)
                    texts.append([])
                texts[-1].append(_shown(about, event))
            case ToolBegun():
                blocks.append(_tool(event))
                texts.append([])
            case Finished():
                end = event
            case Done():
                usage = event.usage
    for block, said in zip(blocks, texts, strict=True):
        _close(block, "".join(said))
    message = _message(about, _usage(usage))
    return {**message, "content": [*blocks], **_end(end)}


def _close(block: dict[str, JsonValue], text: str) -> None:
    match block["type"]:
        case "text":
            block["text"] = text
        case "thinking":
            block["thinking"] = text
        case _:
            block["input"] = _input(text)


def _input(text: str) -> JsonValue:
    """The arguments of a tool; of an answer that was cut off, the part that there is."""
    try:
        found: JsonValue = from_json(text or "{}", allow_partial=True)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


# -- as a stream


@dataclass(slots=True)
class Stream:
    """Feed it the events of a turn, and send what it returns."""

    about: About
    _n_blocks: int = 0
    _block: dict[str, JsonValue] | None = None
    _end: Finished = field(default_factory=lambda: Finished(0, "stop"))

    def feed(self, event: Event) -> bytes:
        match event:
            case Begun():
                # What a cache had of the prompt, and what it costs, is not known yet. message_delta tells it.
                start = {**_message(self.about, _tokens(Usage(event.n_prompt, 0, 0))), "content": [], **_NO_END}
                return _sent("message_start", message=start)
            case TextDelta() | ThoughtDelta() | ToolArguments():
                return self._open(_opened(event, self._block)) + self._delta(event)
            case ToolBegun():
                return self._open(_tool(event))
            case Finished():
                self._end = event
            case Done():
                return self._finish(event.usage)
        return b""

    def _open(self, block: dict[str, JsonValue] | None) -> bytes:
        """Begin a block; None: the former one continues."""
        if block is None:
            return b""
        before = self._close()
        self._block = block
        self._n_blocks += 1
        return before + _sent("content_block_start", index=self._n_blocks - 1, content_block=block)

    def _close(self) -> bytes:
        if self._block is None:
            return b""
        is_thought, self._block = self._block["type"] == "thinking", None
        signature = self._piece({"type": "signature_delta", "signature": ""}) if is_thought else b""
        return signature + _sent("content_block_stop", index=self._n_blocks - 1)

    def _delta(self, event: TextDelta | ThoughtDelta | ToolArguments) -> bytes:
        text = _shown(self.about, event)
        if not text:
            return b""
        match event:
            case TextDelta():
                return self._piece({"type": "text_delta", "text": text})
            case ThoughtDelta():
                return self._piece({"type": "thinking_delta", "thinking": text})
            case ToolArguments():
                return self._piece({"type": "input_json_delta", "partial_json": text})

    def _piece(self, delta: dict[str, JsonValue]) -> bytes:
        return _sent("content_block_delta", index=self._n_blocks - 1, delta=delta)

    def _finish(self, usage: Usage) -> bytes:
        end = _sent("message_delta", delta=_end(self._end), usage=_usage(usage))
        return self._close() + end + _sent("message_stop")


PING = b'event: ping\ndata: {"type": "ping"}\n\n'


def failed(body: Mapping[str, object]) -> bytes:
    """The last event of a stream that fails."""
    return sse(body, "error")


def _sent(kind: str, **content: JsonValue) -> bytes:
    return sse({"type": kind, **content}, kind)


# -- what both say

_NO_END: dict[str, JsonValue] = {"stop_reason": None, "stop_sequence": None}


def _opened(
    event: TextDelta | ThoughtDelta | ToolArguments, before: dict[str, JsonValue] | None
) -> dict[str, JsonValue] | None:
    """The block that this begins; None where it goes on with the one before."""
    kind = before["type"] if before is not None else None
    match event:
        case TextDelta() if kind != "text":
            return {"type": "text", "text": ""}
        case ThoughtDelta() if kind != "thinking":
            return {"type": "thinking", "thinking": "", "signature": ""}
        case _:
            return None


def _tool(event: ToolBegun) -> dict[str, JsonValue]:
    return {"type": "tool_use", "id": event.id, "name": event.name, "input": {}}


def _shown(about: About, event: TextDelta | ThoughtDelta | ToolArguments) -> str:
    return "" if about.hides_thoughts and isinstance(event, ThoughtDelta) else event.text


def _message(about: About, usage: JsonValue) -> dict[str, JsonValue]:
    head: dict[str, JsonValue] = {"id": about.id, "type": "message", "role": "assistant", "model": about.model}
    return {**head, "usage": usage}


def _end(end: Finished) -> dict[str, JsonValue]:
    is_stopped = end.finish == "stop" and end.stop is not None
    return {
        "stop_reason": "stop_sequence" if is_stopped else _REASONS[end.finish],
        "stop_sequence": end.stop if is_stopped else None,
    }


def _usage(usage: Usage) -> JsonValue:
    cost = {"instructions": usage.instructions, "cycles": usage.cycles, "calls": usage.n_calls}
    receipts: dict[str, JsonValue] = {**usage.told_receipts}
    return {**_tokens(usage), **cost, **receipts}


def _tokens(usage: Usage) -> dict[str, JsonValue]:
    return {
        "input_tokens": usage.n_prompt - usage.n_cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.n_cached,
        "output_tokens": usage.n_generated,
        "output_tokens_details": {"thinking_tokens": usage.n_thought},
    }
