"""The record of one call: what was asked, by whom, what it cost, and what came out, as hashes and small numbers.

Its bytes have one form only, and docs/receipts.md tells it. A record that is decoded and encoded again has the same
bytes; anything else is refused.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

HASH_BYTES = 32
NO_HASH = bytes(HASH_BYTES)
VERSION = 1
PARTS = ("base", "load", "clear", "session", "pagein", "prompt", "generate", "sampling", "save")
OUTCOMES: tuple[Outcome, ...] = ("ok", "err", "trap")
GENERATED, STARTS, REDRAWN = 1 << 30, 1 << 29, 1 << 28
"""The marks of a token in its word, beside its number."""

MAX_NUMBER = 1 << 64
_FIXED = struct.Struct("<BBQ32s32s32s32s")
_IS_QUERY, _HAS_CHAT, _HAS_FENCE = 4, 8, 16

Outcome = Literal["ok", "err", "trap"]


class RecordError(ValueError):
    """Bytes that are no record. The message says what is wrong."""


@dataclass(frozen=True, slots=True)
class ChatPart:
    """What a call did with a conversation; counts are tokens.

    cache: the name of the caller's prompt cache; "" for none. seed: of the draws.
    n_loaded: in the cache before the call. n_kept: of them, before what the call decoded. n_prompt, n_generated:
    decoded by the call. n_sampled: n_generated, or one more that was not decoded, which is `last`; -1: there is none.
    n_draws: random numbers that its answer had taken before the call. n_continued: tokens before it that belong to the
    answer which it goes on with. saves: how often the cache counts as written. is_shifted: the context was shifted, so
    that the call cannot be replayed from tokens. is_penalized: as in the cost model.
    before: the hash of the words of the n_loaded tokens; after: of the n_kept + n_prompt + n_generated that are there
    behind the call.
    """

    cache: str
    seed: int
    n_loaded: int
    n_kept: int
    n_prompt: int
    n_generated: int
    n_sampled: int
    n_draws: int
    n_continued: int
    saves: int
    last: int
    is_shifted: bool
    is_penalized: bool
    before: bytes
    after: bytes

    @property
    def n_after(self) -> int:
        return self.n_kept + self.n_prompt + self.n_generated


@dataclass(frozen=True, slots=True)
class Record:
    """One call. index: its number, from 0. previous: the leaf hash of the record before. terms: the SHA-256 of the
    terms under which it ran (`document.py`). caller: a principal. argument, output: hashes, as docs/receipts.md tells.
    parts: instructions, those that are 0 left out. fence: of the try, for a job of a herd.
    """

    index: int
    time_ns: int
    previous: bytes
    terms: bytes
    caller: bytes
    method: str
    is_query: bool
    outcome: Outcome
    argument: bytes
    output: bytes
    request_bytes: int
    cycles: int
    parts: Mapping[str, int]
    chat: ChatPart | None = None
    fence: int | None = None

    @property
    def instructions(self) -> int:
        return sum(self.parts.values())


def words_hash(words: bytes) -> bytes:
    """The hash of tokens, four bytes each, little-endian, with their marks."""
    return hashlib.sha256(words).digest()


def encode(record: Record) -> bytes:
    """The bytes of a record. RecordError for one that has none."""
    return encode_at(record, record.index, record.previous)


def encode_at(record: Record, index: int, previous: bytes) -> bytes:
    """The bytes of a record with another place in the chain."""
    chat, parts = record.chat, record.parts
    kind = OUTCOMES.index(record.outcome) | _IS_QUERY * record.is_query | _HAS_CHAT * (chat is not None)
    kind |= _HAS_FENCE * (record.fence is not None)
    fixed = (record.time_ns, previous, record.terms, record.argument, record.output)
    data = bytearray(_FIXED.pack(VERSION, kind, *fixed))
    method = record.method.encode()
    _put(data, (len(record.caller),))
    data += record.caller
    _put(data, (len(method),))
    data += method
    known = [(code, n) for code, name in enumerate(PARTS) if (n := parts.get(name))]
    if len(known) != sum(map(bool, parts.values())):
        raise RecordError(f"an unknown part of the costs among {', '.join(parts)}")
    _put(data, (index, record.request_bytes, record.cycles, len(known), *(n for part in known for n in part)))
    if record.fence is not None:
        _put(data, (record.fence,))
    if chat is not None:
        cache = chat.cache.encode()
        data += chat.before + chat.after
        _put(data, (len(cache),))
        data += cache
        counts = (chat.n_loaded, chat.n_kept, chat.n_prompt, chat.n_generated, chat.n_sampled)
        more = (chat.n_draws, chat.n_continued, chat.saves, chat.last + 1)
        _put(data, (chat.is_shifted | chat.is_penalized << 1, chat.seed, *counts, *more))
    return bytes(data)


def decode(data: bytes) -> Record:
    """The record in these bytes. RecordError."""
    record = read(data)
    if encode(record) != data:
        raise RecordError("the bytes of the record are not in the one form that they may have")
    return record


def read(data: bytes) -> Record:
    """As `decode`, for who encodes the record anew: the bytes may have another form than the one. RecordError."""
    reader = _Reader(data)
    try:
        version, kind, time_ns, previous, terms, argument, output = _FIXED.unpack(reader.take(_FIXED.size))
        if version != VERSION or kind >> 5 or kind & 3 == 3:
            raise RecordError(f"a record of version {version}, kind {kind}: this program reads version {VERSION}")
        caller, method = reader.text_bytes(), reader.text_bytes().decode()
        index, request_bytes, cycles = (reader.number() for _ in range(3))
        parts = {PARTS[reader.number()]: reader.number() for _ in range(reader.number())}
        fence = reader.number() if kind & _HAS_FENCE else None
        chat = None
        if kind & _HAS_CHAT:
            before, after = reader.take(HASH_BYTES), reader.take(HASH_BYTES)
            cache, flags = reader.text_bytes().decode(), reader.number()
            seed, loaded, kept, prompt, generated = (reader.number() for _ in range(5))
            sampled, draws, continued, saves, last = (reader.number() for _ in range(5))
            counts = loaded, kept, prompt, generated, sampled, draws, continued, saves
            chat = ChatPart(cache, seed, *counts, last - 1, bool(flags & 1), bool(flags & 2), before, after)
    except (IndexError, UnicodeDecodeError, struct.error):
        raise RecordError("the bytes of the record end too early, or are none of a record") from None
    return Record(
        index,
        time_ns,
        previous,
        terms,
        caller,
        method,
        bool(kind & _IS_QUERY),
        OUTCOMES[kind & 3],
        argument,
        output,
        request_bytes,
        cycles,
        parts,
        chat,
        fence,
    )


def _put(data: bytearray, numbers: Iterable[int]) -> None:
    """Each as unsigned LEB128."""
    for number in numbers:
        if 0 <= number < 0x80:  # as most are
            data.append(number)
            continue
        if not 0 <= number < MAX_NUMBER:
            raise RecordError(f"{number} has no place in a record")
        while number > 0x7F:
            data.append(number & 0x7F | 0x80)
            number >>= 7
        data.append(number)


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def take(self, n: int) -> bytes:
        found = self._data[self._at : self._at + n]
        if len(found) != n:
            raise IndexError
        self._at += n
        return found

    def number(self) -> int:
        first = self._data[self._at]
        if first < 0x80:  # as most are
            self._at += 1
            return first
        number = shift = 0
        while True:
            digit = self._data[self._at]
            self._at += 1
            number |= (digit & 0x7F) << shift
            shift += 7
            if digit < 0x80:
                return number
            if shift >= 70:
                raise IndexError

    def text_bytes(self) -> bytes:
        return self.take(self.number())
