"""Arweave's base layer as its clients see a node: transactions, and chunks whose proofs are checked. Nothing costs."""

from __future__ import annotations

import time

from fastapi import Request, Response
from starlette.routing import Route

from canister.ao.encoding import Malformed, to_base64url
from canister.ao.storage.archive import Archive
from canister.ao.storage.index import block_at
from canister.server.doors.ao.routing import document, error, json_body, route, text

MAX_TRANSACTION_BYTES = 18 << 20  # 12 MiB of data as base64, and the rest
MAX_CHUNK_BODY_BYTES = 512 * 1024
NETWORK = "llama-canister.1"


class BaseLayer:
    def __init__(self, archive: Archive) -> None:
        self._archive = archive

    def routes(self) -> list[Route]:
        """`POST /tx` is with the bundler, whose items come there too."""
        return [
            route("/tx_anchor", {"GET": self.anchor}),
            route("/info", {"GET": self.info}),
            route("/price/{n:int}", {"GET": self.price}),
            route("/price/{n:int}/{target}", {"GET": self.price}),
            route("/wallet/{address:ao_id}/balance", {"GET": self.price}),
            route("/chunk", {"POST": self.post_chunk}),
            route("/chunk/{offset:int}", {"GET": self.chunk}),
        ]

    async def post(self, request: Request) -> Response:
        """A transaction, with its data or before its chunks."""
        _, is_new = await self._archive.add_transaction(await json_body(request, MAX_TRANSACTION_BYTES))
        return text("OK") if is_new else text("Transaction already processed.", 208)

    async def post_chunk(self, request: Request) -> Response:
        body = await json_body(request, MAX_CHUNK_BODY_BYTES)
        try:
            await self._archive.add_chunk(body)
        except Malformed as wrong:
            return error(400, str(wrong), code="invalid_proof")  # clients know the word, and do not try again
        return text("OK")

    async def chunk(self, request: Request) -> Response:
        """With its proof. The weave here has no blocks of transactions, so there is no path in one."""
        data, proof = await self._archive.chunk_at(request.path_params["offset"])
        told = {"chunk": to_base64url(data), "data_path": to_base64url(proof), "tx_path": ""}
        return document({**told, "packing": "unpacked"})

    async def anchor(self, request: Request) -> Response:
        """The last block's id, which is as long as a transaction's."""
        return text(block_at(time.time()).id)

    async def price(self, request: Request) -> Response:
        """In winston."""
        return text("0")

    async def info(self, request: Request) -> Response:
        block = block_at(time.time())
        told = {"network": NETWORK, "version": 5, "release": 1, "height": block.height, "current": block.id}
        return document({**told, "blocks": block.height, "peers": 0, "queue_length": 0, "node_state_latency": 0})
