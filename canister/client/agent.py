"""An agent: signed messages, as bytes, to the canisters behind a URL, and answers whose signatures are checked.

    async with Agent("http://127.0.0.1:8000", identity) as agent:
        reply = await agent.update(canister_id, "set_max_tokens", arg)

The answer to an update counts if a certificate under the root key has it, the answer to a query if a node has signed it
that such a certificate names. A server on this machine tells its root key; that of another must be known beforehand.
Ids are bytes. Nothing is retried here. Every error is a `client.ClientError`:

    Unreachable         no answer, or none in time
    Rejected            by the canister, or by the server, which then tells an HTTP status
    ProtocolError       an answer that no replica gives
      CertificateError  an answer that nobody vouches for
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, Self

from canister.client.errors import ClientError, ProtocolError, Rejected, Unreachable
from canister.client.http_library import (
    CONNECT_SECONDS,
    async_transport,
    base_url,
    httpx,
    is_loopback,
    no_answer,
    not_ours,
    trust,
)
from canister.client.rest import CALL_SECONDS
from canister.ic import cbor, certificate, envelope, hash_tree, keys, principal
from canister.ic.cbor import Encodable
from canister.ic.envelope import Delegated
from canister.ic.identity import Identity
from canister.ic.request_id import from_leb128

EXPIRY_SECONDS = 240
FIRST_POLL_SECONDS = 0.1
LONGEST_POLL_SECONDS = 2.0
NONCE_BYTES = 16

MANAGEMENT_ID = b""

Sender = Identity | Delegated | None
Door = Literal["call", "query", "read_state"]

_VERSIONS: dict[Door, str] = {"call": "v4", "query": "v3", "read_state": "v3"}
_POLLED_CALL = "v2"  # answered before the call has ended


class CertificateError(ProtocolError):
    pass


class Agent:
    """Sends for one sender; None: the anonymous caller. root_key: DER."""

    def __init__(
        self,
        url: str,
        identity: Sender = None,
        root_key: bytes | None = None,
        *,
        timeout_seconds: float = CALL_SECONDS,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        self._sender = identity
        self._root_key = root_key
        self._timeout_seconds = timeout_seconds
        self._node_keys: dict[bytes, bytes] = {}
        self._http = httpx.AsyncClient(
            base_url=base_url(self.url),
            headers={"Content-Type": "application/cbor"},
            timeout=httpx.Timeout(timeout_seconds, connect=CONNECT_SECONDS),
            **trust(url),
            transport=transport or async_transport(self.url),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self._http.aclose()

    @property
    def principal(self) -> str:
        """The sender, as canisters see it."""
        return principal.ANONYMOUS if self._sender is None else self._sender.principal

    # -- messages

    async def update(
        self,
        canister_id: bytes,
        method: str,
        arg: bytes,
        effective_id: bytes | None = None,
        *,
        timeout_seconds: float | None = None,
    ) -> bytes:
        """Run an update once and wait for its reply. Raises ClientError."""
        content = _message("call", canister_id, method, arg)
        answer = self._update(content, _effective(canister_id, effective_id))
        return await self._in_time(answer, method, timeout_seconds)

    async def query(
        self,
        canister_id: bytes,
        method: str,
        arg: bytes,
        effective_id: bytes | None = None,
        *,
        timeout_seconds: float | None = None,
    ) -> bytes:
        """Run a query and return its reply. Raises ClientError."""
        content = _message("query", canister_id, method, arg)
        answer = self._query(content, _effective(canister_id, effective_id))
        return await self._in_time(answer, method, timeout_seconds)

    async def submit(self, canister_id: bytes, method: str, arg: bytes) -> bytes:
        """Send an update without waiting for its end. Returns the id of the request. Raises ClientError."""
        content = _message("call", canister_id, method, arg)
        document, request_id = await self._send("call", content, canister_id, version=_POLLED_CALL)
        if document.get("status") == "non_replicated_rejection":
            raise _rejected(document)
        return request_id

    async def reply_to(self, request_id: bytes, effective_id: bytes, *, timeout_seconds: float | None = None) -> bytes:
        """Wait for the reply to an update that was submitted. Raises ClientError."""
        answer = self._polled({}, request_id, effective_id)
        return await self._in_time(answer, f"request 0x{request_id.hex()}", timeout_seconds)

    async def read_state(self, effective_id: bytes, paths: Sequence[Sequence[bytes]]) -> hash_tree.Tree:
        """The certified values of these paths. Raises ClientError."""
        content: dict[str, Encodable] = {"request_type": "read_state", "paths": [list(path) for path in paths]}
        document, _ = await self._send("read_state", content, effective_id)
        match document:
            case {"certificate": bytes(data)}:
                return await self._believed(data, effective_id)
        raise ProtocolError(f"{self.url} answered a read_state with {document!r:.200}")

    async def status(self) -> dict[Any, Any]:
        """The server's own status, which nobody vouches for."""
        response = await self._request("GET", "/api/v2/status")
        try:
            return _document(response)
        except ProtocolError:
            raise not_ours(self.url, response.status_code, response.headers) from None

    async def canister_ids(self) -> dict[str, bytes]:
        """Name → id of the canisters. Only a server of ours has this."""
        response = await self._request("GET", "/canisters")
        try:
            return {str(row["name"]): principal.from_text(row["id"]) for row in response.json()["canisters"]}
        except (ValueError, TypeError, KeyError):
            raise not_ours(self.url, response.status_code, response.headers) from None

    async def id_of(self, name_or_id: str) -> bytes:
        """The id of a canister. Rejected names the existing ones."""
        try:
            return principal.from_text(name_or_id)
        except principal.PrincipalError:
            known = await self.canister_ids()
        if name_or_id not in known:
            text = f"Canister {name_or_id!r} not found. This server has: {', '.join(known)}."
            raise Rejected(3, "IC0301", text, httpx.codes.NOT_FOUND)
        return known[name_or_id]

    async def _in_time(self, answer: Awaitable[bytes], method: str, timeout_seconds: float | None) -> bytes:
        seconds = self._timeout_seconds if timeout_seconds is None else timeout_seconds
        try:
            async with asyncio.timeout(seconds):
                return await answer
        except TimeoutError:
            raise Unreachable(f"No answer from {self.url} to {method} within {seconds:g} s") from None

    async def _update(self, content: Mapping[str, Encodable], effective_id: bytes) -> bytes:
        document, request_id = await self._send("call", content, effective_id)
        return await self._polled(document, request_id, effective_id)

    async def _polled(self, document: dict[Any, Any], request_id: bytes, effective_id: bytes) -> bytes:
        """The reply to an update: looked for in the first answer, then asked for again and again."""
        pause_seconds = FIRST_POLL_SECONDS
        path = [b"request_status", request_id]
        while True:
            match document:
                case {"status": "non_replicated_rejection"}:
                    raise _rejected(document)
                case {"certificate": bytes(data)}:
                    reply = _reply_in(await self._believed(data, effective_id), path)
                    if reply is not None:
                        return reply
            await asyncio.sleep(pause_seconds)
            pause_seconds = min(pause_seconds * 1.5, LONGEST_POLL_SECONDS)
            document, _ = await self._send("read_state", {"request_type": "read_state", "paths": [path]}, effective_id)

    async def _query(self, content: Mapping[str, Encodable], effective_id: bytes) -> bytes:
        document, request_id = await self._send("query", content, effective_id)
        await self._check_signature(document, request_id, effective_id)
        match document:
            case {"status": "replied", "reply": {"arg": bytes(reply)}}:
                return reply
            case {"status": "rejected"}:
                raise _rejected(document)
        raise ProtocolError(f"{self.url} answered a query with {document!r:.200}")

    async def _send(
        self, door: Door, content: Mapping[str, Encodable], effective_id: bytes, *, version: str | None = None
    ) -> tuple[dict[Any, Any], bytes]:
        """The server's answer, {} while it has none yet, and the id of the request."""
        expiry_ns = time.time_ns() + EXPIRY_SECONDS * 10**9
        body, request_id = envelope.seal({**content, "ingress_expiry": expiry_ns}, self._sender)
        path = f"/api/{version or _VERSIONS[door]}/canister/{principal.to_text(effective_id)}/{door}"
        response = await self._request("POST", path, body)
        return ({} if response.status_code == httpx.codes.ACCEPTED else _document(response)), request_id

    async def _request(self, verb: str, path: str, body: bytes | None = None) -> httpx.Response:
        try:
            response = await self._http.request(verb, path, content=body)
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise no_answer(self.url, error) from error
        if response.is_error:
            raise _refused(self.url, response)
        return response

    # -- what to believe

    async def root_key(self) -> bytes:
        """The key, in DER, by which everything else is checked."""
        if self._root_key is None:
            if not is_loopback(self.url):
                raise CertificateError(
                    f"nothing that {self.url} says can be checked without its root key: `canister network status` on "
                    "its own machine prints it, --root-key takes it"
                )
            match await self.status():
                case {"root_key": bytes(key)}:
                    self._root_key = key
                case other:
                    raise ProtocolError(f"{self.url} tells no root key: {other!r:.200}")
        return self._root_key

    async def _believed(self, data: bytes, effective_id: bytes) -> hash_tree.Tree:
        """The content of a certificate."""
        root_key = await self.root_key()
        try:
            return certificate.verify(data, root_key, effective_id, time.time_ns())
        except certificate.CertificateError as error:
            raise CertificateError(f"{self.url} sent a certificate that does not hold: {error}") from None

    async def _check_signature(self, document: dict[Any, Any], request_id: bytes, effective_id: bytes) -> None:
        """Remove the signatures from an answer to a query. One of them must be a node's, of these minutes."""
        match document.pop("signatures", None):
            case [{"timestamp": int(timestamp_ns), "signature": bytes(signature), "identity": bytes(node_id)}, *_]:
                pass
            case _:
                raise CertificateError(f"{self.url} did not sign its answer")
        message = certificate.query_response_message(document, timestamp_ns, request_id)
        try:
            keys.verify(await self._node_key(node_id, effective_id), signature, message)
        except keys.SignatureError as error:
            raise CertificateError(f"{self.url} sent an answer with a wrong signature: {error}") from None
        if abs(time.time_ns() - timestamp_ns) > certificate.MAX_AGE_NS:
            raise CertificateError(f"{self.url} sent an answer of another time: is this machine's clock right?")

    async def _node_key(self, node_id: bytes, effective_id: bytes) -> bytes:
        if node_id not in self._node_keys:
            tree = await self.read_state(effective_id, [[b"subnet"]])
            for _, subnet in hash_tree.children(hash_tree.find(tree, [b"subnet"]) or hash_tree.Empty()):
                for known_id, node in hash_tree.children(hash_tree.find(subnet, [b"node"]) or hash_tree.Empty()):
                    self._node_keys[known_id] = hash_tree.leaf(node, b"public_key") or b""
        try:
            return self._node_keys[node_id]
        except KeyError:
            text = f"{self.url} signs with node {principal.to_text(node_id)}, which is unknown"
            raise CertificateError(text) from None


