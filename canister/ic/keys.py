"""Public keys in DER form, and signatures by them: Ed25519, and ECDSA on secp256k1 and P-256. Pure functions, no I/O.

A principal is the hash of a key's DER bytes, so every key must have exactly one form. A key is therefore compared with
the known header of its kind instead of being parsed. Source: IC interface specification, "Signatures".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

SIGNATURE_BYTES = 64  # of all three kinds

Verify = Callable[[bytes, bytes], None]  # signature, message; raises InvalidSignature or ValueError


class SignatureError(ValueError):
    """Bytes that are no public key of a known kind, or a signature that is not one by it."""


class InvalidKey(SignatureError):
    pass


class WrongSignature(SignatureError):
    pass


@dataclass(frozen=True, slots=True)
class _Kind:
    """header: the DER before the raw key. name: as the IC names the algorithm."""

    name: str
    header: bytes
    n_key_bytes: int
    load: Callable[[bytes], Verify]


def verify(public_key_der: bytes, signature: bytes, message: bytes) -> None:
    """Check that `signature` is one of `message` by this key. Raises InvalidKey, WrongSignature."""
    kind = _kind_of(public_key_der)
    try:
        check = kind.load(public_key_der[len(kind.header) :])
    except ValueError:
        raise InvalidKey(f"Malformed {kind.name} public key: {public_key_der.hex()}, error: not a point") from None
    try:
        if len(signature) != SIGNATURE_BYTES:
            raise ValueError(f"it has {len(signature)} bytes, not {SIGNATURE_BYTES}")
        check(signature, message)
    except (InvalidSignature, ValueError) as error:
        raise WrongSignature(
            f"{kind.name} signature could not be verified: public key {public_key_der.hex()}, "
            f"signature {signature[:SIGNATURE_BYTES].hex()}, error: {error or 'verification failed'}"
        ) from None


def _kind_of(public_key_der: bytes) -> _Kind:
    for kind in _KINDS:
        if len(public_key_der) == len(kind.header) + kind.n_key_bytes and public_key_der.startswith(kind.header):
            return kind
    raise InvalidKey(
        f"Malformed public key: {public_key_der[:128].hex()}, error: neither an Ed25519 key nor one on secp256k1 or "
        "P-256 in canonical DER"
    )


def _ed25519(raw: bytes) -> Verify:
    return Ed25519PublicKey.from_public_bytes(raw).verify


def _ecdsa(curve: ec.EllipticCurve) -> Callable[[bytes], Verify]:
    def load(raw: bytes) -> Verify:
        key = ec.EllipticCurvePublicKey.from_encoded_point(curve, b"\x04" + raw)

        def check(signature: bytes, message: bytes) -> None:
            r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
            key.verify(encode_dss_signature(r, s), message, ec.ECDSA(hashes.SHA256()))

        return check

    return load


# The headers of EC keys end with the 04 of an uncompressed point.
_KINDS = (
    _Kind("Ed25519", bytes.fromhex("302a300506032b6570032100"), 32, _ed25519),
    _Kind(
        "EcdsaSecp256k1",
        bytes.fromhex("3056301006072a8648ce3d020106052b8104000a03420004"),
        64,
        _ecdsa(ec.SECP256K1()),
    ),
    _Kind(
        "EcdsaP256",
        bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d03010703420004"),
        64,
        _ecdsa(ec.SECP256R1()),
    ),
)
