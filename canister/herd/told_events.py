"""The events of a whole answer that its client has. What the next worker tells again is passed over.

An answer comes as server-sent events or as lines of JSON. Events of one choice come in one order at every worker. How
those of several choices mix depends on the time, so each choice is compared by itself.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator
from typing import Any

from canister.herd.jobs import StreamBroken

LINES = "application/x-ndjson"
EVENTS = "text/event-stream"

# What another machine, or another time, tells otherwise, in any of the dialects.
_PASSING = frozenset(
    {
        *("created_at", "timings", "usage", "prompt_progress", "time_ms"),
        *("total_duration", "load_duration", "prompt_eval_duration", "eval_duration"),
    }
)


class ToldEvents:
    """Of one answer."""

    def __init__(self) -> None:
        self._told: list[bytes] = []
        self._again: dict[object, deque[object]] | None = None  # that this try has still to tell, by choice
        self._separator: bytes | None = None

    @property
    def have_begun(self) -> bool:
        return bool(self._told)

    def begin(self, media_type: str) -> None:
        """A try begins, from the start. media_type: of its stream; any other answer is one event. Raises StreamBroken
        when it has another form than the try before.
        """
        kind = media_type.partition(";")[0].strip()
        separator = {EVENTS: b"\n\n", LINES: b"\n"}.get(kind)
        if not self._told:
            self._separator, self._again = separator, None
            return
        if separator != self._separator:
            raise StreamBroken(f"another worker answers with {kind}: send the request again")
        self._again = {}
        for event in (event for piece in self._told for event in self._split(piece)):
            if not _is_silence(event):
                choice, content = _read(event)
                self._again.setdefault(choice, deque()).append(content)

    def take(self, data: bytes) -> bytes:
        """What of these whole events is new to the client. Raises StreamBroken."""
        if self._again is None:
            self._told.append(data)
            return data
        new = bytearray()
        for event in self._split(data):
            if _is_silence(event):
                continue
            choice, content = _read(event)
            left = self._again.get(choice)
            if not left:
                self._told.append(event)
                new += event
            elif left.popleft() != content:
                raise StreamBroken(
                    "the worker of this answer was lost, and another one gives another answer, since it is not exact: "
                    "send the request again"
                )
        return bytes(new)

    def _split(self, data: bytes) -> Iterator[bytes]:
        if self._separator is None:
            yield data
            return
        *events, rest = data.split(self._separator)
        for event in events:
            yield event + self._separator
        if rest:
            yield rest


def _is_silence(event: bytes) -> bool:
    """A sign of life, which comes by the clock: a comment, a ping, a line of Ollama's without text."""
    if event.startswith((b":", b"event: ping")) or not event.strip():
        return True
    if not event.startswith(b"{"):
        return False
    content = _parsed(event)
    if not isinstance(content, dict) or content.get("done") is not False:
        return False
    message = content.get("message")
    told = [value for name, value in message.items() if name != "role"] if isinstance(message, dict) else []
    return not any(told) and not content.get("response") and not content.get("thinking")


def _read(event: bytes) -> tuple[object, object]:
    """The choice that an event is of, and what must be the same in another try."""
    named, separator, data = event.rpartition(b"data: ")
    content = _parsed(data if separator else event)
    if not isinstance(content, dict):
        return None, event
    choices = content.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else content
    return first.get("index") if isinstance(first, dict) else None, (named, _lasting(content))


def _parsed(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        return None


def _lasting(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _lasting(one) for name, one in value.items() if name not in _PASSING}
    return [_lasting(one) for one in value] if isinstance(value, list) else value
