"""A client of the IC door that knows nothing but the wire."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import httpx

from canister.api import codec
from canister.api.methods import BY_NAME
from canister.ic import cbor, certificate, envelope, hash_tree, principal
from canister.ic.envelope import Delegated
from canister.ic.identity import Identity
from canister.runtime.canister import Canister
from canister.runtime.host import Host

SOMEBODY = Identity.generate("secp256k1")
Sender = Identity | Delegated | None


@dataclass
class Door:
    """One canister of a host, by raw messages."""

    host: Host
    http: httpx.AsyncClient
    canister: Canister

    @property
    def id(self) -> bytes:
        return principal.from_text(self.canister.id)

    def content(self, kind: str, **fields: Any) -> dict[str, Any]:
        return {"request_type": kind, "ingress_expiry": time.time_ns() + 120 * 10**9} | fields

    def message(self, kind: str, method: str, value: object = None, **fields: Any) -> dict[str, Any]:
        row = BY_NAME.get(method)
        arg = b"DIDL\0\0" if row is None else codec.encode_args(row, value)
        return self.content(kind, canister_id=self.id, method_name=method, arg=arg) | fields

    async def post(self, path: str, body: bytes, version: str = "v3", id: bytes | None = None) -> httpx.Response:
        where = principal.to_text(self.id if id is None else id)
        kind, _, action = path.rpartition("/")
        return await self.http.post(f"/api/{version}/{kind or 'canister'}/{where}/{action}", content=body)

    async def send(self, kind: str, content: dict[str, Any], sender: Sender = None, version: str = "v3") -> Any:
        response = await self.post(kind, envelope.seal(content, sender)[0], version)
        assert response.status_code == 200, response.text
        return cbor.decode(response.content)

    async def tree(self, paths: list[list[bytes]], sender: Sender = None) -> hash_tree.Tree:
        document = await self.send("read_state", self.content("read_state", paths=paths), sender)
        return self.checked(document)

    def checked(self, document: Any) -> hash_tree.Tree:
        data = document["certificate"]
        return certificate.verify(data, self.host.root_key.public_key_der, self.id, time.time_ns())

    async def update(self, method: str, value: object, sender: Sender, **fields: Any) -> codec.Answer:
        content = self.message("call", method, value, **fields)
        document = await self.send("call", content, sender)
        assert document["status"] == "replied", document
        _, id = envelope.seal(content, sender)
        reply = hash_tree.leaf(self.checked(document), b"request_status", id, b"reply")
        assert reply is not None
        return codec.decode_reply(BY_NAME[method], reply)
