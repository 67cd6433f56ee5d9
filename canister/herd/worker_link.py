"""Connections to one worker that are kept and used again, for many small requests: HTTP/1.1 as the private door speaks
it.

A general client costs a call more than all that the leader does for it. This one writes a request at once and hands on
what comes as it comes, without a task or a stream of its own. httptools, uvicorn's own, reads the answers.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import urlsplit

import httptools

CONNECT_SECONDS = 2.0
IDLE_SECONDS = 15.0  # that a connection is kept without use; the worker keeps it for longer
PIECE_BYTES = 256 * 1024  # written without a look at others
MAX_ANSWER_BYTES = 16 << 20  # of one that is held as a whole

OnBody = Callable[[bytes], None]


class LinkLost(Exception):
    """There was no whole answer. was_sent: the worker may have got the request, and nobody knows what it did."""

    def __init__(self, message: str, *, was_sent: bool = True) -> None:
        super().__init__(message)
        self.was_sent = was_sent


@dataclass(frozen=True, slots=True)
class LinkAnswer:
    """body: empty, if it was handed on as it came."""

    status: int
    body: bytes


class WorkerLink:
    """Of one worker's process. Closed at its end."""

    def __init__(self, url: str) -> None:
        """url: unix:PATH or http://HOST:PORT."""
        self._path = url.removeprefix("unix:") if url.startswith("unix:") else None
        parts = urlsplit(url)
        self._address = (parts.hostname or "", parts.port or 80)
        self._host = "localhost" if self._path is not None else parts.netloc
        self._idle: list[_Connection] = []
        self._used: set[_Connection] = set()
        self._is_closed = False

    def close(self) -> None:
        """Whoever still waits for an answer gets LinkLost."""
        self._is_closed = True
        for connection in (*self._idle, *self._used):
            connection.abort()
        self._idle.clear()

    async def ask(
        self, method: str, target: str, body: bytes, headers: Mapping[str, str], on_body: OnBody | None = None
    ) -> LinkAnswer:
        """Send a request and wait for the end of its answer. Raises LinkLost, and what `on_body` raises.

        on_body: gets the body of an answer with status 200, in the pieces in which it comes. If this is cancelled, the
        connection ends, by which the worker sees that nobody waits any more.
        """
        told = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        head = f"{method} {target} HTTP/1.1\r\nHost: {self._host}\r\n{told}Content-Length: {len(body)}\r\n\r\n".encode()
        connection = await self._connection()
        self._used.add(connection)
        try:
            answer = await connection.exchange(head, body, on_body)
        finally:
            self._used.discard(connection)
            if connection.is_usable and not self._is_closed:
                self._idle.append(connection)
            else:
                connection.abort()
        return answer

    async def _connection(self) -> _Connection:
        oldest = time.monotonic() - IDLE_SECONDS
        while self._idle:
            connection = self._idle.pop()
            if connection.is_usable and connection.used_at > oldest:
                return connection
            connection.abort()
        if self._is_closed:
            raise LinkLost("its process has ended", was_sent=False)
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                if self._path is not None:
                    _, made = await loop.create_unix_connection(_Connection, self._path)
                else:
                    _, made = await loop.create_connection(_Connection, *self._address)
        except (OSError, TimeoutError) as error:
            raise LinkLost(f"{type(error).__name__}: {error}", was_sent=False) from error
        return made


class _Connection(asyncio.Protocol):
    """One connection, with at most one exchange at a time."""

    def __init__(self) -> None:
        self.used_at = time.monotonic()
        self._transport: asyncio.Transport | None = None
        self._parser: Any = None
        self._answered: asyncio.Future[LinkAnswer] | None = None
        self._on_body: OnBody | None = None
        self._body = bytearray()
        self._status = 0
        self._room = asyncio.Event()
        self._room.set()
        self._keeps = True
        self._fault: BaseException | None = None

    @property
    def is_usable(self) -> bool:
        """May another request be sent?"""
        return self._keeps and self._answered is None and self._transport is not None

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    async def exchange(self, head: bytes, body: bytes, on_body: OnBody | None) -> LinkAnswer:
        transport = self._transport
        if transport is None:
            raise LinkLost("the connection was closed", was_sent=False)
        answered: asyncio.Future[LinkAnswer] = asyncio.get_running_loop().create_future()
        self._answered = answered
        self._parser = httptools.HttpResponseParser(self)
        self._on_body, self._status, self._fault = on_body, 0, None
        self._body.clear()
        try:
            if len(body) <= PIECE_BYTES:
                transport.write(head + body)
            else:
                transport.write(head)
                await self._write(transport, body, answered)
            return await answered
        except BaseException:
            self._keeps = False
            raise
        finally:
            self._answered, self.used_at = None, time.monotonic()

    async def _write(self, transport: asyncio.Transport, body: bytes, answered: asyncio.Future[LinkAnswer]) -> None:
        """A large body, as fast as it is taken. Whoever answers before the end does not want the rest."""
        view = memoryview(body)
        for start in range(0, len(body), PIECE_BYTES):
            await self._room.wait()
            if answered.done():
                self._keeps = False
                return
            transport.write(view[start : start + PIECE_BYTES])
            await asyncio.sleep(0)

    # -- of the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._room.set()
        told = f"{type(exc).__name__}: {exc}" if exc is not None else "it closed the connection"
        # With a broken pipe it has not got the whole request, so it cannot have begun.
        self._fail(LinkLost(told, was_sent=not isinstance(exc, BrokenPipeError)))

    def pause_writing(self) -> None:
        self._room.clear()

    def resume_writing(self) -> None:
        self._room.set()

    def data_received(self, data: bytes) -> None:
        if self._answered is None:  # nobody has asked
            self.abort()
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(self._fault or LinkLost(f"its answer is no HTTP: {error}"))
            self.abort()

    def _fail(self, error: BaseException) -> None:
        self._keeps = False
        if self._answered is not None and not self._answered.done():
            self._answered.set_exception(error)

    # -- of the parser, which turns what is raised here into an error of its own

    def on_headers_complete(self) -> None:
        self._status = self._parser.get_status_code()

    def on_body(self, data: bytes) -> None:
        try:
            if self._status == 200 and self._on_body is not None:
                self._on_body(data)
                return
            self._body += data
            if len(self._body) > MAX_ANSWER_BYTES:
                raise LinkLost(f"its answer has more than {MAX_ANSWER_BYTES} bytes")
        except Exception as error:
            self._fault = error
            raise

    def on_message_complete(self) -> None:
        if not self._parser.should_keep_alive():
            self._keeps = False
        if self._answered is not None and not self._answered.done():
            self._answered.set_result(LinkAnswer(self._status, bytes(self._body)))
