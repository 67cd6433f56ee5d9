"""Public keys and signatures by them: each kind, and every way in which one may be wrong."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from canister.ic import keys
from canister.ic.identity import Identity, KeyKind

KINDS: tuple[KeyKind, ...] = ("ed25519", "secp256k1", "prime256v1")
IDENTITIES = {kind: Identity.generate(kind) for kind in KINDS}
SECP256K1_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141


@pytest.mark.parametrize("kind", KINDS)
def test_a_good_signature(kind: KeyKind) -> None:
    identity = IDENTITIES[kind]
    signature = identity.sign(b"message")
    assert len(signature) == keys.SIGNATURE_BYTES
    keys.verify(identity.public_key_der, signature, b"message")


@pytest.mark.parametrize("kind", KINDS)
def test_wrong_signatures(kind: KeyKind) -> None:
    identity = IDENTITIES[kind]
    signature = identity.sign(b"message")
    for wrong in (b"", signature[:-1], signature + b"\0", bytes(64), b"\xff" * 64, identity.sign(b"another")):
        with pytest.raises(keys.WrongSignature, match="signature could not be verified"):
            keys.verify(identity.public_key_der, wrong, b"message")
    with pytest.raises(keys.WrongSignature):
        keys.verify(Identity.generate(kind).public_key_der, signature, b"message")


def test_a_high_s_is_accepted() -> None:
    identity = IDENTITIES["secp256k1"]
    signature = identity.sign(b"message")
    s = int.from_bytes(signature[32:], "big")
    keys.verify(identity.public_key_der, signature[:32] + (SECP256K1_ORDER - s).to_bytes(32, "big"), b"message")


def _compressed(identity: Identity) -> bytes:
    point = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256K1(), identity.public_key_der[-65:])
    return point.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)


NOT_CANONICAL = {
    "nothing": b"",
    "a bare key": IDENTITIES["ed25519"].public_key_der[-32:],
    "something behind": IDENTITIES["ed25519"].public_key_der + b"\0",
    "a length in two bytes": b"\x30\x81" + IDENTITIES["ed25519"].public_key_der[1:],
    "a compressed point": bytes.fromhex("3036301006072a8648ce3d020106052b8104000a032200")
    + _compressed(IDENTITIES["secp256k1"]),
    "another curve": ec.generate_private_key(ec.SECP384R1())
    .public_key()
    .public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
    "RSA": rsa.generate_private_key(65537, 2048)
    .public_key()
    .public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
    "not a point": IDENTITIES["secp256k1"].public_key_der[:-32] + bytes(32),
}


@pytest.mark.parametrize("der", NOT_CANONICAL.values(), ids=NOT_CANONICAL)
def test_keys_that_are_refused(der: bytes) -> None:
    with pytest.raises(keys.SignatureError):
        keys.verify(der, bytes(64), b"message")


@given(st.sampled_from(KINDS), st.integers(0, 90), st.integers(0, 255))
def test_mutated_keys(kind: KeyKind, position: int, value: int) -> None:
    der = bytearray(IDENTITIES[kind].public_key_der)
    der[position % len(der)] = value
    if bytes(der) != IDENTITIES[kind].public_key_der:
        with pytest.raises(keys.SignatureError):
            keys.verify(bytes(der), IDENTITIES[kind].sign(b"message"), b"message")


@given(st.binary(max_size=150), st.binary(max_size=80))
def test_random_keys_and_signatures(der: bytes, signature: bytes) -> None:
    with pytest.raises(keys.SignatureError):
        keys.verify(der, signature, b"message")