def _message(door: Door, canister_id: bytes, method: str, arg: bytes) -> dict[str, Encodable]:
    # Without a nonce, two equal messages of one moment would be the same message.
    return {
        "request_type": door,
        "canister_id": canister_id,
        "method_name": method,
        "arg": arg,
        "nonce": os.urandom(NONCE_BYTES),
    }


def _refused(url: str, response: httpx.Response) -> ClientError:
    """The meaning of an HTTP error: texts and rejects are those of a replica, anything else comes from another
    server.
    """
    kind = response.headers.get("content-type", "").partition(";")[0]
    is_asked_first = response.request.method == "GET"  # every server of ours and every replica answers it
    if kind == "application/json" and not (is_asked_first and response.status_code == httpx.codes.NOT_FOUND):
        match _json(response):
            case {"reject_code": int(code), "error_code": str(error_code), "reject_message": str(message)}:
                return Rejected(code, error_code, message, response.status_code)
            case {"error": str(message)}:
                return Rejected(4, f"HTTP {response.status_code}", message, response.status_code)
    if kind == "text/plain" and not is_asked_first:
        return Rejected(4, f"HTTP {response.status_code}", response.text[:1000], response.status_code)
    return not_ours(url, response.status_code, response.headers)


def _json(response: httpx.Response) -> object:
    try:
        return response.json()
    except ValueError:
        return None


