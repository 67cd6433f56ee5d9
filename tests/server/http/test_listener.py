"""Listening, and the end of a server that still has work."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from canister.config import Settings
from canister.errors import Cancelled
from canister.runtime.host import Host
from canister.server.http.listener import Server
from canister.server.middleware.bounds import Bounds
from canister.server.middleware.entrance import Checks
from canister.server.requests import while_connected
from canister.server.sockets import bind, url_of

pytestmark = pytest.mark.anyio


async def test_a_call_ends_when_its_connection_does(host: Host) -> None:
    started, cancelled = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        started.set()
        try:
            await asyncio.sleep(60)
        finally:
            cancelled.set()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        with contextlib.suppress(Cancelled):
            await while_connected(Request(scope, receive), work())

    async with serving(app, host, 1) as (_, url):
        _, writer = await asyncio.open_connection(*url.removeprefix("http://").split(":"))
        writer.write(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}")
        await started.wait()
        writer.close()
        await asyncio.wait_for(cancelled.wait(), 60)


# -- ending


class App:
    """Answers when told to."""

    def __init__(self) -> None:
        self.started = asyncio.Event()
        self.may_end = asyncio.Event()
        self.was_cancelled = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.started.set()
        try:
            await self.may_end.wait()
        except asyncio.CancelledError:
            self.was_cancelled = True
            raise
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]})
        await send({"type": "http.response.body", "body": b"done"})


@asynccontextmanager
async def serving(app: ASGIApp, host: Host, drain_seconds: float) -> AsyncIterator[tuple[asyncio.Task[None], str]]:
    settings = Settings(data_dir=host.data_dir, drain_seconds=drain_seconds).server
    like_host = cast(Any, SimpleNamespace(**vars(host)))
    like_host.settings, like_host.default, like_host.is_idle, like_host.n_calls = settings, host.default, True, 0
    with bind("127.0.0.1", 0) as listener:
        url = url_of(listener)
        server = Server(Checks(app, [Bounds(like_host)]), like_host)
        task = asyncio.create_task(server.serve([listener]))
        try:
            yield task, url
        finally:
            server.should_exit = True
            await task


async def until_draining(url: str) -> None:
    """Until the signal has arrived: then every new request is refused."""
    async with httpx.AsyncClient() as client:
        async with asyncio.timeout(60):
            while True:  # one that comes before the signal is not answered
                with contextlib.suppress(httpx.TimeoutException):
                    if (await client.get(url, timeout=0.1)).status_code == 503:
                        return
                await asyncio.sleep(0.02)


async def test_running_calls_are_finished_and_new_ones_refused(host: Host) -> None:
    app = App()
    async with serving(app, host, 30) as (task, url), httpx.AsyncClient() as client:
        running = asyncio.create_task(client.get(url))
        await app.started.wait()
        os.kill(os.getpid(), signal.SIGTERM)
        await until_draining(url)
        late = await client.get(url)
        assert (late.status_code, late.headers["connection"]) == (503, "close")
        assert int(late.headers["retry-after"]) > 0
        assert late.json()["error_code"] == "IC0509"
        assert not task.done()
        app.may_end.set()
        assert (await running).text == "done"
        await asyncio.wait_for(task, 60)  # and the signal does not come back to kill us
    assert not app.was_cancelled


async def test_calls_that_take_too_long_are_cancelled(host: Host) -> None:
    app = App()
    async with serving(app, host, 1) as (task, url), httpx.AsyncClient() as client:
        running = asyncio.create_task(client.get(url, timeout=30))
        await app.started.wait()
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(task, 60)
        assert (await running).status_code == 500  # uvicorn's own; app.py has a better one
    assert app.was_cancelled


async def test_a_second_signal_does_not_wait(host: Host) -> None:
    app = App()
    async with serving(app, host, 600) as (task, url), httpx.AsyncClient() as client:
        running = asyncio.create_task(client.get(url))
        await app.started.wait()
        os.kill(os.getpid(), signal.SIGTERM)
        await until_draining(url)
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(task, 60)
        app.may_end.set()
        await asyncio.gather(running, return_exceptions=True)
