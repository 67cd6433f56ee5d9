"""Keys that sign: Arweave's RSA wallets in JWK files, Ethereum's, and ed25519."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Protocol

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from canister.ao.encoding import Malformed, from_base64url, to_base64url
from canister.ao.signing import ethereum, kinds

KEY_BITS = 4096
_SALT_BYTES = 32
_PRIVATE = ("d", "p", "q", "dp", "dq", "qi")


class Wallet(Protocol):
    """kind: ANS-104's number. owner: the public key as items have it."""

    @property
    def kind(self) -> int: ...

    @property
    def owner(self) -> bytes: ...

    @property
    def address(self) -> str: ...

    def sign(self, message: bytes) -> bytes:
        """Raises nothing; takes milliseconds."""
        ...


class ArweaveWallet:
    """An RSA key of 4096 bits."""

    kind = kinds.ARWEAVE

    def __init__(self, key: rsa.RSAPrivateKey) -> None:
        public = key.public_key().public_numbers()
        if key.key_size != KEY_BITS or public.e != kinds.EXPONENT:
            raise Malformed(f"the key has {key.key_size} bits; one of Arweave has {KEY_BITS}, and the exponent 65537")
        self._key = key
        self.owner = public.n.to_bytes(KEY_BITS // 8, "big")
        self.address = kinds.hashed_address(self.owner)

    @classmethod
    def generate(cls) -> ArweaveWallet:
        """Takes a second or so."""
        return cls(rsa.generate_private_key(kinds.EXPONENT, KEY_BITS))

    @classmethod
    def from_jwk(cls, text: str | bytes) -> ArweaveWallet:
        """A wallet's file. Raises Malformed, which never shows the key."""
        try:
            document = json.loads(text)
        except (ValueError, RecursionError):
            raise Malformed("the wallet is no JSON; a wallet of Arweave is a JWK file") from None
        if not isinstance(document, Mapping) or document.get("kty") != "RSA":
            raise Malformed("the wallet is no RSA key as a JWK, which wallets of Arweave are")
        found = {name: _number(document, name) for name in ("n", "e", *_PRIVATE)}
        public = rsa.RSAPublicNumbers(found["e"], found["n"])
        d, p, q, dp, dq, qi = (found[name] for name in _PRIVATE)
        try:
            return cls(rsa.RSAPrivateNumbers(p, q, d, dp, dq, qi, public).private_key())
        except ValueError:
            raise Malformed("the numbers of the wallet's key do not belong together: the file is damaged") from None

    def to_jwk(self) -> str:
        numbers = self._key.private_numbers()
        public = numbers.public_numbers
        values = (numbers.d, numbers.p, numbers.q, numbers.dmp1, numbers.dmq1, numbers.iqmp)
        named = {"e": public.e, "n": public.n, **dict(zip(_PRIVATE, values, strict=True))}
        return json.dumps({"kty": "RSA", **{name: to_base64url(_minimal(value)) for name, value in named.items()}})

    def sign(self, message: bytes) -> bytes:
        return self._sign(message, hashes.SHA256())

    def sign_http(self, message: bytes) -> bytes:
        """As HTTP messages are signed: with SHA-512."""
        return self._sign(message, hashes.SHA512())

    def _sign(self, message: bytes, algorithm: hashes.HashAlgorithm) -> bytes:
        return self._key.sign(message, padding.PSS(padding.MGF1(algorithm), _SALT_BYTES), algorithm)


class EthereumWallet:
    kind = kinds.ETHEREUM

    def __init__(self, key: ec.EllipticCurvePrivateKey) -> None:
        self._key = key
        self.owner = ethereum.public_bytes(key)
        self.address = ethereum.address(self.owner)

    @classmethod
    def generate(cls) -> EthereumWallet:
        return cls(ec.generate_private_key(ec.SECP256K1()))

    @classmethod
    def from_secret(cls, secret: bytes) -> EthereumWallet:
        """secret: the 32 bytes that Ethereum's wallets show as hex. Raises Malformed."""
        try:
            if len(secret) != 32:
                raise ValueError
            return cls(ec.derive_private_key(int.from_bytes(secret, "big"), ec.SECP256K1()))
        except ValueError:
            raise Malformed("the secret is no key of Ethereum: 32 bytes below the order of its curve") from None

    def sign(self, message: bytes) -> bytes:
        return ethereum.sign(self._key, message)


class Ed25519Wallet:
    kind = kinds.ED25519

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.owner = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        self.address = kinds.hashed_address(self.owner)

    @classmethod
    def generate(cls) -> Ed25519Wallet:
        return cls(Ed25519PrivateKey.generate())

    def sign(self, message: bytes) -> bytes:
        return self._key.sign(message)


def _number(document: Mapping[str, object], name: str) -> int:
    value = document.get(name)
    if not isinstance(value, str):
        raise Malformed(f"the wallet has no {name}; its file must have the private key")
    try:
        return int.from_bytes(from_base64url(value.rstrip("=")), "big")
    except Malformed:
        raise Malformed(f"the wallet's {name} is not base64url") from None


def _minimal(number: int) -> bytes:
    return number.to_bytes((number.bit_length() + 7) // 8, "big")
