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
                                                                 of prompt tokens began with token i, or that the
                                                                 generated token i was drawn twice; c = g, or 0
                                                         ...  8  checksum of the record so far
                                                         ...  k  KV rows of the n tokens, opaque, perhaps none
                                                         ...  4  u32 checksum of the KV rows

A record has a cut, and then the magic "cut\n", where it is another than this: one decode for prompt tokens that follow
each other, and one draw for each generated token.

The tokens are the truth, so their checksum is strong and small: BLAKE2b of 8 bytes, and it covers the checksum before
it too, so that a record counts only in its place in its own file. The KV rows are large, and can always be computed
again: CRC-32, at four times the speed, begun with the record's checksum. It finds every burst of up to 32 bits.

Damaged KV rows leave their tokens alone; a damaged token part ends the conversation before it. Whatever the bytes,
parsing does work bounded by their number, returns states that were once written, and raises CacheDamaged at most.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from canister.errors import StoreDamaged
from canister.store.container_records import (
    KV_CHECK,
    N_CHECK,
    READ_AHEAD,
    CacheRecord,
    Flags,
    Part,
    Reader,
    Tokens,
    decode_part,
    encode_record,
    kv_check,
    parse_record,
    strong_check,
    token_part_bytes,
    usual_starts,
)

BlockReader = Callable[[int, int], memoryview]
"""As a Reader, but the memory of the answer stays as it is while that is referred to."""

VERSION = 1
MAX_LAYOUT_BYTES = 1 << 16
_MAGIC = b"lccache\n"
_HEADER = struct.Struct("<8sII32sQ")
_BLOCK_BYTES = 4 << 20  # of KV rows read at once
_LEAST_ROOM = 1024  # tokens, for a conversation that has more than one record
_NO_TOKENS: Tokens = np.zeros(0, np.int32)
_NO_FLAGS: Flags = np.zeros(0, np.bool_)


class CacheDamaged(StoreDamaged):
    """The container cannot be used or trusted. The conversation starts cold."""


@dataclass(frozen=True, slots=True)
class CacheHeader:
    """What the cache was made with. It fits a model only if model_sha256 and kv_layout are that model's."""

    model_sha256: bytes
    seed: int
    kv_layout: bytes


@dataclass(frozen=True, slots=True)
class Segment:
    """KV rows of `count` tokens from position `first` on, of which the first `n_live` still belong to the conversation.

    After a roll-back into the middle of a record its rows stay whole, since this module does not know where a row ends.
    """

    first: int
    count: int
    n_live: int
    kv: bytes | memoryview


@dataclass(frozen=True, slots=True)
class Conversation:
    """A conversation, wherever it is.

    tokens, generated: of the whole conversation; generated says which were sampled rather than prompt.
    starts: with which prompt tokens a decode began. redrawn: which of the generated ones were drawn twice.
    """

    header: CacheHeader
    tokens: Tokens
    generated: Flags
    starts: Flags
    redrawn: Flags


