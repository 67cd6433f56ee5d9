"""Principals: who a caller or a canister is, as bytes and as text. No imports of the package, no I/O.

Text form: base32 of CRC32 ‖ bytes, lower case, in groups of five. Source: IC interface specification, "Principals".
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import zlib

MAX_BYTES = 29
ANONYMOUS_BYTES = b"\x04"
ANONYMOUS = "2vxsx-fae"
MANAGEMENT = "aaaaa-aa"  # zero bytes

_SELF_AUTHENTICATING = b"\x02"


class PrincipalError(ValueError):
    """A text or byte string that is no principal."""


def to_text(principal: bytes) -> str:
    """Text form of 0 to 29 bytes."""
    if len(principal) > MAX_BYTES:
        raise PrincipalError(f"a principal has at most {MAX_BYTES} bytes, this one has {len(principal)}")
    digits = base64.b32encode(zlib.crc32(principal).to_bytes(4, "big") + principal)
    letters = digits.decode("ascii").lower().rstrip("=")
    return "-".join(letters[i : i + 5] for i in range(0, len(letters), 5))


def from_text(text: str) -> bytes:
    """Bytes of a text form; PrincipalError unless it is exactly what `to_text` writes."""
    letters = text.replace("-", "").upper()
    # 29 + 4 bytes are 53 letters: longer input is refused before any work is done on it.
    if len(letters) > 53:
        raise PrincipalError(f"{text[:80]!r} is too long for a principal")
    try:
        data = base64.b32decode(letters + "=" * (-len(letters) % 8))
    except (binascii.Error, ValueError):
        raise PrincipalError(f"{text!r} is not a principal: letters a-z, digits 2-7 and dashes") from None
    if len(data) < 4 or len(data) > MAX_BYTES + 4 or to_text(data[4:]) != text:
        raise PrincipalError(f"{text!r} is not a principal: its checksum or form is wrong")
    return data[4:]


def self_authenticating(public_key_der: bytes) -> bytes:
    """The principal of a public key: SHA-224 of its DER form ‖ 0x02."""
    return hashlib.sha224(public_key_der).digest() + _SELF_AUTHENTICATING


def canister_id(index: int) -> str:
    """The id of the index-th canister of a server, in the range that local replicas use."""
    return to_text((0x8000000000100001 + index).to_bytes(8, "big") + b"\x01\x01")
