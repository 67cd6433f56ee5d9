"""Talk to a canister from Python as IC agents do: signed messages, and answers whose signatures are checked.

    async with IcCanister("http://127.0.0.1:8000", "llama_cpp", Identity.from_pem(pem)) as canister:
        result = await canister.run_update(InputRecord(args=["-p", "Hello"]))

The same calls, values and errors as `canister.client.Canister`, which needs an API key where this needs an identity.
An answer is believed if a certificate says it that the root key stands for, and to a query if a node has signed it that
a certificate names. The root key is the server's own word unless one is given: fetch it over a way that can be trusted.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import httpx

from canister import wire
from canister.calls import Calls
from canister.client import (
    CALL_SECONDS,
    CONNECT_SECONDS,
    ProtocolError,
    Refused,
    Rejected,
    Result,
    Unreachable,
    find_method,
    is_loopback,
)
from canister.ic import cbor, certificate, envelope, hash_tree, keys, principal
from canister.ic.candid.types import CandidError
from canister.ic.cbor import Encodable
from canister.ic.envelope import Delegated
from canister.ic.identity import Identity
from canister.ic.request_id import from_leb128
from canister.interface import Method

EXPIRY_SECONDS = 240
FIRST_POLL_SECONDS = 0.1
LONGEST_POLL_SECONDS = 2.0

Sender = Identity | Delegated | None


class IcCanister(Calls):
    """One canister, by id or by its name on a server of ours. sender None: the anonymous caller.

    root_key: DER; None asks the server for it.
    """

    def __init__(
        self,
        url: str,
        canister: str,
        sender: Sender = None,
        *,
        root_key: bytes | None = None,
        timeout_seconds: float = CALL_SECONDS,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        self.name = canister
        self._sender = sender
        self._root_key = root_key
        self._timeout_seconds = timeout_seconds
        self._id: bytes | None = None
        self._node_keys: dict[bytes, bytes] = {}
        self._http = httpx.AsyncClient(
            base_url=self.url,
            headers={"Content-Type": "application/cbor"},
            timeout=httpx.Timeout(timeout_seconds, connect=CONNECT_SECONDS),
            trust_env=not is_loopback(url),
            transport=transport,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self._http.aclose()

    async def call(self, name: str, arg: object = None, *, timeout_seconds: float | None = None) -> Result[Any]:
        """Call a method and decode its answer to the types of the interface table. Raises ClientError."""
        method = find_method(name)
        seconds = self._timeout_seconds if timeout_seconds is None else timeout_seconds
        content: dict[str, Encodable] = {
            "request_type": "query" if method.mode == "query" else "call",
            "canister_id": await self._canister_id(),
            "method_name": name,
            "arg": wire.encode_args(method, arg),
            "nonce": os.urandom(16),
        }
        ask = self._query if method.mode == "query" else self._update
        try:
            return _result(method, await asyncio.wait_for(ask(content), seconds))
        except TimeoutError:
            raise Unreachable(f"No answer from {self.url} to {name} within {seconds:g} s") from None

    # -- messages

    async def _query(self, content: dict[str, Encodable]) -> bytes:
        document, request_id = await self._send("query", "v3", content)
        signatures = document.pop("signatures", None)
        await self._check_signatures(document, signatures, request_id)
        match document:
            case {"status": "replied", "reply": {"arg": bytes(reply)}}:
                return reply
            case {"status": "rejected"}:
                raise _rejected(document)
        raise ProtocolError(f"{self.url} answered a query with {document!r:.200}")

    async def _update(self, content: dict[str, Encodable]) -> bytes:
        document, request_id = await self._send("call", "v4", content)
        pause = FIRST_POLL_SECONDS
        while True:
            match document:
                case {"status": "non_replicated_rejection"}:
                    raise _rejected(document)
                case {"certificate": bytes(data)}:
                    reply = _reply_in(await self._verified(data), request_id)
                    if reply is not None:
                        return reply
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, LONGEST_POLL_SECONDS)
            paths = [[b"request_status", request_id]]
            document, _ = await self._send("read_state", "v3", {"request_type": "read_state", "paths": paths})

    async def _send(self, path: str, version: str, content: dict[str, Encodable]) -> tuple[dict[Any, Any], bytes]:
        """What the server answered, {} for a 202; and the id of the request."""
        expiry_ns = time.time_ns() + EXPIRY_SECONDS * 10**9
        body, request_id = envelope.seal({**content, "ingress_expiry": expiry_ns}, self._sender)
        id_text = principal.to_text(await self._canister_id())
        response = await self._request("POST", f"/api/{version}/canister/{id_text}/{path}", body)
        return ({} if response.status_code == httpx.codes.ACCEPTED else _document(response)), request_id

    async def _request(self, verb: str, path: str, body: bytes | None = None) -> httpx.Response:
        try:
            response = await self._http.request(verb, path, content=body)
        except httpx.TransportError as error:
            raise Unreachable(f"No answer from {self.url}: {error or type(error).__name__}") from error
        except httpx.InvalidURL as error:
            raise Unreachable(f"{self.url} is not a usable URL: {error}") from error
        if response.is_error:
            raise Rejected(4, f"HTTP {response.status_code}", response.text[:1000], response.status_code)
        return response

    # -- whom to ask, and what to believe

    async def _canister_id(self) -> bytes:
        if self._id is None:
            try:
                self._id = principal.from_text(self.name)
            except principal.PrincipalError:
                self._id = await self._id_of_name()
        return self._id

    async def _id_of_name(self) -> bytes:
        response = await self._request("GET", "/canisters")
        try:
            known = {str(row["name"]): str(row["id"]) for row in response.json()["canisters"]}
            return principal.from_text(known[self.name])
        except KeyError:
            names = ", ".join(known)
            raise Rejected(3, "IC0301", f"Canister {self.name!r} not found. This server has: {names}.", 404) from None
        except (ValueError, TypeError) as error:
            raise ProtocolError(f"{self.url} does not tell the ids of its canisters: {error}") from None

    async def _trusted_key(self) -> bytes:
        if self._root_key is None:
            match _document(await self._request("GET", "/api/v2/status")):
                case {"root_key": bytes(key)}:
                    self._root_key = key
                case other:
                    raise ProtocolError(f"{self.url} tells no root key: {other!r:.200}")
        return self._root_key

    async def _verified(self, data: bytes) -> hash_tree.Tree:
        root_key = await self._trusted_key()
        try:
            return certificate.verify(data, root_key, await self._canister_id(), time.time_ns())
        except certificate.CertificateError as error:
            raise ProtocolError(f"{self.url} sent a certificate that does not hold: {error}") from None

    async def _check_signatures(self, document: Mapping[str, Any], signatures: object, request_id: bytes) -> None:
        match signatures:
            case [{"timestamp": int(timestamp_ns), "signature": bytes(signature), "identity": bytes(node_id)}, *_]:
                pass
            case _:
                raise ProtocolError(f"{self.url} did not sign its answer")
        message = certificate.query_response_message(document, timestamp_ns, request_id)
        try:
            keys.verify(await self._node_key(node_id), signature, message)
        except keys.SignatureError as error:
            raise ProtocolError(f"{self.url} sent an answer with a wrong signature: {error}") from None
        if abs(time.time_ns() - timestamp_ns) > certificate.MAX_AGE_NS:
            raise ProtocolError(f"{self.url} sent an answer of another time: is this machine's clock right?")

    async def _node_key(self, node_id: bytes) -> bytes:
        if node_id not in self._node_keys:
            document, _ = await self._send("read_state", "v3", {"request_type": "read_state", "paths": [[b"subnet"]]})
            tree = await self._verified(document.get("certificate", b""))
            for _, subnet in hash_tree.children(hash_tree.find(tree, [b"subnet"]) or hash_tree.Empty()):
                for known_id, node in hash_tree.children(hash_tree.find(subnet, [b"node"]) or hash_tree.Empty()):
                    self._node_keys[known_id] = hash_tree.leaf(node, b"public_key") or b""
        try:
            return self._node_keys[node_id]
        except KeyError:
            raise ProtocolError(f"{self.url} signs with node {principal.to_text(node_id)}, which is unknown") from None


def _document(response: httpx.Response) -> dict[Any, Any]:
    try:
        document = cbor.decode(response.content)
    except cbor.CborError as error:
        raise ProtocolError(f"{response.request.url} answered something else than CBOR: {error}") from None
    if not isinstance(document, dict):
        raise ProtocolError(f"{response.request.url} answered {document!r:.200}")
    return document


def _reply_in(tree: hash_tree.Tree, request_id: bytes) -> bytes | None:
    """The reply that a certificate holds, None if there is none yet. Raises Rejected."""
    found = hash_tree.find(tree, [b"request_status", request_id]) or hash_tree.Empty()
    try:
        fields = {name: hash_tree.leaf(found, name) or b"" for name, _ in hash_tree.children(found)}
        match fields.get(b"status"):
            case b"replied":
                return fields[b"reply"]
            case b"rejected":
                code = from_leb128(fields[b"reject_code"])
                error_code = fields.get(b"error_code", b"").decode(errors="replace")
                raise Rejected(code, error_code, fields[b"reject_message"].decode(errors="replace"), 200)
    except (KeyError, ValueError) as error:
        raise ProtocolError(f"a certificate tells of an answer and not which: {error}") from None
    return None


def _rejected(document: Mapping[str, Any]) -> Rejected:
    try:
        code, message = int(document["reject_code"]), str(document["reject_message"])
    except (KeyError, TypeError, ValueError):
        raise ProtocolError(f"a reject without its reason: {document!r:.200}") from None
    return Rejected(code, str(document.get("error_code", "")), message, 200)


def _result(method: Method, reply: bytes) -> Result[Any]:
    try:
        answer = wire.decode_reply(method, reply)
    except CandidError as error:
        raise ProtocolError(f"{method.name} answered something else than it should: {error}") from None
    if answer.is_err:
        raise Refused(answer.value, 200)
    return Result(answer.value)