@dataclass(frozen=True, slots=True)
class CacheFile(Conversation):
    """The conversation that a container holds, without its KV rows. Immutable; `extended` makes the next one.

    size: bytes up to the first damage. is_whole: nothing follows them. Otherwise the file must be written anew, best
    with `compacted`, before anything can be appended.
    """

    n_records: int
    size: int
    is_whole: bool
    _live: tuple[CacheRecord, ...]
    _live_bytes: int  # of those records, kept so that calls of a long chat need not sum them up
    _check: bytes
    _read: Reader

    @classmethod
    def create(cls, header: CacheHeader, read: Reader) -> tuple[CacheFile, bytes]:
        """An empty conversation and the bytes of its container. `read` will read them once they are written."""
        data = encode_header(header)
        none = _NO_FLAGS
        return cls(header, _NO_TOKENS, none, none, none, 0, len(data), True, (), 0, data[-N_CHECK:], read), data

    @classmethod
    def parse(cls, source: bytes | Reader, size: int | None = None) -> CacheFile:
        """Parse a container up to the first damage, without its KV rows. Raises CacheDamaged for its header.

        size: bytes of the container. It is needed with a reader, which is kept for `segments` and `compacted`.
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
            record = parse_record(read, offset, size, state.n_tokens, check)
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
        self,
        keep: int,
        tokens: ArrayLike,
        generated: ArrayLike,
        kv: bytes = b"",
        starts: ArrayLike | None = None,
        redrawn: ArrayLike | None = None,
    ) -> tuple[CacheFile, bytes]:
        """Roll back to `keep` tokens and continue with `tokens`. Returns the new conversation and the bytes to append.

        kv: the rows of exactly these tokens, or none. starts: with which of the prompt tokens a decode began; None:
        with each that does not follow another prompt token here. redrawn: which of the generated ones were drawn twice.
        """
        if not self.is_whole:
            raise ValueError("a damaged container cannot be extended; write it anew with compacted()")
        if not 0 <= keep <= len(self.tokens):
            raise ValueError(f"keep is {keep}, but there are {len(self.tokens)} tokens")
        added = np.asarray(tokens, np.int32).reshape(-1)
        flags = np.asarray(generated, np.bool_).reshape(-1)
        usual = usual_starts(flags)
        begun = usual if starts is None else np.asarray(starts, np.bool_).reshape(-1) & ~flags
        twice = np.zeros_like(flags) if redrawn is None else np.asarray(redrawn, np.bool_).reshape(-1) & flags
        has_cut = b"\1" in twice.tobytes() or begun.tobytes() != usual.tobytes()  # numpy's own ways take 5 µs each
        data, check = encode_record(keep, Part(added, flags, begun, twice), has_cut, kv, self._check)
        live = list(self._live)
        n_live = self._live_bytes - _roll_back(live, keep)
        if len(added):
            live.append(CacheRecord(keep, len(added), len(added), self.size, has_cut, len(kv), check))
            n_live += live[-1].n_bytes
        extended = CacheFile(
            self.header,
            np.concatenate((self.tokens[:keep], added)),
            np.concatenate((self.generated[:keep], flags)),
            np.concatenate((self.starts[:keep], begun)),
            np.concatenate((self.redrawn[:keep], twice)),
            self.n_records + 1,
            self.size + len(data),
            True,
            tuple(live),
            n_live,
            check,
            self._read,
        )
        return extended, data

    def n_with_rows(self, n_tokens: int) -> int:
        """The number of leading tokens, at most n_tokens, whose KV rows were written without a gap, sound or not."""
        n = 0
        for live in self._live:
            if live.first >= n_tokens or not live.kv_bytes:
                break
            n = min(live.first + live.n_live, n_tokens)
        return n

    def segments(self, n_tokens: int, read_block: Reader | BlockReader | None = None) -> list[Segment]:
        """Sound KV rows of the first n_tokens tokens, without gaps from 0 on. They end before the first damage.

        read_block: reads instead of the container's own reader, into memory of the caller's choice.
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
        """The number of records whose KV rows cannot be used. Reads them all."""
        return sum(1 for live in self._live if live.kv_bytes and not _kv_of(live, self._read))

    @property
    def waste_bytes(self) -> int:
        """Bytes of records that the conversation no longer needs."""
        return self.size - _header_bytes(self.header) - self._live_bytes

    @property
    def wants_compaction(self) -> bool:
        """Is more than half of the container waste, or its end damaged?"""
        return not self.is_whole or 2 * self.waste_bytes > self.size

    def compacted(self, header: CacheHeader | None = None) -> tuple[CacheFile, bytes]:
        """The same conversation in as few bytes as possible: only live records, without damaged KV rows.

        header: another one to put in front, whose KV layout is the same.
        """
        cache, data = CacheFile.create(header or self.header, self._read)
        parts = [data]
        for live in self._live:
            part = self._part_of(live)
            kv = bytes(_kv_of(live, self._read))
            cache, data = cache.extended(live.first, part.tokens, part.generated, kv, part.starts, part.redrawn)
            parts.append(data)
        if len(cache.tokens) > len(self.tokens):
            cache, data = cache.extended(len(self.tokens), (), ())
            parts.append(data)
        return cache, b"".join(parts)

    def rolled_back(self, keep: int) -> CacheFile:
        """The conversation's first `keep` tokens, as a container from which others are made; nothing is appended."""
        live = list(self._live)
        n_live = self._live_bytes - _roll_back(live, keep)
        return replace(
            self,
            tokens=self.tokens[:keep],
            generated=self.generated[:keep],
            starts=self.starts[:keep],
            redrawn=self.redrawn[:keep],
            _live=tuple(live),
            _live_bytes=n_live,
        )

    def read_by(self, read: Reader) -> CacheFile:
        """The same, whose bytes `read` will find somewhere else."""
        return replace(self, _read=read)

    def _part_of(self, live: CacheRecord) -> Part:
        """All tokens of a record: those that the conversation has, and for KV rows that cannot be cut, the others."""
        at = slice(live.first, live.first + live.n_live)
        if live.n_live == live.count:
            return Part(self.tokens[at], self.generated[at], self.starts[at], self.redrawn[at])
        data = self._read(live.offset, token_part_bytes(live.count, live.has_cut))
        part = decode_part(data, live.count, live.has_cut)
        if len(part.tokens) < live.count or not np.array_equal(part.tokens[: live.n_live], self.tokens[at]):
            raise CacheDamaged("the container has changed on the disk since it was read; start the chat anew")
        return part


