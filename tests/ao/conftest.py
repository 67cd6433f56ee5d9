"""Wallets of each kind."""

from __future__ import annotations

import pytest

from canister.ao.signing.wallets import ArweaveWallet, Ed25519Wallet, EthereumWallet, Wallet


@pytest.fixture(scope="session", params=["arweave", "ethereum", "ed25519"])
def wallet(request: pytest.FixtureRequest) -> Wallet:
    if request.param == "arweave":
        made: ArweaveWallet = request.getfixturevalue("rsa_wallet")
        return made
    return EthereumWallet.generate() if request.param == "ethereum" else Ed25519Wallet.generate()
