"""The gateway: data by id, with ranges; transactions as JSON; GraphQL.

What is stored here was written by strangers. So a browser gets each thing sandboxed: a page among them runs no script,
and has another origin than the console that this server may serve too.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing

from fastapi import Request, Response
from fastapi.responses import StreamingResponse
from starlette.routing import Route

from canister.ao.encoding import sha256, to_base64url
from canister.ao.signing.tags import Tag
from canister.ao.storage.archive import Archive, Found
from canister.ao.storage.index import block_at
from canister.ao.storage.queries import Filter, Record
from canister.errors import BadRequest, NotFound
from canister.server.doors.ao.routing import document, error, json_body, route, text
from canister.server.doors.ao.units import Units
from canister.server.doors.files import byte_range

MAX_QUERY_BYTES = 1 << 20
UNKNOWN_TYPE = "application/octet-stream"
_TYPE = re.compile(r"[A-Za-z0-9!#$&^_.+-]{1,100}/[A-Za-z0-9!#$&^_.+-]{1,100}(;[ -~]{0,200})?")
_SAFE = {
    "Accept-Ranges": "bytes",
    "Content-Security-Policy": "sandbox",
    "Cross-Origin-Resource-Policy": "cross-origin",
    "X-Content-Type-Options": "nosniff",
}


SCHEDULER_SECONDS = 3600  # for which clients remember where a scheduler is
_LOCATION = (b"Type", b"Scheduler-Location")


class Gateway:
    """archive: what is found here. units: whose messages are found too. url: where every scheduler is said to be, since
    whoever asks here is served here."""

    def __init__(self, archive: Archive, units: Units | None = None, url: str = "") -> None:
        self._archive = archive
        self._units = units
        self._url = url

    def routes(self) -> list[Route]:
        """Those of data by id come last, since ids stand at the root."""
        return [
            route("/graphql", {"GET": self.graphql, "POST": self.graphql}),
            route("/tx/{id:ao_id}", {"GET": self.transaction}),
            route("/tx/{id:ao_id}/status", {"GET": self.status}),
            route("/tx/{id:ao_id}/offset", {"GET": self.offset}),
            route("/tx/{id:ao_id}/data", {"GET": self.data}),
            route("/raw/{id:ao_id}", {"GET": self.data}),
            route("/data/{id:ao_id}", {"GET": self.data}),
            route("/{id:ao_id}", {"GET": self.data}),
        ]

    async def data(self, request: Request) -> Response:
        """The data, or one range of it; 202 while parts of it are missing."""
        try:
            found = self._archive.find(request.path_params["id"])
        except NotFound:
            message = None if self._units is None else await self._units.message(request.path_params["id"])
            if message is None:
                raise
            return Response(message.data, 200, {**_SAFE, "Content-Type": content_type(message.tags)})
        record = found.record
        if not found.has_all:
            return text("Pending", 202)
        etag = f'"{record.id}"'
        headers = {**_SAFE, "ETag": etag, "Cache-Control": "public, max-age=31536000, immutable"}
        if etag in request.headers.get("if-none-match", ""):
            return Response(None, 304, headers)
        first, end, status = 0, record.data_bytes, 200
        if request.headers.get("if-range", etag) == etag:
            try:
                part = byte_range(request.headers.get("range"), record.data_bytes)
            except ValueError as outside:
                return error(416, str(outside), {"Content-Range": f"bytes */{record.data_bytes}"})
            if part is not None:
                first, end, status = *part, 206
                headers["Content-Range"] = f"bytes {first}-{end - 1}/{record.data_bytes}"
        headers["Content-Length"] = str(end - first)
        headers["Content-Type"] = content_type(record.tags)
        if request.method == "HEAD":
            return Response(None, status, headers)
        return StreamingResponse(self._part(found, first, end), status, headers)

    async def transaction(self, request: Request) -> Response:
        """As JSON. An item is told in the same form, without a data root, since it has none."""
        found = self._archive.find(request.path_params["id"])
        if found.is_item or not found.record.signature:
            return document(_of_item(found.record))
        stored = await self._archive.transaction(found.record.id)
        if not stored.has_all:
            return text("Pending", 202)
        return document(stored.transaction.to_json())

    async def status(self, request: Request) -> Response:
        found = self._archive.find(request.path_params["id"])
        if not found.has_all:
            return text("Pending", 202)
        record = found.record
        told = {"block_height": record.height, "block_indep_hash": record.block_id}
        return document({**told, "number_of_confirmations": max(1, _height_now() - record.height)})

    async def offset(self, request: Request) -> Response:
        found = self._archive.find(request.path_params["id"])
        offset = self._archive.offset(found.record.id)
        if offset is None or not found.has_all:
            raise NotFound(f"the data of {found.record.id} is not in chunks; read it at /{found.record.id}")
        return document({"size": str(found.record.data_bytes), "offset": str(offset)})

    async def graphql(self, request: Request) -> Response:
        if request.method == "POST":
            body = await json_body(request, MAX_QUERY_BYTES)
        else:
            body = _asked(request)
        return document(await self._archive.answer(body, self._schedulers))

    def _schedulers(self, wanted: Filter) -> list[Record]:
        """Where the schedulers are that somebody asks for, whoever they are."""
        name, value = _LOCATION
        if not wanted.owners or (name, frozenset([value])) not in wanted.tags or not self._url:
            return []
        tags = ((b"Data-Protocol", b"ao"), _LOCATION, (b"Url", self._url.encode()))
        block = block_at(time.time())
        return [
            Record(
                place=0,
                id=to_base64url(sha256(b"scheduler of " + owner.encode())),
                owner=owner,
                owner_key="",
                target="",
                anchor="",
                signature="",
                tags=(*tags, (b"Time-To-Live", str(SCHEDULER_SECONDS * 1000).encode())),
                data_bytes=0,
                block_id=block.id,
                height=block.height,
                seconds=block.seconds,
            )
            for owner in sorted(wanted.owners)
        ]

    async def _part(self, found: Found, first: int, end: int) -> AsyncGenerator[bytes, None]:
        left = end - first
        if not left:
            return
        async with aclosing(self._archive.data(found, first)) as blocks:
            async for block in blocks:
                yield block[:left]
                left -= len(block)
                if left <= 0:
                    return


def content_type(tags: Iterable[Tag]) -> str:
    """What the tag says, where it is a type at all."""
    told = next((value for name, value in tags if name.lower() == b"content-type"), b"").decode("latin-1")
    return told if _TYPE.fullmatch(told) else UNKNOWN_TYPE


def _asked(request: Request) -> object:
    """Of a GET request, as GraphQL over HTTP has it."""
    asked: dict[str, object] = dict(request.query_params)
    try:
        variables = json.loads(str(asked.get("variables") or "null"))
    except ValueError:
        raise BadRequest("the variables in the path are not JSON") from None
    return {**asked, "variables": variables}


def _of_item(record: Record) -> dict[str, object]:
    return {
        "format": 2,
        "id": record.id,
        "last_tx": record.anchor,
        "owner": record.owner_key,
        "tags": [{"name": to_base64url(name), "value": to_base64url(value)} for name, value in record.tags],
        "target": record.target,
        "quantity": "0",
        "data": "",
        "data_size": str(record.data_bytes),
        "data_root": "",
        "reward": "0",
        "signature": record.signature,
    }


def _height_now() -> int:
    return block_at(time.time()).height
