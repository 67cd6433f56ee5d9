"""Logs and request ids. Logs go to stderr, never to stdout, where commands print their answers.

A log line is an event and its fields: `get_logger(__name__).info("model loaded", canister=name, seconds=1.2)`. Lines of
the standard library's `logging` (uvicorn, alembic) go the same way. Until `set_up_logs` is called, as in a library or a
test, only warnings are shown.
"""

from __future__ import annotations

import json
import logging
import logging.handlers
import os
import re
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from datetime import UTC, datetime
from types import MappingProxyType
from typing import TextIO

from canister.telemetry.console import ConsoleRenderer, colors_wanted
from canister.telemetry.recent import RecentLogs

Event = dict[str, object]
"""A line: timestamp, level and event first, which a person looks for, then its fields and its logger."""

_FIELDS: ContextVar[Mapping[str, object]] = ContextVar("log fields", default=MappingProxyType({}))

_LEVELS = {level: logging.getLevelName(level).lower() for level in (logging.DEBUG, logging.INFO, logging.WARNING)}

RECENT = RecentLogs()
"""What was logged last, since `set_up_logs`."""


class Logger:
    """Logs events under the name of a module. A level that is not shown costs next to nothing."""

    __slots__ = ("_logger",)

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def debug(self, event: str, **fields: object) -> None:
        self._log(logging.DEBUG, event, fields)

    def info(self, event: str, **fields: object) -> None:
        self._log(logging.INFO, event, fields)

    def warning(self, event: str, **fields: object) -> None:
        self._log(logging.WARNING, event, fields)

    def error(self, event: str, **fields: object) -> None:
        """exc_info, as of all levels: an exception, or True for the one that is handled, whose stack is logged."""
        self._log(logging.ERROR, event, fields)

    def exception(self, event: str, **fields: object) -> None:
        """An error, with the stack of the exception that is handled."""
        self._log(logging.ERROR, event, {"exc_info": True, **fields})

    def _log(self, level: int, event: str, fields: Event) -> None:
        logger = self._logger
        if not logger.isEnabledFor(level):
            return
        line = _event(level, event, fields, logger.name)
        handlers = logging.root.handlers
        if len(handlers) == 1 and isinstance(handlers[0], _Lines):
            handlers[0].write(line)  # the usual way, without a record of logging, which would take as long as the line
        else:
            logger.handle(logger.makeRecord(logger.name, level, "", 0, line, (), None))


def get_logger(name: str) -> Logger:
    """The logger of a module; `name` is its `__name__`."""
    return Logger(name)


def _event(level: int, event: str, fields: Mapping[str, object], logger: str) -> Event:
    now = datetime.now(UTC).replace(tzinfo=None).isoformat()
    level_name = _LEVELS.get(level) or logging.getLevelName(level).lower()
    line = {"timestamp": f"{now}Z", "level": level_name, "event": event, **_FIELDS.get(), **fields, "logger": logger}
    error = line.pop("exc_info", None)
    if error:
        line["exception"] = _stack(error)
    return line


def _stack(error: object) -> str:
    """error: an exception, what `sys.exc_info` returns, or True for the exception that is handled."""
    if isinstance(error, tuple):
        error = error[1]
    elif error is True:
        error = sys.exc_info()[1]
    return "".join(traceback.format_exception(error)).rstrip("\n") if isinstance(error, BaseException) else "None"


class _Lines(logging.Handler):
    """Writes lines to a stream, and keeps them in RECENT as JSON. console: renders them for a person; None: JSON."""

    def __init__(self, stream: TextIO, console: ConsoleRenderer | None) -> None:
        super().__init__()
        self._stream = stream
        self._console = console
        self._writing = threading.Lock()

    def emit(self, record: logging.LogRecord) -> None:
        """A line of the standard library's logging, or one of ours that was held back."""
        try:
            line = record.msg
            if not isinstance(line, dict):
                fields = {"exc_info": record.exc_info} if record.exc_info else {}
                line = _event(record.levelno, record.getMessage(), fields, record.name)
            self.write(line)
        except Exception:
            self.handleError(record)

    def write(self, line: Event) -> None:
        """A stream that is gone gets nothing more, which stops nobody."""
        as_json = _to_json(line)
        text = as_json if self._console is None else self._console(line)
        RECENT.add(as_json, line.get("canister"))
        with self._writing, suppress(OSError, ValueError):
            self._stream.write(f"{text}\n")
            self._stream.flush()


_to_json = json.JSONEncoder(default=repr).encode  # made once: `json.dumps` makes one for each line


def set_up_logs(level: str, log_format: str) -> None:
    """Send log lines of `level` and above to stderr. log_format: json, console, or auto: console on a terminal."""
    on_terminal = sys.stderr.isatty()
    console = None
    if log_format == "console" or (log_format == "auto" and on_terminal):
        console = ConsoleRenderer(colors=colors_wanted(os.environ, on_terminal=on_terminal))
    root = logging.getLogger()
    root.handlers = [_Lines(sys.stderr, console)]
    root.setLevel(level.upper())
    # Our own lines say what theirs would: who listens where, which requests came.
    for chatty in ("uvicorn", "alembic"):
        logging.getLogger(chatty).setLevel(max(logging.WARNING, root.level))


@contextmanager
def logs_held_back() -> Iterator[Callable[[], None]]:
    """Keep log lines until the yielded function is called, or until the end, since something else is to be read
    first.
    """
    root = logging.getLogger()
    handlers = root.handlers
    held = logging.handlers.MemoryHandler(10_000, logging.CRITICAL + 1)
    root.handlers = [held]

    def release() -> None:
        if root.handlers == [held]:
            root.handlers = handlers
            for record in held.buffer:
                root.handle(record)
            held.buffer.clear()

    try:
        yield release
    finally:
        release()


# -- request ids

_SANE_REQUEST_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/+=-]{0,127}")


def request_id(given: str | None) -> str:
    """The id that a client gave its request, or a new one if it gave none that suits a log line."""
    if given is not None and _SANE_REQUEST_ID.fullmatch(given):
        return given
    return os.urandom(8).hex()


@contextmanager
def log_fields(**fields: object) -> Iterator[None]:
    """Add these fields to every line that this task, and tasks that it starts, log inside."""
    token = _FIELDS.set({**_FIELDS.get(), **fields})
    try:
        yield
    finally:
        _FIELDS.reset(token)
