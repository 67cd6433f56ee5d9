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
from starlette.convertors import Convertor, register_url_convertor
from starlette.routing import Route

from canister.api import codec
from canister.api.examples import EXAMPLES
from canister.api.methods import BY_NAME, Method
from canister.errors import BadArgument, MethodNotFound
from canister.errors.nearest import nearest
from canister.server import answers
from canister.server.doors.lines import LineStream
from canister.server.requests import caller, decoding, dispatcher, read_body, while_connected
from canister.server.verbs import ANY_VERB
from canister.telemetry import metrics

if TYPE_CHECKING:
    from canister.dispatch import OnText, Reply, Target

SHOWN_CHARACTERS = 80


class _MethodName(Convertor[str]):
    regex = "|".join(name for name in BY_NAME if name != "health")  # at /health are llama.cpp's clients

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("known_method", _MethodName())


def first_routes() -> list[Route]:
    """Calls of methods that exist. To be put in front of all others, so that a call need not be compared with them."""
    paths = ("/canisters/{canister}/{method:known_method}", "/{method:known_method}")
    return [Route(path, call_method, methods=ANY_VERB) for path in paths]


def routes() -> list[Route]:
    """To be put behind all other routes, since the last one answers every path that is left."""
    return [
        Route("/canisters/{canister}/{method}", call_method, methods=ANY_VERB),
        Route("/{method}", call_method, methods=ANY_VERB),
        Route("/{path:any}", no_such_path, methods=ANY_VERB),
    ]


async def call_method(request: Request) -> Response:
    """Find canister and method, read the body, execute, answer."""
    behind = dispatcher(request)
    named = request.path_params.get("canister")
    canister = behind.default if named is None else behind.find(named)
    method = canister.find_method(request.path_params["method"])
    if request.method not in verbs(method):
        verbs_text = " or ".join(verb for verb in verbs(method) if verb != "HEAD")
        return answers.wrong_verb(
            f"{method.name} is called with {verbs_text}, not {request.method}", ", ".join(verbs(method))
        )
    run = functools.partial(_run, request, canister, method)
    if method.is_streamed and answers.LINES in accepted(request):
        return LineStream(method, run)
    reply = await run()
    return answers.candid(method, reply) if wants_candid(request) else answers.answer(method, reply)


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


def wants_candid(request: Request) -> bool:
    wanted = accepted(request)
    return answers.CANDID_TEXT in wanted or (is_candid(request) and answers.JSON not in wanted)


def accepted(request: Request) -> set[str]:
    """The media types that the client names."""
    return {_media_type(part) for part in request.headers.get("accept", "").split(",")}


def _media_type(header: str) -> str:
    return header.partition(";")[0].strip().lower()
