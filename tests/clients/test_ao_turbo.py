"""turbo-sdk from npm, unmodified, uploads to a live server; each upload is read back from the gateway."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest

from canister.ao.signing.wallets import ArweaveWallet
from canister.client.local_server import LocalServer
from tests.clients.ao_clients import run

pytestmark = pytest.mark.nightly
SECRET = "4c0883a69102937d6231471b5dbb6204fe5129617082792ae468d01a3f362318"
ETHEREUM = "0x2c7536E3605D9C16a7a3D7b1898e529396a65c23"  # its address
N_BYTES = 7 * 1024 * 1024 + 3  # two chunks of the client's


def test_uploads_whole_and_in_chunks_are_found_at_the_gateway(ao_server: LocalServer, tmp_path: Path) -> None:
    wallet, file = ArweaveWallet.generate(), tmp_path / "file.txt"
    data = bytes(i % 251 for i in range(N_BYTES))
    file.write_bytes(data)
    given = {"url": ao_server.url, "jwk": json.loads(wallet.to_jwk()), "secret": SECRET, "file": str(file)}
    told = json.loads(run("uploads", given, "nightly/ao_turbo"))
    whose = {"data": wallet.address, "file": wallet.address, "chunked": wallet.address, "watched": wallet.address}
    for name, owner in {**whose, "ethereum": ETHEREUM}.items():
        assert (told[name]["owner"], told[name]["winc"]) == (owner, "0")
    for name in ("file", "chunked", "watched"):
        found = httpx.get(f"{ao_server.url}/{told[name]['id']}")
        assert (found.content == data, found.headers["content-type"]) == (True, "text/plain")
    assert httpx.get(f"{ao_server.url}/{told['data']['id']}").text == "a line"
    assert httpx.get(f"{ao_server.url}/{told['ethereum']['id']}").text == "by another wallet"
    assert (told["progress"] > 0, told["price"]) == (True, "0")
    assert (told["balances"], told["free"]) == (["0", "0"], {"bytesRemaining": None})
