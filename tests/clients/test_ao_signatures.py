"""arbundles and aoconnect from npm, unmodified, agree with our signatures, both ways."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from canister.ao.encoding import to_base64url
from canister.ao.signing.bundles import read_bundle, write_bundle
from canister.ao.signing.http_messages import Request
from canister.ao.signing.http_messages import verify as verify_request
from canister.ao.signing.items import Item, read_item, sign_item, verify
from canister.ao.signing.tags import texts
from canister.ao.signing.wallets import ArweaveWallet, Ed25519Wallet, EthereumWallet, Wallet
from tests.clients.ao_clients import run

SECRET = "4c0883a69102937d6231471b5dbb6204fe5129617082792ae468d01a3f362318"
WANTED: list[dict[str, Any]] = [
    {"data": "hello", "tags": [], "target": None, "anchor": None},
    {
        "data": "döner 🥙",
        "tags": [{"name": "Action", "value": "Ping"}, {"name": "Größe", "value": "é" * 70}],
        "target": to_base64url(bytes(range(32))),
        "anchor": "a" * 32,
    },
    {"data": "", "tags": [{"name": f"Tag-{i}", "value": "x" * i} for i in range(80)], "target": None, "anchor": None},
    {"data": "x" * 100_000, "tags": [{"name": "Empty", "value": ""}], "target": None, "anchor": None},
]


@pytest.fixture(scope="module")
def wallet() -> ArweaveWallet:
    return ArweaveWallet.generate()


def made(wallet: Wallet, wanted: dict[str, Any]) -> Item:
    tags = texts((tag["name"], tag["value"]) for tag in wanted["tags"])
    target = bytes(range(32)) if wanted["target"] else b""
    return sign_item(wallet, wanted["data"].encode(), tags, target=target, anchor=(wanted["anchor"] or "").encode())


def test_items_and_bundles_agree_with_arbundles(wallet: ArweaveWallet) -> None:
    ethereum = EthereumWallet.from_secret(bytes.fromhex(SECRET))
    ours = [made(by, wanted) for by in (wallet, ethereum, Ed25519Wallet.generate()) for wanted in WANTED]
    given = {
        "items": [base64.b64encode(item.to_bytes()).decode() for item in ours],
        "bundle": base64.b64encode(write_bundle(ours)).decode(),
        "jwk": json.loads(wallet.to_jwk()),
        "secret": SECRET,
        "wanted": WANTED,
    }
    told = json.loads(run("items", given))

    for item, read in zip(ours, told["read"], strict=True):
        assert read["valid"]
        assert (read["id"], read["owner"]) == (item.id, to_base64url(item.head.owner))
        assert read["target"] == to_base64url(item.head.target)
        assert base64.b64decode(read["anchor"]) == item.head.anchor
        assert texts((tag["name"], tag["value"]) for tag in read["tags"]) == item.head.tags
        assert base64.b64decode(read["data"]) == item.data
    assert told["bundle"] == {"ids": [item.id for item in ours], "valid": True}

    for theirs, by, wanted in zip(told["made"], [wallet] * 4 + [ethereum] * 4, WANTED * 2, strict=True):
        item = read_item(base64.b64decode(theirs["raw"]))
        verify(item.head, item.data)
        assert item.id == theirs["id"]
        expected = made(by, wanted)
        assert item.head.message(item.data) == expected.head.message(expected.data)
        assert item.head.address == by.address
    bundle = read_bundle(base64.b64decode(told["made_bundle"]))
    assert [item.id for item in bundle] == told["made_ids"]
    for item in bundle:
        verify(item.head, item.data)


@pytest.fixture
def received() -> Iterator[tuple[str, list[Request]]]:
    """A server that keeps what it gets, as a door would see it."""
    kept: list[Request] = []

    class Keep(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            names = {name.lower() for name in self.headers}
            fields = {name: ", ".join(self.headers.get_all(name) or []) for name in names}
            kept.append(Request("POST", self.path, fields, body))
            self.send_response(200)
            self.send_header("content-length", "2")
            self.end_headers()
            self.wfile.write(b"ok")

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Keep)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", kept
    server.shutdown()
    server.server_close()
    thread.join()


def test_signed_requests_of_aoconnect_are_verified(wallet: ArweaveWallet, received: tuple[str, list[Request]]) -> None:
    url, kept = received
    requests = [
        {"path": "/push", "method": "POST", "type": "Message", "action": "Ping", "target": "t" * 43},
        {"path": "/push", "method": "POST", "X-Size": "é", "number": "12", "data": "one line"},
    ]
    run("requests", {"url": url, "jwk": json.loads(wallet.to_jwk()), "requests": requests})
    assert len(kept) == len(requests)
    found = [verify_request(request) for request in kept]
    assert [signed.address for signed in found if signed is not None] == [wallet.address] * len(requests)
    first, second = (signed.fields for signed in found if signed is not None)
    assert (first["action"], first["target"]) == ("Ping", "t" * 43)
    assert (second["data"], second["x-size"], second["number"]) == ("one line", "é", "12")
