"""A server without canisters, for an app that passes requests on to another one."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from starlette.types import ASGIApp, Receive, Scope, Send

from canister.config import ServerSettings
from canister.errors import Trap
from canister.server import answers
from canister.server.doors.openai import entrance as openai
from canister.server.http.listener import Server
from canister.server.middleware.browsers import Browsers
from canister.server.middleware.request_log import RequestLog

T = TypeVar("T")


@dataclass
class _NoCanisters:
    settings: ServerSettings
    is_draining: bool = False
    must_end: bool = False
    is_idle: bool = True  # the server itself knows the requests that run
    n_calls: int = 0


async def serve_until(
    app: ASGIApp,
    settings: ServerSettings,
    listener: socket.socket,
    until: Awaitable[T],
    *,
    begun: Callable[[], None] = lambda: None,
    ending: Callable[[], None] = lambda: None,
) -> T | None:
    """Serve an app until something has happened, and return that; None: the process was told to end before.

    The listener stays open, and who connects meanwhile waits in it. app: may raise a Trap for its answer. begun: called
    once it listens. ending: when it is to end, with requests that may still run.
    """
    served = _NoCanisters(settings)
    server = Server(RequestLog(Browsers(_answering(app), served), openai.rejected), served, begun)
    waiting = asyncio.ensure_future(until)
    serving = asyncio.create_task(server.serve([listener.dup()]))
    try:
        await asyncio.wait({waiting, serving}, return_when=asyncio.FIRST_COMPLETED)
        ending()
        server.should_exit = True
        await serving
    finally:
        if not waiting.done():
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
    if waiting.cancelled() or served.is_draining:
        server.stopped()
        return None
    return waiting.result()


def _answering(app: ASGIApp) -> ASGIApp:
    """An app whose traps are answered as those of doors are."""

    async def answered(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await app(scope, receive, send)
        except Trap as trap:
            await answers.rejected(scope, trap)(scope, receive, send)

    return answered
