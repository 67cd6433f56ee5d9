"""API keys over REST, for the console and for operators.

    POST   /session          {"code": "…"} → a browser's key, for eight hours; or application/cbor: a signed message
                             of the IC, a call of `console_session` at a canister of this server, with a nonce
    DELETE /session          revoke the browser's key that this request has
    POST   /session/codes    → a code for the caller: it counts once, for ten minutes
    GET    /keys             all keys, or a page of them, without their secrets; for those who control every canister
    POST   /keys             {"name", "principal"?, "expires"?} → a key, shown this once
    DELETE /keys/{name}      revoke one

A code comes in a body and a key in a header: neither stands in an address, which logs would keep.
"""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING

from fastapi import Request, Response
from starlette.routing import Route

from canister.errors import BadArgument, CanisterError, NotFound
from canister.ic import envelope, principal
from canister.server import answers
from canister.server.doors.resources import PAGE
from canister.server.requests import caller, dispatcher, read_body
from canister.server.verbs import ANY_VERB

if TYPE_CHECKING:
    from canister.dispatch.key_desk import KeyDesk, MadeKey

MAX_BODY_BYTES = 4096
MAX_MESSAGE_BYTES = 64 << 10  # with a chain of delegations
MIN_NONCE_BYTES = 16
CBOR = "application/cbor"
SESSION_METHOD = "console_session"
NO_STORE = {"Cache-Control": "no-store"}

Endpoint = Callable[[Request], Awaitable[Response]]


def routes() -> list[Route]:
    return [
        _route("/session", {"POST": _sign_in, "DELETE": _sign_out}),
        _route("/session/codes", {"POST": _make_code}),
        _route("/keys", {"GET": _list, "POST": _make}),
        _route("/keys/{name}", {"DELETE": _revoke}),
    ]


def _route(path: str, verbs: Mapping[str, Endpoint]) -> Route:
    async def answer(request: Request) -> Response:
        endpoint = verbs.get(request.method)
        if endpoint is None:
            told = " or ".join(verbs)
            return answers.wrong_verb(f"{path} takes {told}, not {request.method}", ", ".join(verbs))
        try:
            return await endpoint(request)
        except CanisterError as error:
            content = {"Err": {"Other": str(error)}}
            return answers.document(content, error.http_status, NO_STORE)

    return Route(path, answer, methods=ANY_VERB)


async def _sign_in(request: Request) -> Response:
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() == CBOR:
        return await _sign_in_signed(request)
    given = await _fields(request, ("code",), ())
    return _made(await _desk(request).sign_in(given["code"] or ""))


async def _sign_in_signed(request: Request) -> Response:
    """Whoever has signed the message. What is wrong with it is told in the IC's words."""
    body = await read_body(request, MAX_MESSAGE_BYTES)
    try:
        message = envelope.read(body, "call")
        envelope.verify(message, time.time_ns())
    except (envelope.EnvelopeError, principal.PrincipalError) as error:
        raise BadArgument(str(error)) from None
    if message.method != SESSION_METHOD:
        raise BadArgument(f"the message calls {message.method[:40]!r}: one that signs in calls {SESSION_METHOD!r}")
    if len(message.nonce) < MIN_NONCE_BYTES:
        raise BadArgument(f"the message needs a nonce of {MIN_NONCE_BYTES} bytes or more, so that it counts once")
    dispatcher(request).with_id(message.canister_id)  # one for another server does not count here
    chain = () if message.signature is None else message.signature.delegations
    until_ns = min((link.expiration_ns for link in chain), default=None)
    who = principal.to_text(message.sender)
    return _made(await _desk(request).sign_in_signed(who, message.id, until_ns))


async def _sign_out(request: Request) -> Response:
    await _desk(request).sign_out(request.headers.get("authorization", "").partition(" ")[2].strip())
    return answers.document({}, headers=NO_STORE)


async def _make_code(request: Request) -> Response:
    from canister.dispatch.key_desk import CODE_SECONDS

    code = _desk(request).make_code(caller(request))
    return answers.document({"code": code, "seconds": CODE_SECONDS}, headers=NO_STORE)


async def _list(request: Request) -> Response:
    limit, after = (request.query_params.get(name) for name in PAGE)
    keys, following = await _desk(request).list_keys(caller(request), limit, after)
    shown = [
        {
            "name": key.name,
            "principal": key.principal,
            "created_ns": key.created_ns,
            "expires_ns": key.expires_ns,
            "is_expired": key.is_expired(),
        }
        for key in keys
    ]
    return answers.document({"keys": shown, **following}, headers=NO_STORE)


async def _make(request: Request) -> Response:
    given = await _fields(request, ("name",), ("principal", "expires"))
    name = given["name"] or ""
    return _made(await _desk(request).make_key(caller(request), name, given["principal"], given["expires"]))


async def _revoke(request: Request) -> Response:
    await _desk(request).revoke_key(caller(request), request.path_params["name"])
    return answers.document({}, headers=NO_STORE)


def _made(made: MadeKey) -> Response:
    return answers.document(asdict(made), headers=NO_STORE)


def _desk(request: Request) -> KeyDesk:
    desk: KeyDesk | None = request.app.state.key_desk
    if desk is None:
        raise NotFound("the keys of this server are not made here: use 'canister api-key' on its machine")
    return desk


async def _fields(request: Request, needed: tuple[str, ...], optional: tuple[str, ...]) -> dict[str, str | None]:
    """Text fields of the body; optional ones are None where they are absent or null. BadArgument."""
    shown = json.dumps(dict.fromkeys((*needed, *optional), "…"), ensure_ascii=False)
    body = await read_body(request, MAX_BODY_BYTES)
    try:
        given = json.loads(body)
    except ValueError:
        raise BadArgument(f"the body is not JSON: send {shown}") from None
    if not isinstance(given, dict):
        raise BadArgument(f"the body is no object: send {shown}")
    found: dict[str, str | None] = {}
    for name in (*needed, *optional):
        value = given.get(name)
        if not isinstance(value, str) and (name in needed or value is not None):
            raise BadArgument(f"{name!r} must be a text: send {shown}")
        found[name] = value
    unknown = sorted(given.keys() - found.keys())
    if unknown:
        raise BadArgument(f"{unknown[0][:80]!r} is not known here: send {shown}")
    return found
