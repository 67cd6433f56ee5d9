"""Receipts of calls over REST, for whoever made them.

    GET /canisters/{canister}/receipts/{id}            one, by the id in X-IC-Receipt, or by its number
    GET /canisters/{canister}/receipts?cache={name}    the calls on one of the caller's prompt caches, the newest first
    GET /canisters/{canister}/receipts?newest=50       the caller's newest calls, whatever they were
    GET /canisters/{canister}/receipts                 the head of the chain, certified now
    POST /canisters/{canister}/receipts/{number}/audit   decodes the call again, for admins

`?since=N` adds the proof that the first N records, of a head that the caller has seen, are still the first. A receipt
comes as JSON, or as CBOR with `Accept: application/cbor`; its bytes are exact, and docs/receipts.md tells them.
"""

from __future__ import annotations

from dataclasses import asdict

from fastapi import Request, Response
from starlette.routing import Route

from canister.dispatch import Reply
from canister.errors import BadArgument
from canister.ic.receipts import document
from canister.ic.receipts.document import Receipt
from canister.server import answers
from canister.server.doors.rest import accepted
from canister.server.requests import caller, dispatcher, while_connected
from canister.server.verbs import ANY_VERB, page

CBOR = "application/cbor"
DEFAULT_LISTED = 100


def routes() -> list[Route]:
    return [
        page("/canisters/{canister}/receipts", several),
        page("/canisters/{canister}/receipts/{id}", one),
        Route("/canisters/{canister}/receipts/{number}/audit", audit, methods=ANY_VERB),
    ]


async def one(request: Request) -> Response:
    """A receipt as a file."""
    target = dispatcher(request).find(request.path_params["canister"])
    reply = await target.receipt(caller(request), request.path_params["id"], _number(request, "since", 0))
    if reply.error is not None:
        return answers.error(reply)
    receipt = reply.value
    assert isinstance(receipt, Receipt)
    is_cbor = CBOR in accepted(request)
    headers = {"Cache-Control": "no-store", "Vary": "Accept"}
    if is_cbor:
        return Response(document.to_cbor(receipt), headers=headers, media_type=CBOR)
    return Response(document.to_json(receipt), headers=headers, media_type=answers.JSON)


async def audit(request: Request) -> Response:
    """What comes of a call when it is decoded again. A client that goes away ends it."""
    if request.method != "POST":
        return answers.wrong_verb(f"{request.url.path} takes POST, not {request.method}", "POST")
    target = dispatcher(request).find(request.path_params["canister"])
    number = _as_number(request.path_params["number"], "a call is audited by its number")
    reply = await while_connected(request, target.audit(caller(request), number))
    return answers.error(reply) if reply.error is not None else answers.document(asdict(reply.value))  # type: ignore[call-overload]


async def several(request: Request) -> Response:
    """The calls on a chat, or the head."""
    target = dispatcher(request).find(request.path_params["canister"])
    cache = request.query_params.get("cache")
    newest = request.query_params.get("newest")
    if cache is None and newest is None:
        return _told(await target.receipt_head(caller(request), _number(request, "since", 0)))
    below = _number(request, "below", 1 << 62)
    most = _number(request, "limit" if newest is None else "newest", DEFAULT_LISTED)
    reply = await target.receipts(caller(request), None if cache is None else cache.lstrip("/"), below, most)
    if reply.error is not None:
        return answers.error(reply)
    assert isinstance(reply.value, list)
    return answers.document({"receipts": [asdict(row) for row in reply.value]})


def _told(reply: Reply) -> Response:
    if reply.error is not None:
        return answers.error(reply)
    found = asdict(reply.value)  # type: ignore[call-overload]
    return answers.document({name: _hex(value) for name, value in found.items()})


def _hex(value: object) -> object:
    if isinstance(value, bytes):
        return value.hex()
    return [_hex(item) for item in value] if isinstance(value, list | tuple) else value


def _number(request: Request, name: str, default: int) -> int:
    text = request.query_params.get(name)
    return default if text is None else _as_number(text, f"?{name}= takes a number of records")


def _as_number(text: str, wanted: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise BadArgument(f"{wanted}, not {text[:40]!r}")
    return int(text)
