"""Gateway, bundler and base layer over HTTP: what is sent comes back under its id, and nothing else is ever there."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from typing import Any

import httpx
import pytest

from canister.ao.arweave.chunks import check_chunk, tree_of
from canister.ao.arweave.transactions import PostedChunk, sign_transaction
from canister.ao.encoding import from_base64url, to_base64url
from canister.ao.signing.bundles import write_bundle
from canister.ao.signing.items import Item, sign_item
from canister.ao.signing.wallets import ArweaveWallet, Ed25519Wallet
from canister.ao.storage.uploads import MIN_PART_BYTES
from tests.server.doors.ao.conftest import Storage
from tests.traces import until_so

pytestmark = pytest.mark.anyio
OCTETS = {"Content-Type": "application/octet-stream"}


def item(data: bytes, *tags: tuple[bytes, bytes]) -> Item:
    return sign_item(Ed25519Wallet.generate(), data, tags)


async def posted(storage: Storage, made: Item, path: str = "/v1/tx/arweave") -> httpx.Response:
    return await storage.client.post(path, content=made.to_bytes(), headers=OCTETS)


@pytest.mark.parametrize("path", ["/v1/tx/arweave", "/v1/tx", "/tx", "/tx/solana"])
async def test_an_item_is_found_under_its_id(storage: Storage, path: str) -> None:
    made = item(
        f"hello from {path}".encode(), (b"Content-Type", b"text/plain; charset=utf-8"), (b"Kind", path.encode())
    )
    receipt = (await posted(storage, made, path)).json()
    assert (receipt["id"], receipt["owner"], receipt["winc"]) == (made.id, made.head.address, "0")
    assert {"timestamp", "dataCaches", "fastFinalityIndexes", "deadlineHeight", "version"} <= receipt.keys()

    for where in ("", "/raw", "/data"):
        found = await storage.client.get(f"{where}/{made.id}")
        assert (found.content, found.headers["content-type"]) == (made.data, "text/plain; charset=utf-8")
    tag = json.dumps(path)
    query = '{ transactions(tags: [{name: "Kind", values: [TAG]}]) { edges { node { id } } } }'.replace("TAG", tag)
    for asked in (
        await storage.client.post("/graphql", json={"query": query}),
        await storage.client.get("/graphql", params={"query": query}),
    ):
        assert asked.json() == {"data": {"transactions": {"edges": [{"node": {"id": made.id}}]}}}
    assert (await storage.opened_again()).find(made.id).record.tags == made.head.tags


async def test_a_page_of_a_stranger_has_no_power_over_the_console(storage: Storage) -> None:
    made = item(b"<script>fetch('/session')</script>", (b"Content-Type", b"text/html"))
    await posted(storage, made)
    found = await storage.client.get(f"/{made.id}")
    assert found.headers["content-type"] == "text/html"
    assert (found.headers["content-security-policy"], found.headers["x-content-type-options"]) == ("sandbox", "nosniff")


@pytest.mark.parametrize("told", [b"text/html\r\nX-Evil: 1", b"nonsense", b"a/b\nc", "é/b".encode(), b"", b"a" * 300])
async def test_a_type_that_is_none_is_not_told(storage: Storage, told: bytes) -> None:
    made = item(b"data", (b"Content-Type", told))
    await posted(storage, made)
    found = await storage.client.get(f"/{made.id}")
    assert found.headers["content-type"] == "application/octet-stream"
    assert "x-evil" not in found.headers


@pytest.mark.parametrize(
    ("asked", "first", "end"), [("bytes=0-9", 0, 10), ("bytes=100-", 100, 3000), ("bytes=-5", 2995, 3000)]
)
async def test_ranges(storage: Storage, asked: str, first: int, end: int) -> None:
    made = item(random.Random(1).randbytes(3000))
    await posted(storage, made)
    found = await storage.client.get(f"/{made.id}", headers={"Range": asked})
    assert (found.status_code, found.content) == (206, made.data[first:end])
    assert found.headers["content-range"] == f"bytes {first}-{end - 1}/3000"
    outside = await storage.client.get(f"/{made.id}", headers={"Range": "bytes=3000-"})
    assert (outside.status_code, outside.headers["content-range"]) == (416, "bytes */3000")
    head = await storage.client.head(f"/{made.id}")
    assert (head.headers["content-length"], head.headers["accept-ranges"]) == ("3000", "bytes")
    again = await storage.client.get(f"/{made.id}", headers={"If-None-Match": head.headers["etag"]})
    assert again.status_code == 304


async def test_what_is_damaged_is_refused_and_leaves_nothing(storage: Storage) -> None:
    made = item(b"true words", (b"A", b"b"))
    data = made.to_bytes()
    for wrong in (b"", data[:-1] + b"X", data[:50], b"\xff" * 200, data[:70] + b"\0" + data[71:]):
        refused = await storage.client.post("/tx", content=wrong, headers=OCTETS)
        assert refused.status_code == 400, refused.text
        assert refused.json()["error"]
    assert (await storage.client.get(f"/{made.id}")).status_code == 404
    assert (await storage.client.post("/tx/arweave", content=data, headers=OCTETS)).status_code == 200
    too_large = await storage.client.post("/tx", content=b"x" * (11 << 20), headers=OCTETS)
    assert too_large.status_code == 413
    assert "chunks" in too_large.json()["error"]


async def test_storage_takes_no_pay_and_says_so_to_turbos_client(storage: Storage) -> None:
    for top in ("/v1", ""):
        told = (await storage.client.get(f"{top}/account/balance/arweave?address=anybody")).json()
        assert (told["winc"], told["effectiveBalance"], told["receivedApprovals"]) == ("0", "0", [])
        assert (await storage.client.get(f"{top}/account/free?address=anybody")).json() == {"bytesRemaining": None}


async def test_unknown_paths_and_verbs(storage: Storage) -> None:
    nowhere = to_base64url(bytes(32))
    for path in (f"/{nowhere}", f"/tx/{nowhere}", f"/tx/{nowhere}/status", f"/raw/{nowhere}"):
        assert (await storage.client.get(path)).status_code == 404
    wrong = await storage.client.delete(f"/{nowhere}")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "GET, HEAD")
    assert (await storage.client.get("/health")).status_code == 200  # the canister's doors are as before
    assert (await storage.client.post("/graphql", content=b"{")).json() == {"error": "the body is not JSON"}


async def test_a_bundle_is_found_by_its_items(storage: Storage) -> None:
    inner = [item(b"one", (b"Bundled", b"yes")), item(b"two", (b"Bundled", b"yes"))]
    tags = ((b"Bundle-Format", b"binary"), (b"Bundle-Version", b"2.0.0"))
    await posted(storage, item(write_bundle([item(write_bundle(inner), *tags)]), *tags))
    for made in inner:
        assert (await storage.client.get(f"/{made.id}")).content == made.data
    query = '{ transactions(tags: {name: "Bundled", values: "yes"}, sort: HEIGHT_ASC) { edges { node { id } } } }'
    found = (await storage.client.post("/graphql", json={"query": query})).json()
    assert {edge["node"]["id"] for edge in found["data"]["transactions"]["edges"]} == {made.id for made in inner}


async def test_chunks_of_an_item_in_any_order(storage: Storage) -> None:
    made = item(random.Random(2).randbytes(2 * MIN_PART_BYTES + 1000), (b"Content-Type", b"application/x-thing"))
    data, client = made.to_bytes(), storage.client
    begun = (await client.get("/v1/chunks/arweave/-1/-1", params={"chunkSize": MIN_PART_BYTES})).json()
    top, size = f"/v1/chunks/arweave/{begun['id']}", begun["chunkSize"]
    assert begun["min"] <= size <= begun["max"]
    assert (await client.get(f"{top}/-1")).json() == begun
    for at in reversed(range(0, len(data), size)):
        sent = await client.post(f"{top}/{at}", content=data[at : at + size], headers=OCTETS)
        assert sent.status_code == 200
    assert (await client.get(f"{top}/status")).json() == {"status": "ASSEMBLING"}
    assert (await client.post(f"{top}/finalize")).status_code == 202
    told = await finished(client, top)
    assert (told["status"], told["receipt"]["id"], told["receipt"]["owner"]) == (
        "FINALIZED",
        made.id,
        made.head.address,
    )
    found = await client.get(f"/{made.id}")
    assert (found.content, found.headers["content-type"]) == (made.data, "application/x-thing")
    assert (await client.post(f"{top}/finalize")).status_code == 202  # once more
    assert (await client.get(f"{top}/status")).json() == told


async def test_an_upload_with_a_hole_or_damage_ends_as_invalid(storage: Storage) -> None:
    data, client = item(random.Random(3).randbytes(2 * MIN_PART_BYTES)).to_bytes(), storage.client
    for parts in ({0: data[:100], MIN_PART_BYTES: data[100:200]}, {0: b"\1" * 5000}, {}):
        begun = (await client.get("/v1/chunks/arweave/-1/-1")).json()
        top = f"/v1/chunks/arweave/{begun['id']}"
        for at, part in parts.items():
            await client.post(f"{top}/{at}", content=part, headers=OCTETS)
        await client.post(f"{top}/finalize")
        told = await finished(client, top)
        assert told["status"] == "INVALID"
        assert told["error"]


async def test_wrong_chunks_are_refused(storage: Storage) -> None:
    client = storage.client
    for size in ("1", "x", str(1 << 40)):
        assert (await client.get("/v1/chunks/arweave/-1/-1", params={"chunkSize": size})).status_code == 400
    nowhere = to_base64url(bytes(32))
    for path in (f"{nowhere}/0", f"{nowhere}/finalize"):
        assert (await client.post(f"/v1/chunks/arweave/{path}", content=b"x")).status_code == 404
    begun = (await client.get("/v1/chunks/arweave/-1/-1")).json()
    assert (await client.post(f"/v1/chunks/arweave/{begun['id']}/7", content=b"x")).status_code == 400


async def finished(client: httpx.AsyncClient, top: str) -> dict[str, Any]:
    async def told() -> dict[str, Any] | None:
        status: dict[str, Any] = (await client.get(f"{top}/status")).json()
        return None if status["status"] in ("VALIDATING", "ASSEMBLING") else status

    return await until_so(told)


# -- the base layer


async def test_a_transaction_with_its_data(storage: Storage, rsa_wallet: ArweaveWallet) -> None:
    data = b"small data"
    root = tree_of(data).root
    made = sign_transaction(rsa_wallet, data_root=root, data_bytes=len(data), tags=[(b"Kind", b"tx")])
    client = storage.client
    anchor = (await client.get("/tx_anchor")).text
    assert len(from_base64url(anchor)) == 32
    assert (await client.get("/price/1000")).text == "0"
    assert (await client.get("/info")).json()["height"] > 0
    assert (await client.post("/tx", json=made.to_json(data))).status_code == 200
    assert (await client.post("/tx", json=made.to_json(data))).status_code == 208
    assert (await client.get(f"/{made.id}")).content == data
    assert (await client.get(f"/tx/{made.id}")).json() == made.to_json()
    status = (await client.get(f"/tx/{made.id}/status")).json()
    assert status["number_of_confirmations"] >= 1

    wrong = {**made.to_json(data), "quantity": "5"}
    assert "signature" in (await client.post("/tx", json=wrong)).json()["error"]
    assert (await client.post("/tx", json=made.to_json(b"other data"))).status_code == 400


async def test_chunks_before_and_after_their_transaction(storage: Storage, rsa_wallet: ArweaveWallet) -> None:
    data = random.Random(4).randbytes(600_000)
    tree = tree_of(data)
    made = sign_transaction(rsa_wallet, data_root=tree.root, data_bytes=len(data))
    chunks = [
        PostedChunk(tree.root, len(data), proven.offset, proven.proof, data[proven.span.start : proven.span.end])
        for proven in tree.chunks
    ]
    client = storage.client
    assert (await client.post("/chunk", json=chunks[0].to_json())).status_code == 200
    assert (await client.post("/tx", json=made.to_json())).status_code == 200
    for path in (f"/{made.id}", f"/tx/{made.id}", f"/tx/{made.id}/status"):
        pending = await client.get(path)
        assert (pending.status_code, pending.text) == (202, "Pending")
    false = replace(chunks[1], chunk=bytes(len(chunks[1].chunk)))
    refused = await client.post("/chunk", json=false.to_json())
    assert (refused.status_code, refused.json()["error"]) == (400, "invalid_proof")
    for chunk in reversed(chunks[1:]):
        assert (await client.post("/chunk", json=chunk.to_json())).status_code == 200
    assert (await client.get(f"/{made.id}")).content == data

    offset = (await client.get(f"/tx/{made.id}/offset")).json()
    first = int(offset["offset"]) - int(offset["size"]) + 1
    got = b""
    while len(got) < len(data):
        got += from_base64url((await client.get(f"/chunk/{first + len(got)}")).json()["chunk"])
    assert got == data
    for proven in tree.chunks:  # a chunk is had by any of its bytes
        told = (await client.get(f"/chunk/{first + proven.offset}")).json()
        chunk, proof = from_base64url(told["chunk"]), from_base64url(told["data_path"])
        assert check_chunk(tree.root, len(data), proven.offset, proof, chunk) == proven.span
    again = await storage.opened_again()
    assert again.find(made.id).has_all
    assert (await client.get("/chunk/999999999999")).status_code == 404
