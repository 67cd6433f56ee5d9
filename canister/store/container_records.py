"""The records of a prompt cache's container: tokens and how they were decoded. `container.py` has the format."""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Tokens = NDArray[np.int32]
Flags = NDArray[np.bool_]
Reader = Callable[[int, int], bytes]
"""(offset, size) → that many bytes of the container, or fewer where it ends; may raise StoreDamaged."""

KV_CHECK = struct.Struct("<I")
N_CHECK = 8
READ_AHEAD = 4096  # bytes; so that a record's head and, mostly, its tokens come in one read
_RECORD_MAGIC = b"rec\n"
_CUT_MAGIC = b"cut\n"
_RECORD = struct.Struct("<4sIIQ")


@dataclass(frozen=True, slots=True)
class CacheRecord:
    """A record. The conversation has the first n_live of its `count` tokens; the next record begins behind them.

    has_cut: the cut is written down, and what was drawn twice.
    """

    first: int  # its `keep` too
    count: int
    n_live: int
    offset: int  # of the record in the container
    has_cut: bool
    kv_bytes: int
    check: bytes  # of the record without its KV rows

    @property
    def kv_offset(self) -> int:
        return self.offset + token_part_bytes(self.count, self.has_cut)

    @property
    def n_bytes(self) -> int:
        return token_part_bytes(self.count, self.has_cut) + self.kv_bytes + KV_CHECK.size


@dataclass(frozen=True, slots=True)
class Part:
    """Tokens of a record, and what is marked of them.

    generated: which were generated. starts: with which prompt tokens a decode began. redrawn: which of the generated
    ones were drawn twice.
    """

    tokens: Tokens
    generated: Flags
    starts: Flags
    redrawn: Flags


def usual_starts(generated: Flags) -> Flags:
    """The cut of a record that has none written down: one decode for prompt tokens that follow each other."""
    starts: Flags = ~generated
    starts[1:] &= generated[:-1]
    return starts


def encode_record(keep: int, part: Part, has_cut: bool, kv: bytes, previous: bytes) -> tuple[bytes, bytes]:
    """A record's bytes and its checksum; `previous` is the checksum before it."""
    n = len(part.tokens)
    if not n == len(part.generated) == len(part.starts) == len(part.redrawn):
        raise ValueError(f"{n} tokens, but {len(part.generated)}, {len(part.starts)} and {len(part.redrawn)} marks")
    head = b"".join(
        (
            _RECORD.pack(_CUT_MAGIC if has_cut else _RECORD_MAGIC, keep, n, len(kv)),
            part.tokens.astype("<i4", copy=False).tobytes(),
            np.packbits(part.generated, bitorder="little").tobytes(),
            np.packbits(part.starts | part.redrawn, bitorder="little").tobytes() if has_cut else b"",
        )
    )
    check = strong_check(previous, head)
    return b"".join((head, check, kv, kv_check(kv, check))), check


def parse_record(
    read: Reader, offset: int, size: int, n_before: int, previous: bytes
) -> tuple[CacheRecord, Part] | None:
    """The record at `offset`, without its KV rows; None when its token part is damaged or cut off."""
    data = read(offset, min(size - offset, READ_AHEAD))
    if len(data) < _RECORD.size:
        return None
    magic, keep, count, kv_bytes = _RECORD.unpack_from(data)
    has_cut = magic == _CUT_MAGIC
    n_bytes = token_part_bytes(count, has_cut)
    if not (has_cut or magic == _RECORD_MAGIC) or keep > n_before or offset + n_bytes > size:
        return None
    if n_bytes > len(data):
        data = read(offset, n_bytes)
    data = data[:n_bytes]
    check = data[-N_CHECK:]
    if len(data) < n_bytes or check != strong_check(previous, data[:-N_CHECK]):
        return None
    return CacheRecord(keep, count, count, offset, has_cut, kv_bytes, check), decode_part(data, count, has_cut)


def decode_part(data: bytes, count: int, has_cut: bool) -> Part:
    """The tokens and marks in the token part of a record."""
    tokens = np.frombuffer(data[_RECORD.size :][: 4 * count], "<i4").astype(np.int32)
    marks = data[_RECORD.size + 4 * count : -N_CHECK]
    n = _mark_bytes(count)
    generated = _flags(marks[:n], count)
    if not has_cut:
        return Part(tokens, generated, usual_starts(generated), np.zeros(len(tokens), np.bool_))
    cut = _flags(marks[n:], count)
    return Part(tokens, generated, cut & ~generated, cut & generated)


def _flags(data: bytes, count: int) -> Flags:
    return np.unpackbits(np.frombuffer(data, np.uint8), count=count, bitorder="little").astype(np.bool_)


def _mark_bytes(count: int) -> int:
    return (count + 7) // 8


def token_part_bytes(count: int, has_cut: bool) -> int:
    return _RECORD.size + 4 * count + _mark_bytes(count) * (1 + has_cut) + N_CHECK


def strong_check(previous: bytes, data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=N_CHECK, key=previous).digest()


def kv_check(kv: bytes | memoryview, check: bytes) -> bytes:
    return KV_CHECK.pack(zlib.crc32(kv, zlib.crc32(check)))
