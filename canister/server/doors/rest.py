"""Methods over REST: `POST /canisters/{name or id}/{method}`, and `POST /{method}` for the server's first canister.

    path → row of the interface table → body → dispatch (which checks access, then decodes) → JSON or Candid text

The call of a client that goes away is cancelled and rolled back. A client may ask for a run as a stream of lines, and
by the header X-IC-Receipt, whatever is in it, for a receipt of a query. Updates have one anyway.
"""

from __future__ import annotations

import functools
import json
from typing import TYPE_CHECKING

from fastapi import Request, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from canister.api import codec
from canister.api.examples import EXAMPLES
from canister.api.methods import BY_NAME, Method
from canister.errors import BadArgument, MethodNotFound, Trap
from canister.errors.nearest import nearest
from canister.server import answers
from canister.server.doors.lines import LineStream
from canister.server.requests import caller, decoding, dispatcher, read_body, while_connected
from canister.server.verbs import ANY_VERB
from canister.telemetry import metrics

if TYPE_CHECKING:
    from canister.dispatch import Dispatcher, OnText, Reply, Target

SHOWN_CHARACTERS = 80


_CALLED = frozenset(BY_NAME) - {"health"}  # at /health are llama.cpp's clients


class Calls:
    """ASGI app: calls of methods that exist, in front of an app that has all else. A call is not compared with its
    routes, and does not pass its layers.
    """

    def __init__(self, app: ASGIApp, behind: Dispatcher) -> None:
        self._app = app
        self._behind = behind

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        named = _named(scope) if scope["type"] == "http" else None
        if named is None:
            await self._app(scope, receive, send)
            return
        try:
            response = await _call(Request(scope, receive, send), self._behind, *named)
            await response(scope, receive, send)
        except Trap as trap:
            await answers.rejected(scope, trap)(scope, receive, send)


def _named(scope: Scope) -> tuple[str | None, str] | None:
    """The canister, None for the first one, and the method in the path of a call of a method that exists."""
    path: str = scope["path"].removeprefix(scope.get("root_path", ""))
    before, _, method = path.rpartition("/")
    if method not in _CALLED:
        return None
    if not before:
        return None, method
    root, _, canister = before.rpartition("/")
    return (canister, method) if root == "/canisters" and canister else None


def routes() -> list[Route]:
    """To be put behind all other routes, since the last one answers every path that is left."""
    return [
        Route("/canisters/{canister}/{method}", call_method, methods=ANY_VERB),
        Route("/{method}", call_method, methods=ANY_VERB),
        Route("/{path:any}", no_such_path, methods=ANY_VERB),
    ]


async def call_method(request: Request) -> Response:
    """The endpoint for what a path names as canister and method."""
    named = request.path_params
    return await _call(request, dispatcher(request), named.get("canister"), named["method"])


async def _call(request: Request, behind: Dispatcher, name_or_id: str | None, name: str) -> Response:
    """Find canister and method, read the body, execute, answer."""
    canister = behind.default if name_or_id is None else behind.find(name_or_id)
    method = canister.find_method(name)
    if request.method not in verbs(method):
        verbs_text = " or ".join(verb for verb in verbs(method) if verb != "HEAD")
        return answers.wrong_verb(
            f"{method.name} is called with {verbs_text}, not {request.method}", ", ".join(verbs(method))
        )
    run = functools.partial(_run, request, canister, method)
    wanted = accepted(request)
    if method.is_streamed and answers.LINES in wanted:
        return LineStream(method, run)
    reply = await run()
    is_candid_wanted = answers.CANDID_TEXT in wanted or (answers.JSON not in wanted and is_candid(request))
    return answers.candid(method, reply) if is_candid_wanted else answers.answer(method, reply)


async def _run(request: Request, canister: Target, method: Method, on_text: OnText | None = None) -> Reply:
    """Read the body and execute. on_text: gets the text of a run while it runs."""
    with metrics.counted(canister.name, method.name) as outcome:
        # A method without an argument ignores what is sent, so that surplus arguments do no harm.
        body = b"" if method.arg is None else await read_body(request, dispatcher(request).settings.max_body_bytes)
        read = functools.partial(decode_text if is_candid(request) else decode, method, body)
        arg = functools.partial(decoding, body, read)
        key = request.headers.get("idempotency-key")
        wants = request.headers.get(answers.RECEIPT_HEADER) is not None
        call = canister.execute(method, caller(request), arg, on_text=on_text, key=key, wants_receipt=wants)
        reply = await while_connected(request, call)
        outcome.is_ok = reply.error is None
        return reply


async def no_such_path(request: Request) -> Response:
    """404 for a path of no method, whose last part may be meant as one."""
    path = request.url.path
    near = nearest(path.rstrip("/").rpartition("/")[2], BY_NAME)
    if near is not None:
        hint = f"Did you mean 'POST /canisters/{dispatcher(request).default.name}/{near}'?"
    else:
        hint = "Call POST /{method} or /canisters/{name or id}/{method}; GET /docs lists the methods."
    raise MethodNotFound(f"There is nothing at {path[:SHOWN_CHARACTERS]!r}. {hint}")


def verbs(method: Method) -> list[str]:
    """HTTP methods with which a canister method can be called."""
    return ["GET", "HEAD", "POST"] if method.mode == "query" and method.arg is None else ["POST"]


# -- arguments


def decode(method: Method, body: bytes, example: object = None) -> object:
    """The argument of a method from its JSON. BadArgument names the field, shows the value, and says what is wanted."""
    try:
        return codec.args_from_json_text(method, body)
    except BadArgument as error:
        shown = json.dumps(example or EXAMPLES[method.name], ensure_ascii=False)
        raise BadArgument(f"{error} Send JSON such as {shown}") from None


def decode_text(method: Method, body: bytes) -> object:
    """The argument of a method from its Candid text. BadArgument names the place, and what is wanted there."""
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadArgument(f"the argument of {method.name} is not UTF-8: {error.reason} at byte {error.start}") from None
    return codec.args_from_text(method, text)


def is_candid(request: Request) -> bool:
    return _media_type(request.headers.get("content-type", "")) == answers.CANDID_TEXT


def accepted(request: Request) -> frozenset[str]:
    """The media types that the client names."""
    return _media_types(request.headers.get("accept", ""))


@functools.lru_cache(maxsize=256)
def _media_types(header: str) -> frozenset[str]:
    return frozenset(map(_media_type, header.split(",")))


def _media_type(header: str) -> str:
    return header.partition(";")[0].strip().lower()
