"""Connections: how many there may be, and how long a slow client may hold one. uvicorn's own, with a watch on each.

A client is slow while it owes something (the head of a request, more of a body, taking an answer) and less than
MIN_BYTES_PER_SECOND come through. It is then disconnected, which cancels its call as if it had gone away. A client that
waits for our work owes nothing, however long that takes.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

from uvicorn.protocols.http.auto import AutoHTTPProtocol

from canister.config import ServerSettings
from canister.server.http.corked import Corked
from canister.telemetry import metrics

MIN_BYTES_PER_SECOND = 1000
MAX_HEAD_BYTES = 256 * 1024  # of a request; dry runs of AO have all tags in their path
CHECKS = 4  # in the shortest of the times that are watched

_FULL = (  # sent before there is a request that an app could answer
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 2\r\nConnection: close\r\n"
    b"Content-Length: %d\r\n\r\n%b"
)


class Connection(AutoHTTPProtocol):  # type: ignore[misc, valid-type]  # which one depends on what is installed
    """One connection, whether a request is under way on it or not."""

    transport: asyncio.Transport
    connections: set[Any]
    cycle: Any  # the request under way, or the last one; None before the first
    flow: Any
    loop: asyncio.AbstractEventLoop

    def __init__(self, settings: ServerSettings, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._settings = settings
        self._period = min(settings.header_seconds, settings.stall_seconds) / CHECKS
        self._watch: asyncio.TimerHandle | None = None
        self.head_since: float | None = None  # since when it has waited for the head of a request
        self._n_head = 0  # bytes of a head that is not complete
        self._n_received = 0  # since the last check
        self._n_buffered: int | None = None  # of the answer, at the last check; None: it went on meanwhile
        self._slow_seconds = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(Corked(cast("asyncio.Transport", transport), self.loop))
        metrics.CONNECTIONS.inc()
        self.head_since = self.loop.time()
        self._watch = self.loop.call_later(self._period, self._check)
        if len(self.connections) > self._settings.max_connections:
            self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        metrics.CONNECTIONS.dec()
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._n_received += len(data)
        super().data_received(data)
        if self.head_since is None:
            return
        if self._is_busy():
            self.head_since, self._n_head = None, 0
            return
        if self._has_rest():
            return
        if not self._n_head:
            self.head_since = self.loop.time()
        self._n_head += len(data)
        if self._n_head > MAX_HEAD_BYTES:
            self.transport.abort()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self._is_busy():  # otherwise the next request was in the pipeline already
            self.head_since = self.loop.time()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._n_buffered = None

    def _is_busy(self) -> bool:
        """Has a request begun that is not yet answered?"""
        return self.cycle is not None and not self.cycle.response_complete

    def _has_rest(self) -> bool:
        """Is the client perhaps still sending the body of a request that was answered without it?"""
        return self.cycle is not None and bool(self.cycle.more_body)

    def _make_room(self) -> None:
        """Close the connection that has waited longest for a request, or send this one away."""
        waiting = [one for one in self.connections if one is not self and one.head_since is not None]
        if waiting:
            min(waiting, key=lambda one: float(one.head_since)).transport.abort()
            return
        metrics.refused("server")
        limit = self._settings.max_connections
        message = (
            f'{{"reject_code": 2, "error_code": "IC0201", "reject_message": "the server has {limit} connections, '
            f'its limit (max_connections = {limit}), and all are in use; try again later"}}'
        ).encode()
        self.transport.write(_FULL % (len(message), message))
        self.transport.close()

    def _check(self) -> None:
        self._watch = self.loop.call_later(self._period, self._check)
        n_received, self._n_received = self._n_received, 0
        before, self._n_buffered = self._n_buffered, self.transport.get_write_buffer_size()
        n_least = MIN_BYTES_PER_SECOND * self._period
        if self._n_buffered:
            is_slow = before is not None and before - self._n_buffered < n_least
        elif self.head_since is not None:
            # Between two requests nothing is owed: uvicorn ends a connection that is idle for long.
            is_idle = self.cycle is not None and not self._n_head and not self._has_rest()
            if not is_idle and self.loop.time() - self.head_since > self._settings.header_seconds:
                self.transport.abort()
            return
        else:
            is_slow = self._owes_body() and n_received < n_least
        self._slow_seconds = self._slow_seconds + self._period if is_slow else 0.0
        if self._slow_seconds >= self._settings.stall_seconds:
            self.transport.abort()

    def _owes_body(self) -> bool:
        return (
            self._is_busy()
            and self.cycle.more_body
            and not self.cycle.waiting_for_100_continue
            and not self.flow.read_paused
        )
