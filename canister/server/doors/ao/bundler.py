"""The bundler: signed items, whole or in chunks as turbo's client sends them. It takes no pay: `winc` is 0.

POST /v1/tx[/{token}], /tx[/{token}]        an item                              -> receipt
GET  /v1/chunks/{token}/-1/-1?chunkSize=N   begin                                -> {id, min, max, chunkSize}
GET  /v1/chunks/{token}/{id}/-1             an upload that was begun             -> the same
POST /v1/chunks/{token}/{id}/{offset}       a chunk
POST /v1/chunks/{token}/{id}/finalize       put them together                    -> 202
GET  /v1/chunks/{token}/{id}/status         -> {status, receipt}
GET  /v1/account/balance/{token}            what turbo's client asks before it pays -> {winc: "0", …}
GET  /v1/account/free                       how much is free -> {bytesRemaining: null}, which is all
"""

from __future__ import annotations

import time

from fastapi import Request, Response
from starlette.routing import Route

from canister.ao.storage.archive import Archive
from canister.ao.storage.index import block_at
from canister.ao.storage.uploads import MAX_PART_BYTES, MIN_PART_BYTES, Uploads
from canister.errors import BadRequest
from canister.server.doors.ao.base_layer import BaseLayer
from canister.server.doors.ao.routing import blocks, document, route, text

MAX_ITEM_BYTES = (10 << 20) + 8192  # of what is sent in one request: 10 MiB of data, and a head
VERSION = "0.2.0"  # of receipts
_DEADLINE_BLOCKS = 200
_BEGUN = "{upload:ao_id}"


class Bundler:
    def __init__(self, archive: Archive, uploads: Uploads, base_layer: BaseLayer) -> None:
        self._archive = archive
        self._uploads = uploads
        self._base_layer = base_layer

    def routes(self) -> list[Route]:
        found = [route(path, {"POST": self.post}) for path in ("/tx", "/tx/{token:ao_token}", "/v1/tx")]
        found.append(route("/v1/tx/{token:ao_token}", {"POST": self.post}))
        for top in ("/v1/chunks/{token:ao_token}", "/chunks/{token:ao_token}"):
            found += [
                route(f"{top}/-1/-1", {"GET": self.begin}),
                route(f"{top}/{_BEGUN}/-1", {"GET": self.begun, "POST": self.finalize}),
                route(f"{top}/{_BEGUN}/finalize", {"POST": self.finalize}),
                route(f"{top}/{_BEGUN}/status", {"GET": self.status}),
                route(f"{top}/{_BEGUN}/{{offset:int}}", {"POST": self.chunk}),
            ]
        found.append(route("/v1/price/bytes/{n:int}", {"GET": self.price}))
        for top in ("/v1", ""):
            found.append(route(f"{top}/account/balance/{{token:ao_token}}", {"GET": self.balance}))
            found.append(route(f"{top}/account/free", {"GET": self.free}))
        return found

    async def post(self, request: Request) -> Response:
        """An item; or a transaction, which is JSON, at the one path that both have."""
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() == "application/json":
            return await self._base_layer.post(request)
        head, _ = await self._archive.add_item(blocks(request, MAX_ITEM_BYTES), MAX_ITEM_BYTES)
        return document(_receipt(head.id, head.address, time.time()))

    async def begin(self, request: Request) -> Response:
        asked = request.query_params.get("chunkSize", str(MIN_PART_BYTES))
        if not asked.isdecimal() or len(asked) > 12:
            raise BadRequest(f"chunkSize is {asked[:40]!r}, no number of bytes")
        return self._about(await self._uploads.begin(int(asked)), int(asked))

    async def begun(self, request: Request) -> Response:
        upload = request.path_params["upload"]
        return self._about(upload, await self._uploads.part_bytes(upload))

    async def chunk(self, request: Request) -> Response:
        upload, offset = request.path_params["upload"], request.path_params["offset"]
        await self._uploads.put(upload, offset, blocks(request, MAX_PART_BYTES))
        return text("OK")

    async def finalize(self, request: Request) -> Response:
        upload = request.path_params["upload"]
        await self._uploads.finish(upload)
        return document({"uploadId": upload, "status": "VALIDATING"}, 202)

    async def status(self, request: Request) -> Response:
        upload = request.path_params["upload"]
        ended = await self._uploads.status(upload)
        if ended is None:
            return document({"status": "VALIDATING" if self._uploads.is_finishing(upload) else "ASSEMBLING"})
        if ended.id is None or ended.owner is None:
            return document({"status": "INVALID", "error": ended.error or ""})
        return document({"status": "FINALIZED", "receipt": _receipt(ended.id, ended.owner, ended.seconds)})

    async def price(self, request: Request) -> Response:
        return document({"winc": "0", "adjustments": []})

    async def balance(self, request: Request) -> Response:
        """Of any account: nothing, and nothing is needed."""
        amounts = dict.fromkeys(("winc", "balance", "controlledWinc", "effectiveBalance"), "0")
        return document({**amounts, "givenApprovals": [], "receivedApprovals": []})

    async def free(self, request: Request) -> Response:
        return document({"bytesRemaining": None})

    def _about(self, upload: str, part_bytes: int) -> Response:
        return document({"id": upload, "min": MIN_PART_BYTES, "max": MAX_PART_BYTES, "chunkSize": part_bytes})


def _receipt(id: str, owner: str, seconds: float) -> dict[str, object]:
    return {
        "id": id,
        "owner": owner,
        "timestamp": int(seconds * 1000),
        "winc": "0",
        "dataCaches": ["localhost"],
        "fastFinalityIndexes": ["localhost"],
        "deadlineHeight": block_at(seconds).height + _DEADLINE_BLOCKS,
        "version": VERSION,
    }
