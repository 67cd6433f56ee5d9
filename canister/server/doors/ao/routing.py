"""What each route of these doors needs: its verbs, bodies of a bounded size, and errors as `{"error": …}`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping

from fastapi import Request, Response
from starlette.convertors import Convertor, register_url_convertor
from starlette.requests import ClientDisconnect
from starlette.routing import Route

from canister.ao.encoding import Malformed
from canister.errors import Cancelled, CanisterError, TooLarge, Trap
from canister.server import answers
from canister.server.requests import MAX_BYTES_AT_ONCE, read_body
from canister.server.verbs import ANY_VERB

NO_STORE = {"Cache-Control": "no-store"}

Handler = Callable[[Request], Awaitable[Response]]


class _Id(Convertor[str]):
    """An id or an address of Arweave."""

    regex = "[A-Za-z0-9_-]{43}"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


class _Token(_Id):
    """A currency that a bundler is paid in, such as arweave; all cost the same here."""

    regex = "[a-z][a-z0-9-]{1,29}"


register_url_convertor("ao_id", _Id())
register_url_convertor("ao_token", _Token())


def route(path: str, verbs: Mapping[str, Handler]) -> Route:
    """One path. Errors of its handlers become answers in the form of AO's clients."""

    async def answer(request: Request) -> Response:
        verb = "GET" if request.method == "HEAD" else request.method
        if verb not in verbs:
            told = f"{request.url.path} takes {' or '.join(verbs)}, not {request.method}"
            return error(405, told, {"Allow": ", ".join([*verbs, *(["HEAD"] if "GET" in verbs else [])])})
        try:
            return await verbs[verb](request)
        except (CanisterError, Trap) as failure:
            return error(failure.http_status, str(failure))

    return Route(path, answer, methods=ANY_VERB)


def error(status: int, message: str, headers: Mapping[str, str] = {}, code: str | None = None) -> Response:
    """code: a word that clients know; else the message stands in its place."""
    content = {"error": message} if code is None else {"error": code, "message": message}
    return answers.document(content, status, {**NO_STORE, **headers})


def document(content: Mapping[str, object], status: int = 200, headers: Mapping[str, str] = {}) -> Response:
    return answers.document(content, status, {**NO_STORE, **headers})


def text(content: str, status: int = 200, headers: Mapping[str, str] = {}) -> Response:
    return Response(content, status, {**NO_STORE, **headers}, "text/plain")


async def json_body(request: Request, limit_bytes: int) -> object:
    """The JSON of a body. Raises Malformed, MessageTooLarge."""
    return await read_json(await read_body(request, limit_bytes))


async def read_json(body: bytes) -> object:
    try:
        if len(body) > MAX_BYTES_AT_ONCE:
            found: object = await asyncio.to_thread(json.loads, body)
        else:
            found = json.loads(body)
    except (ValueError, RecursionError):
        raise Malformed("the body is not JSON") from None
    return found


async def blocks(request: Request, limit_bytes: int) -> AsyncGenerator[bytes, None]:
    """The body as it comes. Raises TooLarge at once where its length is told, and Cancelled."""
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit_bytes:
        raise TooLarge(f"the body has {declared} bytes; at most {limit_bytes} are taken here, larger items in chunks")
    try:
        async for block in request.stream():
            if block:
                yield block
    except ClientDisconnect:
        raise Cancelled("the client went away before its request was complete") from None
