"""Ids, addresses and keys as text: base64url without padding, each value in one form. And what goes wrong with them."""

from __future__ import annotations

import base64
import hashlib
import re

from canister.errors import BadRequest

ID_BYTES = 32
_TEXT = re.compile(r"[A-Za-z0-9_-]*")


class Malformed(BadRequest):
    """Bytes or text that are not what they should be. The message says what is wrong, and leaves it to name where."""


class WrongSignature(BadRequest):
    """A signature that is not one of these bytes by this key, or of a kind that is not taken."""


def to_base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def from_base64url(text: str, what: str = "the value", n_bytes: int | None = None) -> bytes:
    """Raises Malformed for other letters, bits that are left over, or another length than n_bytes. what: for that."""
    if not _TEXT.fullmatch(text) or len(text) % 4 == 1:
        raise Malformed(f"{what} {text[:80]!r} is not base64url without padding")
    data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    if to_base64url(data) != text:
        raise Malformed(f"{what} {text[:80]!r} has bits that belong to no byte; it has another form")
    if n_bytes is not None and len(data) != n_bytes:
        raise Malformed(f"{what} {text[:80]!r} stands for {len(data)} bytes, not for {n_bytes}")
    return data


def is_id(text: str) -> bool:
    """Whether this is the id of an item, or the address of an Arweave wallet: 32 bytes, 43 characters."""
    try:
        from_base64url(text, n_bytes=ID_BYTES)
    except Malformed:
        return False
    return True


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()
