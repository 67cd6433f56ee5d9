"""The container of one prompt cache: the tokens of a conversation, and the KV rows that they left in the model.

Append-only. A header, then records; each record rolls the conversation back to `keep` tokens and goes on from there,
so that the newest record tells the state and an older one is never overwritten. All numbers are little-endian.

    header                                            record
       0  8  magic, "lccache\\n"                           0  4  magic, "rec\\n"
       8  4  u32 version, 1                               4  4  u32 keep: earlier tokens that stay
      12  4  u32 l, bytes of the KV layout                8  4  u32 n, tokens of this record
      16 32  SHA-256 of the model file                   12  8  u64 k, bytes of KV rows
      48  8  u64 seed of the chat                        20 4n  i32 tokens
      56  l  KV layout, opaque                          ...  g  generated: bit i % 8 of byte i // 8 is token i's, the
    56+l  8  checksum of all before                             rest 0; g = (n + 7) // 8
                                                         ...  c  cut, in the same way: bit i tells that a decode
                                                                 of prompt tokens began with token i; c = g, or 0
                                                         ...  8  checksum of the record so far
                                                         ...  k  KV rows of the n tokens, opaque, perhaps none
                                                         ...  4  u32 checksum of the KV rows

A record has a cut, and then the magic "cut\n", where it is another than this: one decode for prompt tokens that follow
each other. Generated tokens are decoded one by one, and have no bits there.

The tokens are the truth, so their checksum is strong and small: BLAKE2b of 8 bytes, and it covers the checksum before
it too, so that a record counts only in its place in its own file. The KV rows are large, and can always be computed
again: CRC-32, at four times the speed, begun with the record's checksum. It finds every burst of up to 32 bits.

Damaged KV rows leave their tokens alone; a damaged token part ends the conversation before it. Whatever the bytes,
parsing does work bounded by their number, returns states that were once written, and raises CacheDamaged at most.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from canister.errors import StoreDamaged

Tokens = NDArray[np.int32]
Flags = NDArray[np.bool_]
Reader = Callable[[int, int], bytes]
"""(offset, size) → that many bytes of the container, or fewer where it ends; may raise StoreDamaged."""
BlockReader = Callable[[int, int], memoryview]
"""The same, in memory that stays as it is while the answer is referred to."""

VERSION = 1
MAX_LAYOUT_BYTES = 1 << 16
_MAGIC = b"lccache\n"
_RECORD_MAGIC = b"rec\n"
_CUT_MAGIC = b"cut\n"
_HEADER = struct.Struct("<8sII32sQ")
_RECORD = struct.Struct("<4sIIQ")
_KV_CHECK = struct.Struct("<I")
_N_CHECK = 8
_BLOCK_BYTES = 4 << 20  # of KV rows that are read at once
_READ_AHEAD = 4096  # bytes; so that a record's head and, mostly, its tokens come in one read


class CacheDamaged(StoreDamaged):
    """The container cannot be used, or not be trusted; the conversation starts cold."""


@dataclass(frozen=True, slots=True)
class CacheHeader:
    """What the cache was made with. It fits a model only if model_sha256 and kv_layout are that model's."""

    model_sha256: bytes
    seed: int
    kv_layout: bytes


@dataclass(frozen=True, slots=True)
class Segment:
    """KV rows of `count` tokens from position `first` on, of which the first `n_live` still belong to the conversation.

    Rolled back into the middle of a record, its rows stay whole, for nobody here knows where one ends.
    """

    first: int
    count: int
    n_live: int
    kv: bytes | memoryview


