"""Transactions of format 2: back as they were, and refused when anything was changed."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from canister.ao.arweave.chunks import tree_of
from canister.ao.arweave.transactions import (
    PostedChunk,
    Transaction,
    read_chunk,
    read_transaction,
    sign_transaction,
    verify,
)
from canister.ao.encoding import Malformed, WrongSignature, to_base64url
from canister.ao.signing.wallets import ArweaveWallet

DATA = b"data of a transaction"
TAGS = st.lists(st.tuples(st.binary(max_size=30), st.binary(max_size=30)), max_size=5)


@pytest.fixture(scope="module")
def signed(rsa_wallet: ArweaveWallet) -> Transaction:
    tags = [(b"Content-Type", b"text/plain")]
    tree = tree_of(DATA)
    return sign_transaction(
        rsa_wallet, data_root=tree.root, data_bytes=len(DATA), tags=tags, anchor=bytes(48), reward=12
    )


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=100), tags=TAGS, quantity=st.integers(0, 10**24))
def test_a_transaction_comes_back_as_it_was(
    rsa_wallet: ArweaveWallet, data: bytes, tags: list[tuple[bytes, bytes]], quantity: int
) -> None:
    root = tree_of(data).root if data else b""
    made = sign_transaction(
        rsa_wallet, data_root=root, data_bytes=len(data), tags=tags, target=bytes(32), quantity=quantity
    )
    back, told = read_transaction(made.to_json(data))
    assert (back, told) == (made, data)
    verify(back)
    assert back.address == rsa_wallet.address


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("reward", "13"),
        ("quantity", "1"),
        ("target", to_base64url(bytes(32))),
        ("last_tx", to_base64url(bytes(32))),
        ("tags", []),
        ("tags", [{"name": "QQ", "value": "QQ"}]),
    ],
)
def test_what_was_changed_does_not_verify(signed: Transaction, name: str, value: object) -> None:
    changed, _ = read_transaction({**signed.to_json(), name: value})
    with pytest.raises(WrongSignature):
        verify(changed)


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("format", 1, "format is '1'"),
        ("id", to_base64url(bytes(32)), "not the hash of its signature"),
        ("owner", "AQAB", "owner has 3 bytes"),
        ("signature", "A===", "not base64url"),
        ("data_size", "-1", "no whole number"),
        ("data_size", "01", "no whole number"),
        ("data_size", "9" * 31, "no whole number"),
        ("data_size", True, "no whole number"),
        ("data_size", "0", "the other way round"),
        ("data_root", "", "the other way round"),
        ("data", "AAAA", "not what data_root"),
        ("tags", {}, "no list"),
        ("tags", [1], "no JSON object"),
        ("tags", [{"name": "QQ"}], "no text value"),
        ("tags", [{"name": "QQ", "value": "QQ"}] * 129, "at most 128"),
        ("tags", [{"name": "QQ", "value": "Q" * 6000}], "base64url|bits|at most"),
        ("last_tx", "AAAA", "last_tx has 3 bytes, not 0 or 32 or 48"),
    ],
)
def test_damaged_transactions_are_told_what_is_wrong(signed: Transaction, name: str, value: object, told: str) -> None:
    document: dict[str, Any] = {**signed.to_json(DATA), name: value}
    with pytest.raises(Malformed, match=told):
        read_transaction(document)


@pytest.mark.parametrize("document", [None, [], "x", {}])
def test_what_is_no_transaction_is_told(document: object) -> None:
    with pytest.raises(Malformed):
        read_transaction(document)
    with pytest.raises(Malformed):
        read_chunk(document)


def test_a_posted_chunk_comes_back_as_it_was() -> None:
    chunk = PostedChunk(bytes(32), 500, 499, bytes(96), b"chunk")
    assert read_chunk(chunk.to_json()) == chunk
    for name, value in [("offset", "-1"), ("chunk", 5), ("data_root", "AAAA"), ("data_path", "A" * 9000)]:
        with pytest.raises(Malformed):
            read_chunk({**chunk.to_json(), name: value})
