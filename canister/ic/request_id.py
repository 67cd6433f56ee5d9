"""Representation-independent hashes: the same for a value however it was encoded. Pure functions, no I/O.

A request's id is the hash of its content; delegations and query responses are signed over theirs.
Source: IC interface specification, "Hash of a map".
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence


class HashError(ValueError):
    """A value that has no representation-independent hash."""


def hash_of(value: object) -> bytes:
    """32 bytes. Fields of a map that are None count as absent. HashError for booleans, negative numbers and others."""
    if isinstance(value, str):
        return _sha256(value.encode())
    if isinstance(value, bytes | bytearray | memoryview):
        return _sha256(value)
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return _sha256(leb128(value))
    if isinstance(value, Mapping):
        fields = (hash_of(name) + hash_of(item) for name, item in value.items() if item is not None)
        return _sha256(b"".join(sorted(fields)))
    if isinstance(value, Sequence):
        return _sha256(b"".join(hash_of(item) for item in value))
    raise HashError(f"{value!r:.40} cannot be part of a request")


def leb128(number: int) -> bytes:
    """A natural number as unsigned LEB128."""
    digits = bytearray()
    while number > 0x7F:
        digits.append(number & 0x7F | 0x80)
        number >>= 7
    digits.append(number)
    return bytes(digits)


def from_leb128(data: bytes) -> int:
    """The natural number in an unsigned LEB128 of at most 64 bits; HashError for anything else."""
    number = 0
    for index, digit in enumerate(data[:10]):
        number |= (digit & 0x7F) << 7 * index
        if digit < 0x80:
            if index + 1 == len(data) and number < 1 << 64:
                return number
            break
    raise HashError(f"{data[:16].hex()} is no LEB128 number of 64 bits")


def _sha256(data: bytes | bytearray | memoryview) -> bytes:
    return hashlib.sha256(data).digest()
