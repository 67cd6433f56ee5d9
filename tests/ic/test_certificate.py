"""Hash trees and certificates: what is certified can be read and checked, and nothing else can."""

from __future__ import annotations

import functools
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from canister.ic import cbor, certificate, hash_tree, principal
from canister.ic.certificate import CertificateError, RootKey
from canister.ic.request_id import HashError, from_leb128, leb128

NOW_NS = time.time_ns()
CANISTER = principal.from_text(principal.canister_id(0))
OTHER = principal.from_text(principal.canister_id(7))
LABELS = st.binary(max_size=4)
CONTENTS = st.recursive(st.binary(max_size=8), lambda inner: st.dictionaries(LABELS, inner, max_size=6), max_leaves=20)

# IC interface specification, "Certification", example tree
EXAMPLE = (
    "8301830183024161830183018302417882034568656c6c6f810083024179820345776f726c6483024162820344676f6f648301830241638100"
    "83024164820347" + b"morning".hex()
)
EXAMPLE_DIGEST = "eb5c5b2195e62d996b84c9bcc8259d19a83786a2f59e0878cec84c811f669aa0"


@functools.cache
def root_key() -> RootKey:
    return RootKey.generate()


def certify(content: dict[bytes, Any], time_ns: int = NOW_NS, key: RootKey | None = None) -> bytes:
    return (key or root_key()).certify(content, time_ns)


def verify(data: bytes, key: RootKey | None = None) -> hash_tree.Tree:
    return certificate.verify(data, (key or root_key()).public_key_der, CANISTER, NOW_NS)


# -- trees


def test_the_example_of_the_specification() -> None:
    value = cbor.decode(bytes.fromhex(EXAMPLE))
    tree = hash_tree.from_value(value)
    assert hash_tree.digest(tree).hex() == EXAMPLE_DIGEST
    assert hash_tree.leaf(tree, b"a", b"y") == b"world"
    assert hash_tree.leaf(tree, b"d") == b"morning"
    assert hash_tree.leaf(tree, b"b", b"x") is None
    assert cbor.encode(hash_tree.to_value(tree)) == bytes.fromhex(EXAMPLE)


@given(CONTENTS)
def test_a_tree_says_what_it_was_built_from(content: Any) -> None:
    tree = hash_tree.build(content)

    def check(content: Any, path: tuple[bytes, ...]) -> None:
        if isinstance(content, bytes):
            assert hash_tree.leaf(tree, *path) == content
            return
        found = hash_tree.find(tree, path)
        assert found is not None
        assert [label for label, _ in hash_tree.children(found)] == sorted(content)
        for label, inner in content.items():
            check(inner, (*path, label))

    check(content, ())
    again = hash_tree.from_value(cbor.decode(cbor.encode(hash_tree.to_value(tree))))
    assert again == tree
    assert hash_tree.digest(again) == hash_tree.digest(tree)


@given(CONTENTS, CONTENTS)
def test_different_trees_have_different_hashes(one: Any, other: Any) -> None:
    same = hash_tree.digest(hash_tree.build(one)) == hash_tree.digest(hash_tree.build(other))
    assert same == (one == other)


def test_what_was_cut_off_keeps_the_hash() -> None:
    tree = hash_tree.build({b"a": b"1", b"b": b"2"})
    assert isinstance(tree, hash_tree.Fork)
    pruned = hash_tree.Fork(tree.left, hash_tree.Pruned(hash_tree.digest(tree.right)))
    assert hash_tree.digest(pruned) == hash_tree.digest(tree)
    assert hash_tree.leaf(pruned, b"a") == b"1"
    assert hash_tree.leaf(pruned, b"b") is None


@pytest.mark.parametrize("value", [None, [], [5], [0, 0], [1, [0]], [2, "a", [0]], [3, "text"], [4, b"short"], {}])
def test_what_is_no_tree(value: object) -> None:
    with pytest.raises(hash_tree.TreeError):
        hash_tree.from_value(value)


