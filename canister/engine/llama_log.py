"""What llama.cpp logs goes to Python's log, as canister.llama_cpp, and never to stderr."""

from __future__ import annotations

import logging
import threading

log = logging.getLogger("canister.llama_cpp")
log.addHandler(logging.NullHandler())
_ERROR, _CONTINUED = 4, 5
# One level lower than in llama.cpp, which writes a hundred lines a model that only help to find a fault.
_LEVELS = {1: logging.DEBUG, 2: logging.DEBUG, 3: logging.INFO, _ERROR: logging.ERROR}
# llama.cpp compares the cells of a stream with the training context. A stream has more cells than a conversation may
# have tokens, so it would warn about every model that is loaded with its own context size.
_UNTRUE = "possible training context overflow"
_said = threading.local()  # per thread: the line being continued, its level, the first complaint, lines held back


def take(level: int, text: bytes | None) -> None:
    """A line of llama.cpp's, or a piece of one, in its own levels."""
    level = getattr(_said, "level", 1) if level == _CONTINUED else level
    line = getattr(_said, "line", "") + (text or b"").decode("utf-8", "replace")
    _said.level, _said.line = level, line
    if line.endswith("\n"):
        _said.line = ""
        held: list[tuple[int, str]] | None = getattr(_said, "held", None)
        if held is None:
            _tell(level, line)
        else:
            held.append((level, line))


def _tell(level: int, line: str) -> None:
    if level == _ERROR and not getattr(_said, "complaint", ""):
        _said.complaint = line.strip().split(": ", 1)[-1]  # without the C function's name
    is_told = _UNTRUE not in line
    log.log(_LEVELS.get(level, logging.DEBUG) if is_told else logging.DEBUG, "%s", line.rstrip())


def hold() -> None:
    """Keep this thread's lines back until `release` tells what they are about."""
    _said.held = []


def release(*, was_wanted: bool) -> None:
    """Log the lines that were held back. was_wanted: they tell of an end that was asked for, which is no error."""
    held, _said.held = getattr(_said, "held", None) or [], None
    for level, line in held:
        if was_wanted:
            log.debug("%s", line.rstrip())
        else:
            _tell(level, line)


def complaint() -> str:
    """The first error that llama.cpp logged on this thread. Asking for it forgets it."""
    text: str = getattr(_said, "complaint", "")
    _said.complaint = ""
    return text