def encode_header(header: CacheHeader) -> bytes:
    """The bytes that a container begins with."""
    if len(header.model_sha256) != 32 or len(header.kv_layout) > MAX_LAYOUT_BYTES:
        raise ValueError("a header needs a SHA-256 of 32 bytes and a KV layout of at most 65536")
    head = _HEADER.pack(_MAGIC, VERSION, len(header.kv_layout), header.model_sha256, header.seed)
    head += header.kv_layout
    return head + strong_check(b"", head)


class _State:
    """The conversation while records are read. Its arrays are the first record's, then they grow by doubling, so that
    the work stays linear.
    """

    def __init__(self) -> None:
        self.tokens: Tokens = _NO_TOKENS
        self.generated = self.starts = self.redrawn = _NO_FLAGS
        self.n_tokens = 0
        self.live: list[CacheRecord] = []

    def conversation(self) -> tuple[Tokens, Flags, Flags, Flags]:
        """Tokens, generated, starts, redrawn."""
        n = self.n_tokens
        if n == len(self.tokens):
            return self.tokens, self.generated, self.starts, self.redrawn
        return self.tokens[:n].copy(), self.generated[:n].copy(), self.starts[:n].copy(), self.redrawn[:n].copy()

    def apply(self, live: CacheRecord, part: Part) -> None:
        end = live.first + live.count
        if not len(self.tokens):  # nothing was read before
            self.tokens, self.generated, self.starts, self.redrawn = (
                *(part.tokens, part.generated),
                *(part.starts, part.redrawn),
            )
            self.n_tokens = end
            self.live = [live] if live.count else []
            return
        if end > len(self.tokens):
            room = max(end, 2 * len(self.tokens), _LEAST_ROOM)
            self.tokens = np.resize(self.tokens, room)
            self.generated = np.resize(self.generated, room)
            self.starts = np.resize(self.starts, room)
            self.redrawn = np.resize(self.redrawn, room)
        self.tokens[live.first : end] = part.tokens
        self.generated[live.first : end] = part.generated
        self.starts[live.first : end] = part.starts
        self.redrawn[live.first : end] = part.redrawn
        self.n_tokens = end
        _roll_back(self.live, live.first)
        if live.count:
            self.live.append(live)


def _roll_back(live: list[CacheRecord], keep: int) -> int:
    """Leave the records of the first `keep` tokens; returns the bytes of those that go."""
    n_bytes = 0
    while live and live[-1].first >= keep:
        n_bytes += live.pop().n_bytes
    if live and live[-1].first + live[-1].n_live > keep:
        live[-1] = replace(live[-1], n_live=keep - live[-1].first)
    return n_bytes


def _parse_header(read: Reader, size: int) -> tuple[CacheHeader, int, bytes]:
    """The header, the offset behind it, and its checksum. Raises CacheDamaged."""
    data = read(0, min(size, READ_AHEAD))
    if len(data) < _HEADER.size or data[: len(_MAGIC)] != _MAGIC:
        raise CacheDamaged("this is not a prompt cache of llama-canister; start the chat anew")
    _, version, n_layout, model_sha256, seed = _HEADER.unpack_from(data)
    if version != VERSION:
        raise CacheDamaged(f"the prompt cache has format {version}, known is {VERSION}; start the chat anew")
    end = _HEADER.size + n_layout
    if n_layout > MAX_LAYOUT_BYTES or end + N_CHECK > size:
        raise CacheDamaged("the header of the prompt cache is cut off; start the chat anew")
    if end + N_CHECK > len(data):
        data = read(0, end + N_CHECK)
    check = data[end : end + N_CHECK]
    if check != strong_check(b"", data[:end]):
        raise CacheDamaged("the header of the prompt cache fails its checksum; start the chat anew")
    return CacheHeader(model_sha256, seed, data[_HEADER.size : end]), end + N_CHECK, check


def _kv_of(live: CacheRecord, read: Reader | BlockReader) -> bytes | memoryview:
    """The record's KV rows; none when they are damaged or missing."""
    try:
        data = read(live.kv_offset, live.kv_bytes + KV_CHECK.size)
    except StoreDamaged:
        return b""
    kv, check = data[: live.kv_bytes], data[live.kv_bytes :]
    return kv if check == kv_check(kv, live.check) else b""


def _in_blocks(read: Reader | BlockReader) -> BlockReader:
    """A reader for sequential reading: it reads large blocks and returns views of them."""
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
    return _HEADER.size + len(header.kv_layout) + N_CHECK