# -- certificates


def test_the_root_key() -> None:
    key = root_key()
    assert len(key.public_key_der) == 133
    assert RootKey.from_bytes(key.to_bytes()) == key
    assert key.subnet_id == principal.self_authenticating(key.public_key_der)
    assert "secret" not in repr(key)
    for wrong in (b"", bytes(32), b"\xff" * 32, key.to_bytes() + b"\0"):
        with pytest.raises(CertificateError):
            RootKey.from_bytes(wrong)


def test_a_certificate_has_no_tag_and_tells_the_time() -> None:
    data = certify({b"a": b"1"})
    assert data[0] >> 5 == 5  # a map: some clients take no tag
    tree = verify(data)
    assert hash_tree.leaf(tree, b"a") == b"1"
    assert from_leb128(hash_tree.leaf(tree, b"time") or b"") == NOW_NS


def test_another_root_key() -> None:
    with pytest.raises(CertificateError, match="does not belong"):
        verify(certify({}, key=RootKey.generate()))


@pytest.mark.parametrize("seconds", [-301, 301])
def test_old_and_early_certificates(seconds: int) -> None:
    with pytest.raises(CertificateError, match="clock"):
        verify(certify({}, NOW_NS + seconds * 10**9))


def test_a_key_at_infinity() -> None:
    infinity = certificate.DER_HEADER + b"\xc0" + bytes(95)
    data = cbor.encode({"tree": hash_tree.to_value(hash_tree.build({})), "signature": b"\xc0" + bytes(47)})
    with pytest.raises(CertificateError, match="infinity"):
        certificate.verify(data, infinity, CANISTER, NOW_NS)


def delegated(ranges: dict[bytes, Any], key: RootKey, nested: bool = False) -> bytes:
    above = certify({b"subnet": {key.subnet_id: {b"public_key": key.public_key_der, **ranges}}})
    document: Any = cbor.decode(key.certify({b"a": b"1"}, NOW_NS))
    document["delegation"] = {"subnet_id": key.subnet_id, "certificate": above}
    if nested:
        inner: Any = cbor.decode(above)
        inner["delegation"] = document["delegation"]
        document["delegation"] = {"subnet_id": key.subnet_id, "certificate": cbor.encode(inner)}
    return cbor.encode(document)


def test_a_subnet_that_the_root_delegates_to() -> None:
    key = RootKey.generate()
    ours = {b"canister_ranges": certificate.ranges_of([CANISTER])}
    assert hash_tree.leaf(verify(delegated(ours, key)), b"a") == b"1"
    with pytest.raises(CertificateError, match="does not hold"):
        verify(delegated({b"canister_ranges": certificate.ranges_of([OTHER])}, key))
    with pytest.raises(CertificateError, match="does not hold"):
        verify(delegated({}, key))
    with pytest.raises(CertificateError, match="once more"):
        verify(delegated(ours, key, nested=True))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_no_changed_byte_goes_unnoticed(data: st.DataObject) -> None:
    good = certify({b"request_status": {bytes(32): {b"status": b"replied", b"reply": b"DIDL\0\0"}}})
    position = data.draw(st.integers(0, len(good) - 1))
    changed = bytearray(good)
    changed[position] ^= data.draw(st.integers(1, 255))
    with pytest.raises(CertificateError):
        verify(bytes(changed))


@given(st.binary(max_size=300))
def test_random_bytes(data: bytes) -> None:
    with pytest.raises(CertificateError):
        verify(data)


# -- LEB128


@given(st.integers(0, (1 << 64) - 1))
def test_leb128_there_and_back(number: int) -> None:
    assert from_leb128(leb128(number)) == number


@pytest.mark.parametrize("data", [b"", b"\x80", b"\0\0", b"\xff" * 9 + b"\x7f", b"\x80" * 100_000])
def test_what_is_no_leb128(data: bytes) -> None:
    with pytest.raises(HashError):
        from_leb128(data)
