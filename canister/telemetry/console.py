"""A log event as a person reads it at a terminal: one line, which fits into 100 columns where it can.

12:03:04 POST /canisters/llama_cpp/run_update 200 152.3 ms  caller=pfcrc-…-sae
12:03:09 warning: disk is nearly full  free_bytes=7
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

_COLORS = {"debug": "\x1b[2m", "warning": "\x1b[33m", "error": "\x1b[31m", "critical": "\x1b[31m"}
_DIM, _RESET = "\x1b[2m", "\x1b[0m"
_PRINCIPAL = re.compile(r"([a-z2-7]{5})(?:-[a-z2-7]{5}){6,}-([a-z2-7]{1,5})")  # longer than a canister's
_FOR_MACHINES = ("logger", "request_id")  # shown only with what is wrong


class ConsoleRenderer:
    """Makes the text of an event."""

    def __init__(self, *, colors: bool) -> None:
        self._colors = colors

    def __call__(self, event: Mapping[str, Any]) -> str:
        fields = dict(event)
        moment = _clock(fields.pop("timestamp", None))
        level = fields.pop("level", "info")
        exception = fields.pop("exception", None)
        text = str(fields.pop("event", ""))
        if text == "request":
            text = _request(fields)
        if level in ("debug", "info"):
            for name in _FOR_MACHINES:
                fields.pop(name, None)
        head = text if level in ("debug", "info") else f"{level}: {text}"
        line = f"{self._in(_DIM, moment)} {self._in(_COLORS.get(level, ''), head)}"
        shown = " ".join(f"{name}={_value(value)}" for name, value in fields.items() if value is not None)
        if shown:
            line += f"  {self._in(_DIM, shown)}"
        return f"{line}\n{exception}" if exception else line

    def _in(self, color: str, text: str) -> str:
        return f"{color}{text}{_RESET}" if self._colors and color else text


def colors_wanted(environment: Mapping[str, str], *, on_terminal: bool) -> bool:
    """On a terminal that knows colors, unless NO_COLOR is set (https://no-color.org)."""
    return on_terminal and not environment.get("NO_COLOR") and environment.get("TERM") != "dumb"


def _clock(timestamp: object) -> str:
    """Local time of day."""
    try:
        return datetime.fromisoformat(str(timestamp)).astimezone().strftime("%H:%M:%S")
    except ValueError:
        return "--:--:--"


def _request(fields: dict[str, Any]) -> str:
    """What every request line has, without names."""
    known = [fields.pop(name, None) for name in ("verb", "path", "status", "milliseconds")]
    verb, path, status, milliseconds = known
    return f"{verb} {path} {status} {milliseconds} ms"


def _value(value: object) -> str:
    if isinstance(value, str):
        text = _PRINCIPAL.sub(r"\1-…-\2", value)
    elif isinstance(value, list | tuple):
        text = ",".join(map(str, value))
    else:
        text = repr(value)
    is_plain = text.isprintable() and " " not in text and text != ""
    return text if is_plain else repr(text)
