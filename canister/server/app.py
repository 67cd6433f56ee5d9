"""The HTTP server: one app made of doors, a host behind it, and the way both start and stop.

    request log → checks (browsers, slashes, encodings, bounds, authentication) → calls → dispatch
                                                                                 → FastAPI's routes → dispatch

A start that fails says so before anything is served, and calls are drained before the canisters stop. So the host does
not live and die with the app (no ASGI lifespan).
"""

from __future__ import annotations

import asyncio
import gc
import socket
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager
from dataclasses import dataclass

from fastapi import FastAPI, Request, Response
from starlette.middleware.errors import ServerErrorMiddleware
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from canister import dispatch
from canister.api.herd_requests import HerdKey, read_secret
from canister.config import ServerSettings, Settings
from canister.dispatch import Dispatcher, answer_making, auditing, timers
from canister.dispatch.key_desk import KeyDesk
from canister.errors import BadRequest, Trap
from canister.runtime.host import Host
from canister.server import answers, crash_stacks, notices, preload
from canister.server.doors import conversations, events, files, ic, keys, models, receipts, rest
from canister.server.doors.openai import entrance as openai
from canister.server.http.listener import Server
from canister.server.middleware.entrance import entrance
from canister.server.middleware.request_log import RequestLog
from canister.server.pages import console, docs, health, openapi
from canister.server.sockets import listening, url_of
from canister.server.supervised import Supervised
from canister.system import data_dir, sandbox
from canister.system.data_dir import LAST_CRASH, LOCK, FolderLock
from canister.telemetry import logs, metrics

# Time for calls that a drain has cut short to roll back.
ROLLBACK_SECONDS = 5.0

log = logs.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Front:
    """What the doors of a started host stand before. routes: that come before all others. wrapped: puts something
    around the app.
    """

    behind: Dispatcher
    routes: Sequence[BaseRoute] = ()
    wrapped: Callable[[FastAPI], ASGIApp] = lambda app: app


Opened = Callable[[Host, str], AbstractAsyncContextManager[Front]]
"""A started host, and the URL at which it is served, to what stands behind the doors meanwhile."""


def run(
    settings: Settings,
    listener: socket.socket | None = None,
    supervised: Supervised | None = None,
    opened: Opened | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT. When the start fails, raises a CanisterError whose message says what to do.

    listener: if it listens already. supervised: what a supervisor holds for this process. opened: None for the host's
    own canisters.
    """
    server = settings.server
    logs.set_up_logs(server.log_level, server.log_format)
    if server.model_draft is not None and server.model is None:
        raise BadRequest(f"--model-draft {server.model_draft} guesses for a model: give --model too")
    if server.model is not None and (
        supervised is None or supervised.greets
    ):  # after a crash the model is there already
        preload.check(server.model, server.model_draft)
    folder = server.data_dir.expanduser().absolute()
    with ExitStack() as stack:
        if supervised is None:
            FolderLock(folder / LOCK).wait_for_orphan()
            if listener is None:
                listener = stack.enter_context(listening(server.listen, server.host, server.port))
            lock = data_dir.take(folder)
        else:
            supervised.end_with_parent()
            listener = stack.enter_context(supervised.listener)
            lock = supervised.lock
        stack.callback(lock.release)
        crash = stack.enter_context(crash_stacks.faults_written(folder))
        if supervised is not None and supervised.crash is not None:
            crash = supervised.crash
        # First tell a person where it listens, whatever is logged meanwhile.
        for_person = notices.is_for_person(server)
        release = stack.enter_context(logs.logs_held_back()) if for_person else lambda: None
        runner = stack.enter_context(asyncio.Runner(loop_factory=new_event_loop))
        runner.run(_serve(Host(settings, lock, crash), listener, supervised, release, opened or alone))


def new_event_loop() -> asyncio.AbstractEventLoop:
    """uvloop's event loop where the platform has one, since it costs a call a third of asyncio's."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


def _tell_confinement(settings: ServerSettings) -> None:
    state = sandbox.state()
    metrics.note_confined(state.is_on)
    if state.is_on:
        log.info("confined: the kernel refuses writes elsewhere", folders=list(state.folders), landlock=state.abi)
    elif settings.confine:
        log.warning("not confined: a fault could write outside the data folder", reason=state.reason)


def _tell_crash(host: Host, supervised: Supervised | None) -> None:
    metrics.note_restarts(0 if supervised is None else supervised.n_crashes)
    if host.crash is not None:
        log.error("the server before this one crashed", crash=host.crash, stacks=str(host.data_dir / LAST_CRASH))


async def _serve(
    host: Host,
    listener: socket.socket,
    supervised: Supervised | None,
    release_logs: Callable[[], None],
    opened: Opened,
) -> None:
    def begun() -> None:
        if supervised is None or supervised.greets:
            notices.tell(notices.greeting(listener, host))
            if sys.stdout is not None and sys.stdout.isatty():
                notices.tell(notices.next_steps(listener, host))
        release_logs()
        if supervised is not None:
            supervised.serving()

    _tell_crash(host, supervised)
    async with _started(host), opened(host, url_of(listener, for_clients=True)) as front:
        _tell_confinement(host.settings)
        gc.enable()
        gc.freeze()  # objects made at the start stay, so Python's collector need not look through them again and again
        app = app_for(front.behind, herd_key(host.settings), front.routes, desk=KeyDesk(host))
        server = Server(front.wrapped(app), host, begun)
        await server.serve([listener])
        # Calls cancelled at the end of the drain still have to roll back.
        if server.server_state.tasks:
            await asyncio.wait(server.server_state.tasks, timeout=ROLLBACK_SECONDS)
    server.stopped()


@asynccontextmanager
async def running(host: Host) -> AsyncIterator[Host]:
    """A started host with ticking timers, which begins to load the model of the settings. Stopped at the end."""
    async with _started(host), alone(host, ""):
        yield host


@asynccontextmanager
async def _started(host: Host) -> AsyncIterator[None]:
    await host.start()
    try:
        yield
    finally:
        await host.stop(ROLLBACK_SECONDS)


@asynccontextmanager
async def alone(host: Host, url: str) -> AsyncIterator[Front]:
    """The canisters of the host itself, with ticking timers and the model of the settings."""
    background = [
        asyncio.create_task(timers.beat(host), name="heartbeat"),
        asyncio.create_task(answer_making.tend(host), name="kept answers"),
        asyncio.create_task(auditing.audit(host), name="audit"),
    ]
    if host.settings.model is not None:
        background.append(preload.begin(host, host.settings.model, draft=host.settings.model_draft))
    try:
        yield Front(dispatch.of_host(host))
    finally:
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)


