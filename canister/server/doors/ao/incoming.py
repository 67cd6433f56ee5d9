"""Messages as they come: items, or HTTP messages whose fields are tags. Each is verified before it counts."""

from __future__ import annotations

import asyncio
import time

from fastapi import Request

from canister.ao.encoding import Malformed, is_id, to_base64url
from canister.ao.processes.messages import Incoming
from canister.ao.signing import http_messages, items
from canister.ao.signing.items import Item
from canister.ao.signing.tags import MAX_TAG_BYTES, MAX_TAGS
from canister.errors import BadRequest
from canister.server.requests import read_body

MAX_MESSAGE_BYTES = (10 << 20) + items.MAX_HEAD_BYTES
ITEM_CODEC = "application/ans104"
# Of an HTTP message; how it is sent and answered, not what it says.
_WIRE = frozenset(
    {
        *("accept-bundle", "accept-codec", "require-codec", "codec-device", "signing-format", "method", "path"),
        *("target", "anchor", "data", "content-digest", "content-length", "inline-body-key", "ao-body-key"),
        *("body-keys", "ao-types", "host", "connection", "user-agent", "accept", "accept-encoding", "accept-language"),
        *("signature", "signature-input", "transfer-encoding", "sec-fetch-mode"),
    }
)


async def read_item(request: Request) -> Item:
    """The item in a body, verified. Raises Malformed, WrongSignature, MessageTooLarge."""
    return await verified(await read_body(request, MAX_MESSAGE_BYTES))


async def verified(body: bytes) -> Item:
    """Verified on a thread, since that takes as long as a call."""

    def check() -> Item:
        item = items.read_item(body)
        items.verify(item.head, item.data)
        return item

    return await asyncio.to_thread(check)


def of_item(item: Item) -> Incoming:
    head = item.head
    target = to_base64url(head.target) if head.target else ""
    return Incoming(head.id, head.address, target, item.data, head.tags, head.anchor)


async def of_http(request: Request, body: bytes) -> Incoming | None:
    """A message that the request's own signature makes; None: it has none. Raises Malformed, WrongSignature."""
    fields: dict[str, str] = {}
    for name, value in request.headers.items():
        fields[name] = f"{fields[name]}, {value}" if name in fields else value
    raw: bytes = request.scope["raw_path"]
    path = raw.partition(b"?")[0].decode("latin-1")
    query = request.scope["query_string"].decode("latin-1")
    asked = http_messages.Request(request.method, path, fields, body, query, fields.get("host", ""))
    signed = await asyncio.to_thread(http_messages.verify, asked, time.time())
    if signed is None:
        return None
    tags = tuple((name.encode(), value.encode("latin-1")) for name, value in signed.fields.items() if name not in _WIRE)
    n_bytes = sum(len(name) + len(value) for name, value in tags)
    if len(tags) > MAX_TAGS or n_bytes > MAX_TAG_BYTES:
        raise Malformed(
            f"the request has {len(tags)} fields of {n_bytes} bytes; {MAX_TAGS} of {MAX_TAG_BYTES} are taken"
        )
    data = body or signed.fields.get("data", "").encode("latin-1")
    anchor = signed.fields.get("anchor", "").encode("latin-1")
    return Incoming(signed.id, signed.address, signed.fields.get("target", ""), data, tags, anchor)


def checked_id(text: str | None, what: str) -> str:
    """Raises BadRequest."""
    if text is None or not is_id(text):
        raise BadRequest(f"{what} is {(text or '')[:80]!r}; an id has 43 characters of base64url")
    return text
