"""What every door needs of a request: its caller, its whole body, and an end to the call when the client goes away."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Coroutine, Sized
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from fastapi import Request
from starlette.requests import ClientDisconnect
from starlette.types import Scope

from canister.errors import BadArgument, Cancelled, MessageTooLarge

if TYPE_CHECKING:
    from canister.dispatch.dispatcher import Dispatcher

T = TypeVar("T")

MAX_BYTES_AT_ONCE = 256 << 10  # decoded on the event loop: a few milliseconds
WATCHED_AFTER = 0.01  # seconds; a call that is over sooner needs nobody who looks whether its client is there

PROBES = frozenset({"/healthz", "/readyz", "/metrics", "/favicon.ico", "/robots.txt"})
"""Paths that monitors and browsers fetch by themselves; answered while the server drains, and not logged."""


VOUCHED = "vouched_for"
"""In the state of a request: its caller is the one for whom the herd has vouched."""

# The path as the router matches it: the name of a canister has no slash.
_STREAM_PATHS = {
    "PUT": re.compile(r"/canisters/[^/]+/files(/.*)?", re.DOTALL),
    "POST": re.compile(r"(/v1)?/chunks/[^/]+/[^/]+/[0-9]+"),  # of doors/ao/bundler.py
}


def is_stream(scope: Scope) -> bool:
    """Is this the upload of a file, whose body is stored as it comes? All other bodies are held whole."""
    paths = _STREAM_PATHS.get(scope["method"])
    return paths is not None and paths.fullmatch(scope["path"]) is not None


def dispatcher(request: Request) -> Dispatcher:
    """What stands behind the door."""
    found: Dispatcher = request.app.state.dispatcher
    return found


def caller(request: Request) -> str:
    """The sender of this request, as Authentication found out."""
    principal: str = request.state.caller
    return principal


async def read_body(request: Request, limit_bytes: int) -> bytes:
    """The whole body. MessageTooLarge as soon as it is known to be over the limit; the rest is dropped unread."""
    declared = request.headers.get("content-length", "")
    body = bytearray()
    try:
        if not declared.isdecimal() or int(declared) <= limit_bytes:
            async for block in request.stream():
                body += block
                if len(body) > limit_bytes:
                    break
            else:
                return bytes(body)
    except ClientDisconnect:
        raise Cancelled("the client went away before its request was complete") from None
    raise MessageTooLarge(
        f"the body has {declared or f'more than {limit_bytes}'} bytes, at most {limit_bytes} are taken: "
        "send less at once, or upload files with PUT /canisters/{canister}/files/{path}"
    )


def decoding(body: Sized, decode: Callable[[], T]) -> T | Awaitable[T]:
    """The result of `decode` for a body. A worker thread decodes large ones, so that nobody else waits."""
    return asyncio.to_thread(decode) if len(body) > MAX_BYTES_AT_ONCE else decode()


# -- clients that go away


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Await `work`. If the client goes away first, cancel it, wait until it has cleaned up, and raise Cancelled."""
    own = asyncio.current_task()
    assert own is not None
    is_over = is_gone = False
    gone: asyncio.Task[None] | None = None

    def watch() -> None:
        nonlocal gone
        gone = asyncio.create_task(_until_gone(request))
        gone.add_done_callback(on_gone)

    def on_gone(done: asyncio.Task[None]) -> None:
        nonlocal is_gone
        if done.cancelled() or is_over:
            return
        is_gone = True
        done.exception()  # whatever it was, the client is gone
        own.cancel()

    timer = asyncio.get_running_loop().call_later(WATCHED_AFTER, watch)
    try:
        result = await work
        if is_gone:  # too late to matter
            own.uncancel()
        return result
    except asyncio.CancelledError:
        if is_gone and own.uncancel() == 0:
            raise Cancelled("the client went away; the call was cancelled and rolled back") from None
        raise
    finally:
        is_over = True
        timer.cancel()
        if gone is not None:
            gone.cancel()


async def _until_gone(request: Request) -> None:
    # First drop the rest of a body that nobody wants.
    while True:
        with suppress(BadArgument):  # of what does not decode
            if (await request.receive())["type"] == "http.disconnect":
                return