@dataclass(frozen=True, slots=True)
class _Live:
    """A record of which the conversation still has the first n_live of `count` tokens; the next one begins behind.

    has_cut: the cut is written down.
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
        return self.offset + _token_part_bytes(self.count, self.has_cut)

    @property
    def n_bytes(self) -> int:
        return _token_part_bytes(self.count, self.has_cut) + self.kv_bytes + _KV_CHECK.size


@dataclass(frozen=True, slots=True)
class CacheFile:
    """The conversation that a container holds, without its KV rows; immutable, `extended` makes the next one.

    tokens, generated: of the whole conversation; generated tells which were sampled rather than prompt.
    starts: with which prompt tokens a decode began.
    size: bytes up to the first damage. is_whole: nothing follows them; else the file is to be written anew before
    anything can be appended, best with `compacted`.
    """

    header: CacheHeader
    tokens: Tokens
    generated: Flags
    starts: Flags
    n_records: int
    size: int
    is_whole: bool
    _live: tuple[_Live, ...]
    _live_bytes: int  # of those records; not summed up again for each call of a long chat
    _check: bytes
    _read: Reader

    @classmethod
    def create(cls, header: CacheHeader, read: Reader) -> tuple[CacheFile, bytes]:
        """An empty conversation, and the bytes of its container. `read` will read them once they are written."""
        data = encode_header(header)
        none = np.zeros(0, np.bool_)
        return cls(header, np.zeros(0, np.int32), none, none, 0, len(data), True, (), 0, data[-_N_CHECK:], read), data

    @classmethod
    def parse(cls, source: bytes | Reader, size: int | None = None) -> CacheFile:
        """Read a container up to the first damage; of the KV rows nothing is read. Raises CacheDamaged (the header).

        size: bytes of the container; needed with a reader, which is kept for `segments` and `compacted`.
        """
        read = source if callable(source) else _reader_of(bytes(source))
        if size is None:
            if callable(source):
                raise TypeError("a reader needs the size of what it reads")
            size = len(source)
        header, offset, check = _parse_header(read, size)
        state = _State()
        n_records = 0
        while offset < size:
            record = _parse_record(read, offset, size, state.n_tokens, check)
            if record is None:
                break
            live, part = record
            state.apply(live, part)
            n_records += 1
            check = live.check
            if offset + live.n_bytes > size:  # the KV rows are cut off
                break
            offset += live.n_bytes
        live_records = tuple(state.live)
        n_live = sum(record.n_bytes for record in live_records)
        is_whole = offset == size
        return cls(header, *state.conversation(), n_records, offset, is_whole, live_records, n_live, check, read)

    def extended(
        self, keep: int, tokens: ArrayLike, generated: ArrayLike, kv: bytes = b"", starts: ArrayLike | None = None
    ) -> tuple[CacheFile, bytes]:
        """Roll back to `keep` tokens and go on with `tokens`: the new conversation, and the bytes to append.

        kv: the rows of exactly these tokens, or none. starts: with which of the prompt tokens a decode began; None:
        with each that does not follow another one here.
        """
        if not self.is_whole:
            raise ValueError("a damaged container cannot be extended; write it anew with compacted()")
        if not 0 <= keep <= len(self.tokens):
            raise ValueError(f"keep is {keep}, but there are {len(self.tokens)} tokens")
        added = np.asarray(tokens, np.int32).reshape(-1)
        flags = np.asarray(generated, np.bool_).reshape(-1)
        usual = _usual_starts(flags)
        begun = usual if starts is None else np.asarray(starts, np.bool_).reshape(-1) & ~flags
        has_cut = not np.array_equal(begun, usual)
        data, check = _encode_record(keep, _Part(added, flags, begun), has_cut, kv, self._check)
        live = list(self._live)
        n_live = self._live_bytes - _roll_back(live, keep)
        if len(added):
            live.append(_Live(keep, len(added), len(added), self.size, has_cut, len(kv), check))
            n_live += live[-1].n_bytes
        extended = replace(
            self,
            tokens=np.concatenate((self.tokens[:keep], added)),
            generated=np.concatenate((self.generated[:keep], flags)),
            starts=np.concatenate((self.starts[:keep], begun)),
            n_records=self.n_records + 1,
            size=self.size + len(data),
            _live=tuple(live),
            _live_bytes=n_live,
            _check=check,
        )
        return extended, data

    def n_with_rows(self, n_tokens: int) -> int:
        """Of how many of the first n_tokens tokens KV rows were written, without gaps from 0 on; sound or not."""
        n = 0
        for live in self._live:
            if live.first >= n_tokens or not live.kv_bytes:
                break
            n = min(live.first + live.n_live, n_tokens)
        return n

    def segments(self, n_tokens: int, read_block: Reader | BlockReader | None = None) -> list[Segment]:
        """Sound KV rows of the first n_tokens tokens, without gaps from 0 on; ends before the first damage.

        read_block: reads in place of the container's own reader, into memory of the caller's choice.
        """
        found: list[Segment] = []
        read = _in_blocks(read_block or self._read)
        for live in self._live:
            if live.first >= n_tokens or not live.kv_bytes:
                break
            kv = _kv_of(live, read)
            if not kv:
                break
            found.append(Segment(live.first, live.count, min(live.n_live, n_tokens - live.first), kv))
        return found

    @property
    def n_damaged(self) -> int:
        """Records that have KV rows which cannot be used. Reads them all."""
        return sum(1 for live in self._live if live.kv_bytes and not _kv_of(live, self._read))

    @property
    def waste_bytes(self) -> int:
        """Bytes of records that the conversation has nothing of any more."""
        return self.size - _header_bytes(self.header) - self._live_bytes

    @property
    def wants_compaction(self) -> bool:
        """Is more than half of it waste, or its end damaged?"""
        return not self.is_whole or 2 * self.waste_bytes > self.size

    def compacted(self) -> tuple[CacheFile, bytes]:
        """The same conversation in as few bytes: only records that still count, without damaged KV rows."""
        cache, data = CacheFile.create(self.header, self._read)
        parts = [data]
        for live in self._live:
            part = self._part_of(live)
            kv = bytes(_kv_of(live, self._read))
            cache, data = cache.extended(live.first, part.tokens, part.generated, kv, part.starts)
            parts.append(data)
        if len(cache.tokens) > len(self.tokens):
            cache, data = cache.extended(len(self.tokens), (), ())
            parts.append(data)
        return cache, b"".join(parts)

    def _part_of(self, live: _Live) -> _Part:
        """All tokens of a record: those that the conversation has, and for KV rows that cannot be cut, the others."""
        at = slice(live.first, live.first + live.n_live)
        if live.n_live == live.count:
            return _Part(self.tokens[at], self.generated[at], self.starts[at])
        data = self._read(live.offset, _token_part_bytes(live.count, live.has_cut))
        part = _decode_part(data, live.count, live.has_cut)
        if len(part.tokens) < live.count or not np.array_equal(part.tokens[: live.n_live], self.tokens[at]):
            raise CacheDamaged("the container has changed on the disk since it was read; start the chat anew")
        return part


@dataclass(frozen=True, slots=True)
class _Part:
    """Tokens of a record, which of them were generated, and with which prompt tokens a decode began."""

    tokens: Tokens
    generated: Flags
    starts: Flags


def encode_header(header: CacheHeader) -> bytes:
    """The bytes that a container begins with."""
    if len(header.model_sha256) != 32 or len(header.kv_layout) > MAX_LAYOUT_BYTES:
        raise ValueError("a header needs a SHA-256 of 32 bytes and a KV layout of at most 65536")
    head = _HEADER.pack(_MAGIC, VERSION, len(header.kv_layout), header.model_sha256, header.seed)
    head += header.kv_layout
    return head + _strong_check(b"", head)


class _State:
    """The conversation while records are read: its arrays grow by doubling, so that the work stays linear."""

    def __init__(self) -> None:
        self.tokens: Tokens = np.zeros(1024, np.int32)
        self.generated: Flags = np.zeros(1024, np.bool_)
        self.starts: Flags = np.zeros(1024, np.bool_)
        self.n_tokens = 0
        self.live: list[_Live] = []

    def conversation(self) -> tuple[Tokens, Flags, Flags]:
        """Tokens, generated, starts."""
        n = self.n_tokens
        return self.tokens[:n].copy(), self.generated[:n].copy(), self.starts[:n].copy()

    def apply(self, live: _Live, part: _Part) -> None:
        end = live.first + live.count
        if end > len(self.tokens):
            room = max(end, 2 * len(self.tokens))
            self.tokens = np.resize(self.tokens, room)
            self.generated = np.resize(self.generated, room)
            self.starts = np.resize(self.starts, room)
        self.tokens[live.first : end] = part.tokens
        self.generated[live.first : end] = part.generated
        self.starts[live.first : end] = part.starts
        self.n_tokens = end
        _roll_back(self.live, live.first)
        if live.count:
            self.live.append(live)


def _roll_back(live: list[_Live], keep: int) -> int:
    """Leave the records of the first `keep` tokens; returns the bytes of those that go."""
    n_bytes = 0
    while live and live[-1].first >= keep:
        n_bytes += live.pop().n_bytes
    if live and live[-1].first + live[-1].n_live > keep:
        live[-1] = replace(live[-1], n_live=keep - live[-1].first)
    return n_bytes


def _usual_starts(generated: Flags) -> Flags:
    """The cut of a record that has none written down: one decode for prompt tokens that follow each other."""
    starts: Flags = ~generated
    starts[1:] &= generated[:-1]
    return starts


def _encode_record(keep: int, part: _Part, has_cut: bool, kv: bytes, previous: bytes) -> tuple[bytes, bytes]:
    """A record's bytes and its checksum; `previous` is the checksum before it."""
    n = len(part.tokens)
    if n != len(part.generated) or n != len(part.starts):
        raise ValueError(f"{n} tokens, but {len(part.generated)} and {len(part.starts)} marks")
    head = b"".join(
        (
            _RECORD.pack(_CUT_MAGIC if has_cut else _RECORD_MAGIC, keep, n, len(kv)),
            part.tokens.astype("<i4", copy=False).tobytes(),
            np.packbits(part.generated, bitorder="little").tobytes(),
            np.packbits(part.starts, bitorder="little").tobytes() if has_cut else b"",
        )
    )
    check = _strong_check(previous, head)
    return b"".join((head, check, kv, _kv_check(kv, check))), check


