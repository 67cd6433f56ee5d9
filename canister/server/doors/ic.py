"""The IC door: the HTTPS interface of an IC replica, so that agents and tools written for one work unchanged.

    /api/{v2,v3,v4}/canister/<id>/call    updates; v2 answers at once and is polled, the others wait for a certificate
    /api/{v2,v3}/canister/<id>/query      signed by the node's key
    /api/{v2,v3}/canister|subnet/<id>/read_state
    /api/v2/status

Requests are envelopes whose signature makes the caller; API keys mean nothing here. The server acts as the root subnet
with one node. What is wrong with an envelope is answered with 400 and the IC's own text; what a canister refuses is a
reject inside 200. Source: IC interface specification, "HTTPS Interface".
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Awaitable, Callable, Mapping

from fastapi import Request, Response
from starlette.routing import Route

from canister.api import codec, management
from canister.api.methods import Method, Mode
from canister.dispatch import Dispatcher, Reply, Target
from canister.errors import BadArgument, MessageTooLarge, Trap
from canister.ic import cbor, certificate, envelope, principal
from canister.ic.cbor import Encodable
from canister.ic.envelope import EnvelopeError, RequestKind
from canister.server import answers
from canister.server.doors import ic_state
from canister.server.doors.ic_state import PathError
from canister.server.requests import decoding, dispatcher, read_body, while_connected
from canister.server.verbs import ANY_VERB, page
from canister.state.ingress_history import IngressMessage, KnownMessage, RecordedAnswer
from canister.system import distribution
from canister.telemetry import metrics

CBOR = "application/cbor"
MAX_INGRESS_BYTES = 2 * 1024 * 1024
API_VERSION = "0.18.0"  # of the interface specification

Endpoint = Callable[[Request], Awaitable[Response]]


def routes() -> list[Route]:
    """The versions of each path. Others do not exist: agents take the 404 as a sign to try an older one."""
    found = [page("/api/v2/status", status)]
    for versions, path, endpoint in (
        (("v2", "v3", "v4"), "canister/{id}/call", call),
        (("v2", "v3"), "canister/{id}/query", query),
        (("v2", "v3"), "canister/{id}/read_state", read_canister_state),
        (("v2", "v3"), "subnet/{id}/read_state", read_subnet_state),
    ):
        found += [Route(f"/api/{number}/{path}", _posted(endpoint), methods=ANY_VERB) for number in versions]
    return found


async def status(request: Request) -> Response:
    """What this server is, and the key by which its certificates are checked."""
    behind = dispatcher(request)
    return _cbor(
        {
            "ic_api_version": API_VERSION,
            "impl_version": f"llama-canister {distribution.version()}",
            "root_key": behind.root_key.public_key_der,
            "replica_health_status": "healthy",
            "certified_height": time.time_ns() // 10**9,
        }
    )


async def call(request: Request) -> Response:
    """An update: run once, however often it comes, and answered with a certificate."""
    behind = dispatcher(request)
    message, _ = await _received(request, "call")
    try:
        canister, method, named = _target(request, message, "update")
        future = canister.submit(
            method,
            IngressMessage(message.id, principal.to_text(message.sender), message.expiry_ns),
            functools.partial(decoding, message.arg, functools.partial(_decoded, canister, method, message.arg)),
            functools.partial(_encoded, method),
            named,
        )
        await canister.accepted(message.id)
        is_polled = request.url.path.startswith("/api/v2/")
        await asyncio.wait({future}, timeout=0 if is_polled else behind.settings.sync_call_seconds)
        answer = future.result() if future.done() else None
    except Trap as trap:
        return _cbor({"status": "non_replicated_rejection", **_reject(trap)})
    if is_polled:
        return Response(status_code=202)
    if answer is None:
        return _text("The call is still running: poll its status with read_state.", 202)
    return _certified(behind, ic_state.request_status(message.id, _known(message, answer)), {"status": "replied"})


async def query(request: Request) -> Response:
    """A query: run here and now, and signed by the node."""
    behind = dispatcher(request)
    message, _ = await _received(request, "query")
    response: dict[str, Encodable]
    try:
        canister, method, named = _target(request, message, "query")
        decode = functools.partial(decoding, message.arg, functools.partial(_decoded, canister, method, message.arg))
        with metrics.counted(canister.name, method.name) as outcome:
            caller = principal.to_text(message.sender)
            work = canister.execute(method, caller, decode, named=named)
            reply = await while_connected(request, work)
            outcome.is_ok = reply.error is None
        response = {"status": "replied", "reply": {"arg": _encoded(method, reply)}}
    except Trap as trap:
        response = {"status": "rejected", **_reject(trap)}
    return _cbor({**response, "signatures": [_signature(behind, response, message.id)]})


async def read_canister_state(request: Request) -> Response:
    """Parts of the state tree: of a canister, and of the requests that were sent to it."""
    behind = dispatcher(request)
    message, targets = await _received(request, "read_state")
    return _certified(behind, await ic_state.of_canister(behind, _effective_id(request), message, targets), {})


async def read_subnet_state(request: Request) -> Response:
    """Parts of the state tree that belong to no canister."""
    behind = dispatcher(request)
    message, _ = await _received(request, "read_state")
    return _certified(behind, ic_state.of_subnet(behind, _effective_id(request), message), {})


# -- requests


def _posted(endpoint: Endpoint) -> Endpoint:
    """Answers an error of the request itself with a text."""

    async def answer(request: Request) -> Response:
        if request.method != "POST":
            return answers.wrong_verb(f"{request.url.path} is called with POST, not {request.method}", "POST")
        try:
            return await endpoint(request)
        except (EnvelopeError, principal.PrincipalError) as error:
            return _text(str(error), 400)
        except (PathError, MessageTooLarge) as error:
            return _text(str(error), error.http_status)

    return answer


async def _received(request: Request, kind: RequestKind) -> tuple[envelope.Request, frozenset[bytes] | None]:
    """The request in the body, with a verified sender, and the canisters that it may be about, None for all."""
    try:
        body = await read_body(request, MAX_INGRESS_BYTES)
    except MessageTooLarge:
        size = request.headers.get("content-length", "unknown")
        raise MessageTooLarge(
            f"Request is too large. Message byte size {size[:20]} is larger than the max allowed {MAX_INGRESS_BYTES}."
        ) from None
    message = envelope.read(body, kind)
    effective_id = _effective_id(request)
    if kind != "read_state" and message.canister_id not in (effective_id, b""):
        raise EnvelopeError(
            f"Specified CanisterId {principal.to_text(message.canister_id)} does not match effective canister id in "
            f"URL {principal.to_text(effective_id)}"
        )
    targets = envelope.verify(message, time.time_ns())
    request.state.caller = principal.to_text(message.sender)
    return message, targets


def _target(request: Request, message: envelope.Request, mode: Mode) -> tuple[Target, Method, Mapping[str, object]]:
    """The canister that runs a message, the method, and what its handler gets beside the argument.

    A call to the management canister is about another canister. Messages that make or delete a canister run on the
    default one, where their answer can be found also when the other canister is gone.
    """
    behind = dispatcher(request)
    if message.canister_id == b"":
        method = management.find_method(message.method, mode)
        if method.is_of_server:
            return behind.default, method, {"request_id": message.id}
        canister = behind.with_id(_effective_id(request))
        if method.knows_server:
            request.state.is_look = True  # or a follower of the log would see nothing but that
        return canister, method, {}
    canister = behind.with_id(message.canister_id)
    return canister, canister.find_method(message.method, mode), {}


def _effective_id(request: Request) -> bytes:
    return principal.from_text(request.path_params["id"])


def _decoded(canister: Target, method: Method, arg: bytes) -> object:
    try:
        return codec.decode_args(method, arg)
    except BadArgument as error:
        # In a canister it is the decoder inside that traps.
        text = f"Error from Canister {canister.id}: Canister called `ic0.trap` with message: '{error}'"
        raise BadArgument(text) from None


# -- answers


def _encoded(method: Method, reply: Reply) -> bytes:
    return codec.encode_reply(method, reply.value, is_err=reply.error is not None)


def _known(message: envelope.Request, answer: RecordedAnswer) -> KnownMessage:
    return KnownMessage(principal.to_text(message.sender), answer.status, answer)


def _reject(trap: Trap) -> dict[str, Encodable]:
    return {"reject_code": trap.reject_code, "reject_message": str(trap), "error_code": trap.error_code}


def _signature(behind: Dispatcher, response: Mapping[str, Encodable], request_id: bytes) -> dict[str, Encodable]:
    now_ns = time.time_ns()
    return {
        "timestamp": now_ns,
        "signature": behind.node.sign(certificate.query_response_message(response, now_ns, request_id)),
        "identity": principal.self_authenticating(behind.node.public_key_der),
    }


def _certified(behind: Dispatcher, tree: ic_state.Tree, more: Mapping[str, Encodable]) -> Response:
    return _cbor({**more, "certificate": behind.root_key.certify(tree, time.time_ns())})


def _cbor(content: Mapping[str, Encodable]) -> Response:
    return Response(cbor.encode(content), media_type=CBOR)


def _text(content: str, http_status: int) -> Response:
    return Response(content, http_status, media_type="text/plain; charset=utf-8")
