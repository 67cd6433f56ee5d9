"""Signatures and addresses of Ethereum's wallets: secp256k1 over Keccak, with the prefix of signed texts (EIP-191).

A signature has one form here: the smaller s, and a last byte that tells which of two keys signed. Otherwise anyone
could turn an item into another one with the same contents and another id.
"""

from __future__ import annotations

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import (
    Prehashed,
    decode_dss_signature,
    encode_dss_signature,
)

from canister.ao.signing.keccak import keccak256

PUBLIC_BYTES = 65
SIGNATURE_BYTES = 65
_UNCOMPRESSED = 4
_FIRST_PARITY = 27  # of Ethereum's last byte
_P = 2**256 - 2**32 - 977
_N = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
_G = (
    0x79BE667EF9DCBBAC55A06295CE870B07029BFCDB2DCE28D959F2815B16F81798,
    0x483ADA7726A3C4655DA4FBFC0E1108A8FD17B448A68554199C47D08FFB10D4B8,
)
_PREHASHED = ec.ECDSA(Prehashed(hashes.SHA256()))  # 32 bytes, whatever made them
_Point = tuple[int, int, int]  # Jacobian


def address(public: bytes) -> str:
    """With the checksum of EIP-55 in its letters' case. public: 65 bytes, uncompressed."""
    plain = keccak256(public[1:])[12:].hex()
    marks = keccak256(plain.encode()).hex()
    return "0x" + "".join(c.upper() if int(mark, 16) >= 8 else c for c, mark in zip(plain, marks, strict=False))


def is_signed(public: bytes, signature: bytes, message: bytes) -> bool:
    """Whether the signature is the one of this text by this key."""
    if len(public) != PUBLIC_BYTES or public[0] != _UNCOMPRESSED or len(signature) != SIGNATURE_BYTES:
        return False
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:64], "big")
    if not 0 < r < _N or not 0 < s <= _N // 2 or signature[64] not in (_FIRST_PARITY, _FIRST_PARITY + 1):
        return False
    digest = _digest(message)
    try:
        key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256K1(), public)
        key.verify(encode_dss_signature(r, s), digest, _PREHASHED)
    except (InvalidSignature, ValueError):
        return False
    return signature[64] == _FIRST_PARITY + _parity(public, r, s, digest)


def sign(key: ec.EllipticCurvePrivateKey, message: bytes) -> bytes:
    digest = _digest(message)
    r, s = decode_dss_signature(key.sign(digest, _PREHASHED))
    s = min(s, _N - s)
    last = _FIRST_PARITY + _parity(public_bytes(key), r, s, digest)
    return r.to_bytes(32, "big") + s.to_bytes(32, "big") + bytes([last])


def public_bytes(key: ec.EllipticCurvePrivateKey) -> bytes:
    numbers = key.public_key().public_numbers()
    return bytes([_UNCOMPRESSED]) + numbers.x.to_bytes(32, "big") + numbers.y.to_bytes(32, "big")


def _digest(message: bytes) -> bytes:
    return keccak256(b"\x19Ethereum Signed Message:\n%d" % len(message) + message)


def _parity(public: bytes, r: int, s: int, digest: bytes) -> int:
    """Of the point whose x is r: whether its y is odd. Of a sound signature; nothing here is secret."""
    inverse = pow(s, -1, _N)
    own = (int.from_bytes(public[1:33], "big"), int.from_bytes(public[33:], "big"))
    at_base = _times(int.from_bytes(digest, "big") * inverse % _N, _G)
    _, y, z = _sum(at_base, _times(r * inverse % _N, own))
    return y * pow(z, -3, _P) % _P & 1


def _times(factor: int, point: tuple[int, int]) -> _Point:
    found: _Point = (1, 1, 0)
    for bit in bin(factor)[2:]:
        found = _double(found)
        if bit == "1":
            found = _sum(found, (*point, 1))
    return found


def _double(point: _Point) -> _Point:
    x, y, z = point
    square = y * y % _P
    s = 4 * x * square % _P
    m = 3 * x * x % _P
    new_x = (m * m - 2 * s) % _P
    return new_x, (m * (s - new_x) - 8 * square * square) % _P, 2 * y * z % _P


def _sum(a: _Point, b: _Point) -> _Point:
    if not a[2] or not b[2]:
        return a if a[2] else b
    za, zb = a[2] * a[2] % _P, b[2] * b[2] % _P
    xa, xb = a[0] * zb % _P, b[0] * za % _P
    ya, yb = a[1] * zb * b[2] % _P, b[1] * za * a[2] % _P
    if xa == xb:
        return _double(a) if ya == yb else (1, 1, 0)
    h, d = xb - xa, yb - ya
    square, cube = h * h % _P, h * h * h % _P
    x = (d * d - cube - 2 * xa * square) % _P
    return x, (d * (xa * square - x) - ya * cube) % _P, h * a[2] * b[2] % _P