def _parse_header(read: Reader, size: int) -> tuple[CacheHeader, int, bytes]:
    """The header, the offset behind it, and its checksum. Raises CacheDamaged."""
    data = read(0, min(size, _READ_AHEAD))
    if len(data) < _HEADER.size or data[: len(_MAGIC)] != _MAGIC:
        raise CacheDamaged("this is not a prompt cache of llama-canister; start the chat anew")
    _, version, n_layout, model_sha256, seed = _HEADER.unpack_from(data)
    if version != VERSION:
        raise CacheDamaged(f"the prompt cache has format {version}, known is {VERSION}; start the chat anew")
    end = _HEADER.size + n_layout
    if n_layout > MAX_LAYOUT_BYTES or end + _N_CHECK > size:
        raise CacheDamaged("the header of the prompt cache is cut off; start the chat anew")
    if end + _N_CHECK > len(data):
        data = read(0, end + _N_CHECK)
    check = data[end : end + _N_CHECK]
    if check != _strong_check(b"", data[:end]):
        raise CacheDamaged("the header of the prompt cache fails its checksum; start the chat anew")
    return CacheHeader(model_sha256, seed, data[_HEADER.size : end]), end + _N_CHECK, check


def _parse_record(read: Reader, offset: int, size: int, n_before: int, previous: bytes) -> tuple[_Live, _Part] | None:
    """The record at `offset`, without its KV rows; None when its token part is damaged or cut off."""
    data = read(offset, min(size - offset, _READ_AHEAD))
    if len(data) < _RECORD.size:
        return None
    magic, keep, count, kv_bytes = _RECORD.unpack_from(data)
    has_cut = magic == _CUT_MAGIC
    n_bytes = _token_part_bytes(count, has_cut)
    if not (has_cut or magic == _RECORD_MAGIC) or keep > n_before or offset + n_bytes > size:
        return None
    if n_bytes > len(data):
        data = read(offset, n_bytes)
    data = data[:n_bytes]
    check = data[-_N_CHECK:]
    if len(data) < n_bytes or check != _strong_check(previous, data[:-_N_CHECK]):
        return None
    return _Live(keep, count, count, offset, has_cut, kv_bytes, check), _decode_part(data, count, has_cut)


