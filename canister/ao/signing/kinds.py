"""Kinds of signatures, by ANS-104's numbers: how long they are, whose they are, and how they are checked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from canister.ao.encoding import Malformed, WrongSignature, sha256, to_base64url
from canister.ao.signing import ethereum

MIN_MODULUS_BITS = 2048
MAX_MODULUS_BYTES = 1024
EXPONENT = 65537
ARWEAVE, ED25519, ETHEREUM = 1, 2, 3


@dataclass(frozen=True, slots=True)
class Kind:
    """check: owner, signature, message; whether it is signed. address: of an owner."""

    number: int
    name: str
    signature_bytes: int
    owner_bytes: int
    check: Callable[[bytes, bytes, bytes], bool]
    address: Callable[[bytes], str]


def kind_of(number: int) -> Kind:
    """Raises Malformed for numbers that stand for nothing here."""
    kind = KINDS.get(number)
    if kind is None:
        known = ", ".join(f"{kind.number} ({kind.name})" for kind in KINDS.values())
        raise Malformed(f"its signature type is {number}; the types here are {known}")
    return kind


def verify(kind: Kind, owner: bytes, signature: bytes, message: bytes) -> None:
    """Raises WrongSignature."""
    if not kind.check(owner, signature, message):
        raise WrongSignature(f"the signature does not verify: it is none of {kind.name} by the owner's key over this")


def is_rsa_signed(
    modulus: bytes, signature: bytes, message: bytes, algorithm: hashes.HashAlgorithm | None = None
) -> bool:
    """RSA-PSS with a salt of any length. algorithm: SHA-256, if it is not given."""
    number = int.from_bytes(modulus, "big")
    if number.bit_length() < MIN_MODULUS_BITS or len(modulus) > MAX_MODULUS_BYTES:
        return False
    algorithm = algorithm or hashes.SHA256()
    try:
        key = rsa.RSAPublicNumbers(EXPONENT, number).public_key()
        key.verify(signature, message, padding.PSS(padding.MGF1(algorithm), padding.PSS.AUTO), algorithm)
    except (InvalidSignature, ValueError):
        return False
    return True


def hashed_address(owner: bytes) -> str:
    """Arweave's: the owner's SHA-256 as base64url."""
    return to_base64url(sha256(owner))


def _is_ed25519_signed(owner: bytes, signature: bytes, message: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(owner).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


KINDS = {
    kind.number: kind
    for kind in (
        Kind(ARWEAVE, "Arweave's RSA-PSS", 512, 512, is_rsa_signed, hashed_address),
        Kind(ED25519, "ed25519", 64, 32, _is_ed25519_signed, hashed_address),
        Kind(ETHEREUM, "Ethereum", 65, 65, ethereum.is_signed, ethereum.address),
    )
}
