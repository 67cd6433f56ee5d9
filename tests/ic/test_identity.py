"""Identities: PEM forms, principal, and files that hold something else."""

from __future__ import annotations

import base64

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from canister.ic import principal as principals
from canister.ic.identity import Identity, IdentityError, KeyKind

# RFC 8410, section 10.3, and the public key that belongs to it (section 10.1).
RFC_8410_PEM = b"""-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC
-----END PRIVATE KEY-----
"""
RFC_8410_PUBLIC_KEY = base64.b64decode("MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=")


def test_a_known_key() -> None:
    identity = Identity.from_pem(RFC_8410_PEM)
    assert identity.public_key_der == RFC_8410_PUBLIC_KEY
    assert identity.principal == principals.to_text(principals.self_authenticating(RFC_8410_PUBLIC_KEY))
    assert identity.to_pem() == RFC_8410_PEM


def test_a_new_identity_survives_its_pem() -> None:
    identity = Identity.generate()
    again = Identity.from_pem(identity.to_pem())
    assert again == identity
    assert again.principal == identity.principal
    assert Identity.generate().principal != identity.principal


@pytest.mark.parametrize("kind", ["ed25519", "secp256k1", "prime256v1"])
def test_every_kind_survives_its_pem(kind: KeyKind) -> None:
    identity = Identity.generate(kind)
    assert Identity.from_pem(identity.to_pem()) == identity
    assert len(identity.sign(b"a message")) == 64


def test_keys_on_curves_are_written_as_dfx_reads_them() -> None:
    assert Identity.generate("secp256k1").to_pem().startswith(b"-----BEGIN EC PRIVATE KEY-----")


def test_a_file_of_dfx_begins_with_curve_parameters() -> None:
    identity = Identity.generate("secp256k1")
    parameters = b"-----BEGIN EC PARAMETERS-----\nBgUrgQQACg==\n-----END EC PARAMETERS-----\n"
    assert Identity.from_pem(parameters + identity.to_pem()) == identity


def test_a_key_on_a_curve_as_pkcs8() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    assert (
        Identity.from_pem(_pem(key)).public_key_der[-64:]
        == key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)[-64:]
    )


@pytest.mark.parametrize("tail", ["a123032100", "812100"])
def test_an_ed25519_key_with_its_public_key(tail: str) -> None:
    """RFC 5958, as ring writes it."""
    key = Ed25519PrivateKey.generate()
    public_key = key.public_key().public_bytes_raw()
    body = bytes.fromhex("020101300506032b657004220420") + key.private_bytes_raw() + bytes.fromhex(tail) + public_key
    der = base64.encodebytes(bytes([0x30, len(body)]) + body)
    pem = b"-----BEGIN PRIVATE KEY-----\n" + der + b"-----END PRIVATE KEY-----\n"
    assert Identity.from_pem(pem).public_key_der[-32:] == public_key


def test_signature() -> None:
    identity = Identity.generate()
    signature = identity.sign(b"a message")
    assert len(signature) == 64
    Ed25519PublicKey.from_public_bytes(identity.public_key_der[-32:]).verify(signature, b"a message")


def test_the_private_key_is_not_shown() -> None:
    identity = Identity.from_pem(RFC_8410_PEM)
    assert "private" not in repr(identity).lower()


def _pem(
    key: ec.EllipticCurvePrivateKey | Ed25519PrivateKey | X25519PrivateKey, password: bytes | None = None
) -> bytes:
    encryption = NoEncryption() if password is None else BestAvailableEncryption(password)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)


@pytest.mark.parametrize(
    ("pem", "message"),
    [
        (b"", "no private key in PEM form"),
        (b"\x00\xff" * 100, "no private key in PEM form"),
        (RFC_8410_PEM[:60], "no private key in PEM form"),
        (_pem(ec.generate_private_key(ec.SECP384R1())), "an Ed25519 key is wanted, .* not one on secp384r1"),
        (_pem(X25519PrivateKey.generate()), "an Ed25519 key is wanted, .* not X25519"),
        (_pem(Ed25519PrivateKey.generate(), b"secret"), "is encrypted"),
    ],
)
def test_what_is_no_identity(pem: bytes, message: str) -> None:
    with pytest.raises(IdentityError, match=message):
        Identity.from_pem(pem)
