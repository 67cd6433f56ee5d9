"""Identities: a key pair, its PEM form and its principal. Pure functions, no I/O; callers store them.

Kinds of keys and forms are those of icp-cli and dfx: PKCS #8 for Ed25519, SEC 1 for keys on curves. All are read, also
with the public key inside (RFC 5958) and with a block of curve parameters in front. They are never encrypted.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass, field
from typing import Literal

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from canister.ic import principal

KeyKind = Literal["ed25519", "secp256k1", "prime256v1"]

PrivateKey = Ed25519PrivateKey | ec.EllipticCurvePrivateKey

_CURVES: dict[str, ec.EllipticCurve] = {"secp256k1": ec.SECP256K1(), "prime256v1": ec.SECP256R1()}
_CURVE_NAMES = frozenset(curve.name for curve in _CURVES.values())

# An Ed25519 key with its public key behind it, as ring and so dfx writes it; cryptography knows it without only.
_PKCS8_BLOCK = re.compile(rb"-----BEGIN PRIVATE KEY-----([A-Za-z0-9+/=\s]+)-----END PRIVATE KEY-----")
_ED25519_WITH_PUBLIC_KEY = re.compile(
    rb"\x30.\x02\x01\x01\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20(.{32})(?:\xa1\x23\x03\x21\x00|\x81\x21\x00).{32}",
    re.DOTALL,
)


class IdentityError(ValueError):
    """Bytes that hold no usable identity."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A key pair. public_key_der: canonical DER; the principal is the hash of exactly these bytes."""

    public_key_der: bytes
    _private_key: PrivateKey = field(repr=False, compare=False)

    @classmethod
    def generate(cls, kind: KeyKind = "ed25519") -> Identity:
        """A new identity, from the system's random source."""
        if kind == "ed25519":
            return cls._of(Ed25519PrivateKey.generate())
        return cls._of(ec.generate_private_key(_CURVES[kind]))

    @classmethod
    def from_pem(cls, pem: bytes) -> Identity:
        """The identity in a PEM; IdentityError tells what is wrong, without quoting the key."""
        try:
            key = _ed25519_with_public_key(pem) or load_pem_private_key(pem, password=None)
        except TypeError:
            raise IdentityError("the PEM is encrypted: export it without a password") from None
        except (ValueError, UnsupportedAlgorithm):
            raise IdentityError("no private key in PEM form (BEGIN PRIVATE KEY or BEGIN EC PRIVATE KEY)") from None
        if isinstance(key, Ed25519PrivateKey):
            return cls._of(key)
        if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name in _CURVE_NAMES:
            return cls._of(key)
        raise IdentityError(f"an Ed25519 key is wanted, or one on secp256k1 or P-256, not {_kind_of(key)}")

    @classmethod
    def _of(cls, key: PrivateKey) -> Identity:
        return cls(key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo), key)

    @property
    def principal(self) -> str:
        """Text form of the self-authenticating principal."""
        return principal.to_text(principal.self_authenticating(self.public_key_der))

    def to_pem(self) -> bytes:
        """The private key as PEM. Whoever reads it is this identity."""
        is_ed25519 = isinstance(self._private_key, Ed25519PrivateKey)
        form = PrivateFormat.PKCS8 if is_ed25519 else PrivateFormat.TraditionalOpenSSL
        return self._private_key.private_bytes(Encoding.PEM, form, NoEncryption())

    def sign(self, message: bytes) -> bytes:
        """64 bytes; of keys on curves, r and s of an ECDSA signature over the message's SHA-256."""
        if isinstance(self._private_key, Ed25519PrivateKey):
            return self._private_key.sign(message)
        r, s = decode_dss_signature(self._private_key.sign(message, ec.ECDSA(hashes.SHA256())))
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def _ed25519_with_public_key(pem: bytes) -> Ed25519PrivateKey | None:
    block = _PKCS8_BLOCK.search(pem)
    if block is None:
        return None
    try:
        match = _ED25519_WITH_PUBLIC_KEY.fullmatch(base64.b64decode(b"".join(block[1].split()), validate=True))
    except binascii.Error:
        return None
    return None if match is None else Ed25519PrivateKey.from_private_bytes(match[1])


def _kind_of(key: object) -> str:
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return f"one on {key.curve.name}"
    return type(key).__name__.removesuffix("PrivateKey")
