"""arweave-js from npm, unmodified, agrees with our transactions, roots and proofs, both ways."""

from __future__ import annotations

import json

from canister.ao.arweave.chunks import check_chunk, tree_of
from canister.ao.arweave.transactions import read_transaction, sign_transaction, verify
from canister.ao.encoding import from_base64url
from canister.ao.signing.wallets import ArweaveWallet
from tests.clients.ao_clients import run

SIZES = [1, 1000, 262_143, 262_144, 262_145, 294_911, 294_912, 524_288, 800_000, 1_310_720]


def pattern(n_bytes: int) -> bytes:
    return bytes((31 * i + 7 * (i // 256)) % 256 for i in range(n_bytes))


def test_transactions_roots_and_proofs_agree() -> None:
    wallet = ArweaveWallet.generate()
    trees = [tree_of(pattern(size)) for size in SIZES]
    ours = [
        sign_transaction(
            wallet,
            data_root=tree.root,
            data_bytes=size,
            tags=[(b"App", "döner".encode())],
            anchor=bytes(48),
            target=bytes(range(32)),
            quantity=5,
            reward=9,
        )
        for size, tree in zip(SIZES, trees, strict=True)
    ]
    given = {
        "transactions": [transaction.to_json() for transaction in ours],
        "sizes": SIZES,
        "jwk": json.loads(wallet.to_jwk()),
    }
    told = json.loads(run("transactions", given))
    assert told["valid"] == [True] * len(SIZES)
    for size, tree, made in zip(SIZES, trees, told["made"], strict=True):
        transaction, _ = read_transaction(made["transaction"])
        verify(transaction)
        assert (transaction.data_root, transaction.data_bytes) == (tree.root, size)
        data = pattern(size)
        for chunk, theirs in zip(tree.chunks, made["chunks"], strict=True):
            assert (str(chunk.offset), chunk.proof) == (theirs["offset"], from_base64url(theirs["data_path"]))
            check_chunk(tree.root, size, chunk.offset, chunk.proof, data[chunk.span.start : chunk.span.end])
