"""Identities: an Ed25519 key pair, its PEM form and its principal. Pure functions, no I/O: who stores them is above.

The PEM is unencrypted PKCS #8, as icp-cli and dfx export and import it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from canister.ic import principal


class IdentityError(ValueError):
    """Bytes that hold no identity that can be used here."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A key pair. public_key_der: canonical DER; the principal is the hash of exactly these bytes."""

    public_key_der: bytes
    _private_key: Ed25519PrivateKey = field(repr=False, compare=False)

    @classmethod
    def generate(cls) -> Identity:
        """A new identity, from the system's random source."""
        return cls._of(Ed25519PrivateKey.generate())

    @classmethod
    def from_pem(cls, pem: bytes) -> Identity:
        """The identity in a PKCS #8 PEM; IdentityError tells what is wrong, without quoting the key."""
        try:
            key = load_pem_private_key(pem, password=None)
        except TypeError:
            raise IdentityError("the PEM is encrypted: export it without a password") from None
        except (ValueError, UnsupportedAlgorithm):
            raise IdentityError("no private key in PEM form (PKCS #8, BEGIN PRIVATE KEY)") from None
        if not isinstance(key, Ed25519PrivateKey):
            raise IdentityError(f"an Ed25519 key is wanted, not {type(key).__name__.removesuffix('PrivateKey')}")
        return cls._of(key)

    @classmethod
    def _of(cls, key: Ed25519PrivateKey) -> Identity:
        return cls(key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo), key)

    @property
    def principal(self) -> str:
        """Text form of the self-authenticating principal."""
        return principal.to_text(principal.self_authenticating(self.public_key_der))

    def to_pem(self) -> bytes:
        """The private key as PKCS #8 PEM. Whoever reads it is this identity."""
        return self._private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def sign(self, message: bytes) -> bytes:
        """64 bytes."""
        return self._private_key.sign(message)
