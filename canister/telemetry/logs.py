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
import secrets
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

from canister.telemetry.console import ConsoleRenderer, colors_wanted
from canister.telemetry.recent import RecentLogs
from canister.telemetry.structlog_library import structlog

if TYPE_CHECKING:
    from structlog.stdlib import BoundLogger
    from structlog.typing import EventDict, Processor

# Processors of every event, whoever logged it.
_COMMON: list[Processor] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
]


def _heads_first(_logger: object, _method: str, event: EventDict) -> EventDict:
    # The fields that a person looks for stand first in a line of JSON.
    heads = {name: event.pop(name) for name in ("timestamp", "level", "event") if name in event}
    return {**heads, **event}


structlog.configure(
    processors=[structlog.stdlib.filter_by_level, *_COMMON, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
    logger_factory=structlog.stdlib.LoggerFactory(),
    wrapper_class=structlog.stdlib.BoundLogger,
    cache_logger_on_first_use=True,
)


def get_logger(name: str) -> BoundLogger:
    """The logger of a module; `name` is its `__name__`."""
    logger: BoundLogger = structlog.stdlib.get_logger(name)
    return logger


RECENT = RecentLogs()
"""What was logged last, since `set_up_logs`."""


@cache
def _encoder(default: Callable[[object], object]) -> json.JSONEncoder:
    return json.JSONEncoder(default=default)


def _json(event: EventDict, default: Callable[[object], object]) -> str:
    # `json.dumps` makes an encoder for each line, which takes as long as the line.
    return _encoder(default).encode(event)


_AS_JSON: list[Processor] = [
    structlog.processors.format_exc_info,
    _heads_first,
    structlog.processors.JSONRenderer(_json),
]


class _Formatter(structlog.stdlib.ProcessorFormatter):
    """Makes the text of a line once, also where two handlers want it."""

    def __init__(self, render: list[Processor]) -> None:
        processors = [structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render]
        super().__init__(foreign_pre_chain=_COMMON, processors=processors)

    def format(self, record: logging.LogRecord) -> str:
        made_by, text = record.__dict__.get("formatted", (None, ""))
        if made_by is not self:
            text = super().format(record)
            record.formatted = self, text
        return str(text)


def set_up_logs(level: str, log_format: str) -> None:
    """Send log lines of `level` and above to stderr. log_format: json, console, or auto: console on a terminal."""
    on_terminal = sys.stderr.isatty()
    formatter = as_json = _Formatter(_AS_JSON)
    if log_format == "console" or (log_format == "auto" and on_terminal):
        colors = colors_wanted(os.environ, on_terminal=on_terminal)
        formatter = _Formatter([structlog.processors.format_exc_info, ConsoleRenderer(colors=colors)])
    # No line tells its place in the source, its thread or its process, which cost a call a tenth of its log.
    vars(logging).update(
        _srcfile=None, logThreads=False, logMultiprocessing=False, logProcesses=False, logAsyncioTasks=False
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    RECENT.setFormatter(as_json)
    root = logging.getLogger()
    root.handlers = [handler, RECENT]
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
    return secrets.token_hex(8)


@contextmanager
def log_fields(**fields: object) -> Iterator[None]:
    """Add these fields to every line that this task, and tasks that it starts, log inside."""
    with structlog.contextvars.bound_contextvars(**fields):
        yield