def _effective(canister_id: bytes, effective_id: bytes | None) -> bytes:
    if effective_id is None and canister_id == MANAGEMENT_ID:
        raise ValueError("a message to the management canister needs the id of the canister that it is about")
    return canister_id if effective_id is None else effective_id


def _document(response: httpx.Response) -> dict[Any, Any]:
    try:
        document = cbor.decode(response.content)
    except cbor.CborError as error:
        raise ProtocolError(f"{response.request.url} answered something else than CBOR: {error}") from None
    if not isinstance(document, dict):
        raise ProtocolError(f"{response.request.url} answered {document!r:.200}")
    return document


def _reply_in(tree: hash_tree.Tree, path: Sequence[bytes]) -> bytes | None:
    """The reply in a certificate, None if there is none yet. Raises Rejected."""
    found = hash_tree.find(tree, path) or hash_tree.Empty()
    try:
        fields = {name: hash_tree.leaf(found, name) or b"" for name, _ in hash_tree.children(found)}
        match fields.get(b"status"):
            case b"replied":
                return fields[b"reply"]
            case b"rejected":
                code = from_leb128(fields[b"reject_code"])
                error_code = fields.get(b"error_code", b"").decode(errors="replace")
                raise Rejected(code, error_code, fields[b"reject_message"].decode(errors="replace"), 200)
            case b"done":
                raise ProtocolError("the call was run, but its reply is not kept any more")
    except (KeyError, ValueError) as error:
        raise ProtocolError(f"a certificate tells of an answer and not which: {error}") from None
    return None


def _rejected(document: Mapping[Any, Any]) -> Rejected:
    try:
        code, message = int(document["reject_code"]), str(document["reject_message"])
    except (KeyError, TypeError, ValueError):
        raise ProtocolError(f"a reject without its reason: {document!r:.200}") from None
    return Rejected(code, str(document.get("error_code", "")), message, 200)
