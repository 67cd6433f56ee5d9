"""`canister ao keygen` and `publish`, against a real `canister ao serve`."""

from __future__ import annotations

import json
import random
import stat
from pathlib import Path

import httpx
import pytest

from canister.ao.signing.wallets import ArweaveWallet
from canister.client.local_server import LocalServer
from tests.cli.conftest import Command


@pytest.fixture(scope="module")
def wallet(tmp_path_factory: pytest.TempPathFactory, rsa_wallet: ArweaveWallet) -> Path:
    file = tmp_path_factory.mktemp("wallet") / "wallet.json"
    file.write_text(rsa_wallet.to_jwk())
    return file


def test_a_wallet_is_made_for_its_owner_alone_and_never_over_another_file(canister: Command, tmp_path: Path) -> None:
    file = tmp_path / "wallet.json"
    done = canister("ao", "keygen", file)
    assert done.code == 0, done.err
    assert done.out.strip() == ArweaveWallet.from_jwk(file.read_text()).address
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    before = file.read_text()
    again = canister("ao", "keygen", file)
    assert (again.code, file.read_text()) == (2, before)
    assert "exists already" in again.err


@pytest.mark.parametrize(
    ("n_bytes", "options"),
    [
        (0, ()),
        (1000, ()),
        (5 << 20, ()),
        (11 << 20, ()),
        (1000, ("--base-layer",)),
        (0, ("--base-layer",)),
        (700_000, ("--base-layer",)),
    ],
)
def test_what_is_published_is_there(
    canister: Command, wallet: Path, ao_server: LocalServer, tmp_path: Path, n_bytes: int, options: tuple[str, ...]
) -> None:
    file = tmp_path / "file.bin"
    file.write_bytes(random.Random(n_bytes).randbytes(n_bytes))
    tags = ("--tag", "Content-Type=image/x-thing", "--tag", f"Size={n_bytes}")
    done = canister("ao", "publish", file, "--to", ao_server.url, "--wallet", wallet, *tags, *options)
    assert done.code == 0, done.err
    found = httpx.get(f"{ao_server.url}/{done.out.strip()}")
    assert (found.content, found.headers["content-type"]) == (file.read_bytes(), "image/x-thing")
    query = '{ transaction(id: "%s") { tags { name value } owner { address } } }'.replace("%s", done.out.strip())
    told = httpx.post(f"{ao_server.url}/graphql", json={"query": query}).json()["data"]["transaction"]
    assert {"name": "Size", "value": str(n_bytes)} in told["tags"]
    assert told["owner"]["address"] == ArweaveWallet.from_jwk(wallet.read_text()).address


def test_what_is_wrong_is_told(canister: Command, wallet: Path, ao_server: LocalServer, tmp_path: Path) -> None:
    file = tmp_path / "file.bin"
    file.write_bytes(b"x")
    damaged = tmp_path / "damaged.json"
    damaged.write_text(json.dumps({"kty": "RSA", "n": "AQAB"}))
    to = ("--to", ao_server.url)
    for arguments, told in (
        ((file, "--wallet", tmp_path / "none.json", *to), "canister ao keygen"),
        ((file, "--wallet", damaged, *to), "no e"),
        ((tmp_path / "none", "--wallet", wallet, *to), "no such file"),
        ((file, "--wallet", wallet, *to, "--tag", "words"), "NAME=VALUE"),
        ((file, "--wallet", wallet, "--to", "http://127.0.0.1:1"), "nobody listens"),
        ((file, "--wallet", wallet, *to, *("--tag", f"Long={'x' * 5000}")), "4096"),
    ):
        done = canister("ao", "publish", *arguments)
        assert done.code != 0
        assert told in done.err
