"""Answers that come piece by piece: server-sent events, and lines of JSON.

The head is sent with the first piece, when the request is admitted, or a moment later, since a call that is refused is
refused at once. Until then a failure is a plain answer with its status; later it is a last piece. A comment breaks a
silence, so that no proxy gives up. There is never `id:` or `retry:`, which openai-python takes for events.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

from fastapi import Request, Response
from starlette.types import Receive, Scope, Send

from canister.errors import BadArgument, CanisterError, Trap
from canister.server.answers import stopped
from canister.server.doors.openai.door import failure
from canister.server.doors.openai.errors import DoorError
from canister.server.requests import caller, while_connected

SSE = "text/event-stream"
NDJSON = "application/x-ndjson"
QUIET_SECONDS = 15.0  # after which a comment is sent
HEAD_SECONDS = 0.25  # that the head waits for a second piece
END_SECONDS = 1.0  # that the last piece may take when the server ends
COMMENT = b":\n\n"

# Proxies must hand on each piece as it comes.
_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}

Frames = AsyncGenerator[bytes, None]
Failed = Callable[[DoorError], bytes]


async def streamed(
    request: Request,
    frames: Frames,
    failed: Failed,
    *,
    media_type: str = SSE,
    comment: bytes | None = COMMENT,
    quiet_seconds: float | None = None,
    source: AsyncGenerator[Any] | None = None,
) -> Response:
    """The answer once it has begun. Raises errors that come before its head.

    frames: pieces that stand by themselves; the first may be empty. They are closed in any case, and after them their
    source. failed: makes the last piece of a failing answer. comment: sent after
    quiet_seconds of silence (None: QUIET_SECONDS; infinite: never); None: never.
    """
    pieces = _Pieces(frames, source)
    try:
        await while_connected(request, pieces.begin())
    except BaseException:
        await pieces.aclose()
        raise
    seconds = QUIET_SECONDS if quiet_seconds is None else quiet_seconds
    return _Stream(pieces, lambda error: failed(failure(error, caller(request))), media_type, comment, seconds)


class _Pieces:
    """The pieces of an answer, of which the first is there, and the second on its way."""

    def __init__(self, frames: Frames, source: AsyncGenerator[Any] | None) -> None:
        self._frames, self._source = frames, source
        self._first = b""
        self._second: asyncio.Task[bytes | None] | None = None

    async def begin(self) -> None:
        """Wait for the first piece, and for a moment for the second. Raises what they raise."""
        self._first = await anext(self._frames)
        self._second = asyncio.create_task(self._next())
        done, _ = await asyncio.wait({self._second}, timeout=HEAD_SECONDS)
        for second in done:
            second.result()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._first
        second = None if self._second is None else await self._second
        if second is not None:
            yield second
            async for frame in self._frames:
                yield frame

    async def _next(self) -> bytes | None:
        return await anext(self._frames, None)

    async def aclose(self) -> None:
        if self._second is not None and not self._second.done():
            self._second.cancel()
            await asyncio.wait({self._second})
        await self._frames.aclose()
        if self._source is not None:
            await self._source.aclose()


class _Stream(Response):
    """On the event loop, in the task of the request. Sending is cancelled when the client goes away."""

    def __init__(
        self,
        pieces: _Pieces,
        failed: Callable[[DoorError | CanisterError | Trap], bytes],
        media_type: str,
        comment: bytes | None,
        quiet_seconds: float,
    ) -> None:
        self.media_type = media_type
        super().__init__(headers=_HEADERS)
        del self.headers["content-length"]
        self.headers["content-type"] = media_type  # without a charset, which is not for event streams
        self._pieces, self._failed = pieces, failed
        self._comment, self._quiet_seconds = comment, quiet_seconds
        self._sent_at = 0.0
        self._is_sending = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        seconds: float | None = None
        async with aclosing(self._pieces), _cancelled_when_gone(receive) as is_gone, self._comments(send):
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            try:
                async for frame in self._pieces:
                    await self._send(send, frame)
            except (DoorError, CanisterError, Trap) as error:
                await self._send(send, self._failed(error))
            except asyncio.CancelledError:
                if is_gone():
                    raise
                # The end of the server has cancelled the call, or this task.
                own = asyncio.current_task()
                if own is not None:
                    own.uncancel()
                seconds = END_SECONDS
                await _within(seconds, self._send(send, self._failed(stopped())))
        await _within(seconds, send({"type": "http.response.body", "body": b""}))

    async def _send(self, send: Send, frame: bytes) -> None:
        if not frame:
            return
        self._is_sending = True
        await send({"type": "http.response.body", "body": frame, "more_body": True})
        self._sent_at = asyncio.get_running_loop().time()
        self._is_sending = False

    @contextlib.asynccontextmanager
    async def _comments(self, send: Send) -> AsyncIterator[None]:
        """While inside, comments in silences. Pieces and comments are whole, so that they may follow in any order."""
        if self._comment is None or self._quiet_seconds == math.inf:
            yield
            return
        task = asyncio.create_task(self._comment_on(send, self._comment))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])

    async def _comment_on(self, send: Send, comment: bytes) -> None:
        loop = asyncio.get_running_loop()
        self._sent_at = loop.time()
        while True:
            left = self._sent_at + self._quiet_seconds - loop.time()
            if left > 0 or self._is_sending:
                await asyncio.sleep(max(left, self._quiet_seconds / 4))
                continue
            await send({"type": "http.response.body", "body": comment, "more_body": True})
            self._sent_at = loop.time()


async def _within(seconds: float | None, sending: Awaitable[None]) -> None:
    """Who does not read is not waited for any longer. None: waited for."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await sending


@contextlib.asynccontextmanager
async def _cancelled_when_gone(receive: Receive) -> AsyncIterator[Callable[[], bool]]:
    """Cancel the work inside when the client goes away, which ends it without an error. Yields whether it has gone."""
    own = asyncio.current_task()
    assert own is not None
    is_over = is_gone = False

    async def until_gone() -> None:
        while True:
            with contextlib.suppress(BadArgument):  # drop the rest of a body that nobody wants
                if (await receive())["type"] == "http.disconnect":
                    return

    def on_gone(done: asyncio.Task[None]) -> None:
        nonlocal is_gone
        if done.cancelled() or is_over:
            return
        is_gone = True
        done.exception()  # whatever it was, the client is gone
        own.cancel()

    watch = asyncio.create_task(until_gone())
    watch.add_done_callback(on_gone)
    try:
        yield lambda: is_gone
        if is_gone:  # too late to matter
            own.uncancel()
    except asyncio.CancelledError:
        if not is_gone or own.uncancel() > 0:
            raise
    finally:
        is_over = True
        watch.cancel()
