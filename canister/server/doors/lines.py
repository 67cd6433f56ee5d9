"""A run as a stream of lines (`application/x-ndjson`): its text while it runs, then its answer.

    {"text": "…"}                 provisional; put together they are `output`
    {"text": "…", "echo": true}   of the prompt: the run's first piece, where the last batch was one token long
    {"Ok": …, "cost": {…}}        the last line: the answer as it is without a stream, with the costs that are headers
                                  there; or {"Err": …}, or a reject

A run that ends before its first text has the HTTP status that it has without a stream.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Response
from starlette.types import Receive, Scope, Send

from canister.api.methods import Method
from canister.dispatch import Reply
from canister.errors import Cancelled, Trap
from canister.server import answers

# Proxies must hand on each line as it comes.
_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}

Run = Callable[[Callable[[str, bool], None]], Coroutine[Any, Any, Reply]]


class LineStream(Response):
    """run: executes the method and reports its text, and whether that is echoed. The response cancels it when it ends
    early.
    """

    media_type = answers.LINES

    def __init__(self, method: Method, run: Run) -> None:
        super().__init__(headers=_HEADERS)
        del self.headers["content-length"]
        self._method = method
        self._run = run
        self._has_begun = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        lines: list[bytes] = []
        has_come = asyncio.Event()

        def told(text: str, is_echo: bool) -> None:
            lines.append(_line(text, is_echo))
            has_come.set()

        call = asyncio.create_task(self._run(told))
        call.add_done_callback(lambda _: has_come.set())
        try:
            while True:
                await has_come.wait()
                has_come.clear()
                body = b"".join(lines)  # the tokens of one moment go out together
                lines.clear()
                if body:
                    await self._begin(send)
                    await send({"type": "http.response.body", "body": body, "more_body": True})
                elif call.done():
                    break
                if call.done():
                    has_come.set()
        except asyncio.CancelledError:
            await _cancelled(call)
            if call.cancelled() and not self._has_begun:
                raise
        except BaseException:
            await _cancelled(call)
            raise
        await self._end(call, scope, receive, send)

    async def _begin(self, send: Send) -> None:
        if not self._has_begun:
            self._has_begun = True
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})

    async def _end(self, call: asyncio.Task[Reply], scope: Scope, receive: Receive, send: Send) -> None:
        try:
            reply = Reply(None) if call.cancelled() else call.result()
            last = answers.reject(answers.stopped()) if call.cancelled() else answers.answer(self._method, reply)
        except Trap as trap:
            if not self._has_begun:
                raise
            if isinstance(trap, Cancelled):
                return  # nobody is there any more
            last = answers.reject(trap)
        if self._has_begun:
            await send({"type": "http.response.body", "body": _with_cost(last)})
            return
        if last.status_code == 200:
            last.headers.update({"content-type": answers.LINES, **_HEADERS})
        await last(scope, receive, send)


def _line(text: str, is_echo: bool) -> bytes:
    return answers.json_bytes({"text": text, "echo": True}) if is_echo else b'{"text": %b}\n' % answers.json_text(text)


def _with_cost(last: Response) -> bytes:
    """The last line. Its costs were not known when headers were sent."""
    told = {name: last.headers.get(f"x-ic-{name}") for name in ("instructions", "cycles", "limit")}
    if told["instructions"] is None:
        return bytes(last.body)
    numbers = {name: None if value in (None, "none") else int(value or 0) for name, value in told.items()}
    cost = answers.json_bytes({"cost": numbers}).strip()
    return bytes(last.body).rstrip()[:-1] + b"," + cost[1:] + b"\n"


async def _cancelled(call: asyncio.Task[Reply]) -> None:
    """Cancel a call and wait until it has cleaned up."""
    call.cancel()
    await asyncio.wait([call])