def _decode_part(data: bytes, count: int, has_cut: bool) -> _Part:
    """The tokens and marks in the token part of a record."""
    tokens = np.frombuffer(data[_RECORD.size :][: 4 * count], "<i4").astype(np.int32)
    marks = data[_RECORD.size + 4 * count : -_N_CHECK]
    n = _mark_bytes(count)
    generated = _flags(marks[:n], count)
    return _Part(tokens, generated, _flags(marks[n:], count) & ~generated if has_cut else _usual_starts(generated))


def _flags(data: bytes, count: int) -> Flags:
    return np.unpackbits(np.frombuffer(data, np.uint8), count=count, bitorder="little").astype(np.bool_)


def _kv_of(live: _Live, read: Reader | BlockReader) -> bytes | memoryview:
    """The record's KV rows; none when they are damaged or missing."""
    try:
        data = read(live.kv_offset, live.kv_bytes + _KV_CHECK.size)
    except StoreDamaged:
        return b""
    kv, check = data[: live.kv_bytes], data[live.kv_bytes :]
    return kv if check == _kv_check(kv, live.check) else b""


def _in_blocks(read: Reader | BlockReader) -> BlockReader:
    """A reader for what is read in order: it asks for large blocks, and answers views of them."""
    start, block = 0, memoryview(b"")

    def view(offset: int, size: int) -> memoryview:
        nonlocal start, block
        if not start <= offset <= offset + size <= start + len(block):
            start, block = offset, memoryview(read(offset, max(size, _BLOCK_BYTES)))
        return block[offset - start : offset - start + size]

    return view


def _reader_of(data: bytes) -> Reader:
    return lambda offset, size: data[offset : offset + size]


def _header_bytes(header: CacheHeader) -> int:
    return _HEADER.size + len(header.kv_layout) + _N_CHECK


def _mark_bytes(count: int) -> int:
    return (count + 7) // 8


def _token_part_bytes(count: int, has_cut: bool) -> int:
    return _RECORD.size + 4 * count + _mark_bytes(count) * (1 + has_cut) + _N_CHECK


def _strong_check(previous: bytes, data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=_N_CHECK, key=previous).digest()


def _kv_check(kv: bytes | memoryview, check: bytes) -> bytes:
    return _KV_CHECK.pack(zlib.crc32(kv, zlib.crc32(check)))
