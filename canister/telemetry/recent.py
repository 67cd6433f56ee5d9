"""The last log lines of this process, in memory: what controllers are shown of the log without access to its file.

Bounded in lines and in bytes; the oldest ones go first. Indexes grow from one process to the next, so that who asks for
what is new is not misled by a restart.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

MAX_LINES = 2_000
MAX_BYTES = 1_000_000
MAX_LINE_BYTES = 16_000  # a stack trace is longer than that only when it repeats itself


@dataclass(frozen=True, slots=True)
class Line:
    """canister: whose name is in the line; None: it is about the server, or a request. text: a line of JSON."""

    index: int
    time_ns: int
    canister: str | None
    text: bytes


class RecentLogs:
    """Keeps what it is given, by any thread."""

    def __init__(self) -> None:
        self._lines: deque[Line] = deque()
        self._n_bytes = 0
        self._next_index = time.time_ns() // 1000
        self._lock = threading.Lock()

    def add(self, text: str, canister: object = None) -> None:
        """A line of JSON, and whose canister's it is, if any."""
        data = text.encode("utf-8", "replace")[:MAX_LINE_BYTES]
        name = None if canister is None else str(canister)
        with self._lock:
            self._lines.append(Line(self._next_index, time.time_ns(), name, data))
            self._next_index += 1
            self._n_bytes += len(data)
            while len(self._lines) > MAX_LINES or self._n_bytes > MAX_BYTES:
                self._n_bytes -= len(self._lines.popleft().text)

    def lines(self, canister: str | None = None) -> Iterator[Line]:
        """Those about a canister, or all, oldest first."""
        with self._lock:
            known = tuple(self._lines)
        return (line for line in known if canister in (None, line.canister))