def herd_key(settings: ServerSettings) -> HerdKey | None:
    """What the settings have for a worker of a herd; None: it is none. BadRequest says what is missing."""
    if settings.herd_worker is None:
        return None
    if settings.herd_secret_file is None:
        raise BadRequest("--herd-worker needs the secret of its herd: --herd-secret-file FILE")
    try:
        secret = read_secret(settings.herd_secret_file.read_text(encoding="ascii"))
    except (OSError, ValueError) as error:
        told = error.strerror if isinstance(error, OSError) else error
        raise BadRequest(f"--herd-secret-file {settings.herd_secret_file}: {told}") from None
    return HerdKey(settings.herd_worker, settings.herd_generation, secret)


class App(FastAPI):
    """FastAPI's app for what has a route. Its entrance is before that: a call of a method goes from there straight to
    dispatch, without FastAPI's routing.
    """

    entrance: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["app"] = self
        await self.entrance(scope, receive, send)

    async def routed(self, scope: Scope, receive: Receive, send: Send) -> None:
        """FastAPI's own app, behind the entrance."""
        await super().__call__(scope, receive, send)

    def build_middleware_stack(self) -> ASGIApp:
        stack = super().build_middleware_stack()
        assert isinstance(stack, ServerErrorMiddleware)
        return stack.app  # the request log answers what no door foresaw


def create_app(host: Host) -> FastAPI:
    """The ASGI app of a running host."""
    return app_for(dispatch.of_host(host), herd_key(host.settings), desk=KeyDesk(host))


def app_for(
    behind: Dispatcher,
    herd_key: HerdKey | None = None,
    routes: Sequence[BaseRoute] = (),
    *,
    desk: KeyDesk | None = None,
) -> FastAPI:
    """The ASGI app in front of a dispatcher. herd_key: it is a worker of a herd, and has its private door. routes: that
    come before those of the doors. desk: makes API keys over REST; None: that is not done here.
    """
    # The routes read raw requests and the OpenAPI document is made from the interface table, so FastAPI's are off.
    app = App(title="llama-canister", openapi_url=None, docs_url=None, redoc_url=None)
    app.state.dispatcher = behind
    app.state.key_desk = desk
    doors = (health, events, console, openapi, docs, keys, files, conversations, models, receipts, ic)
    app.router.routes.extend([*routes, *(route for door in doors for route in door.routes())])
    app.router.routes.append(openai.route(rest.routes))
    app.router.routes.extend(rest.routes())
    app.add_exception_handler(Trap, _reject)
    inside: ASGIApp = entrance(rest.Calls(app.routed, behind), behind)
    if herd_key is not None:
        from canister.server.doors.herd import HerdDoor  # what is no worker does not load it

        inside = HerdDoor(inside, behind=behind, key=herd_key)
    app.entrance = RequestLog(inside, openai.rejected)
    return app


async def _reject(request: Request, error: Exception) -> Response:
    assert isinstance(error, Trap)
    return answers.rejected(request.scope, error)
