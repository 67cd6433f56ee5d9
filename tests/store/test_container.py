"""The container: what is written comes back; whatever happens to its bytes, only what was written comes back."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from canister.errors import StoreDamaged
from canister.store.container import CacheDamaged, CacheFile, CacheHeader, Segment, encode_header

HEADER = CacheHeader(bytes(range(32)), 0xFEDC_BA98_7654_3210, b"n_layer=2 f16")


@dataclass(frozen=True)
class Written:
    """A container's bytes, and after each record: its size, the conversation, and the KV rows by their start."""

    data: bytes
    cache: CacheFile
    sizes: list[int]
    states: list[State]


State = tuple[list[int], list[bool], list[bool], list[bool]]
CacheRecord = tuple[float, list[tuple[int, bool]], bytes, int]

RECORDS = st.lists(
    st.tuples(
        st.one_of(st.just(1.0), st.floats(0, 1)),  # share of the tokens that stays
        st.lists(st.tuples(st.integers(-(2**31), 2**31 - 1), st.booleans()), max_size=20),
        st.one_of(st.just(b""), st.binary(min_size=1, max_size=40)),
        st.integers(0, 4),  # a decode begins, or two draws were made, with every so manieth token; 0: not told
    ),
    max_size=8,
)


def write(records: list[CacheRecord]) -> Written:
    store = bytearray()
    cache, data = CacheFile.create(HEADER, lambda offset, size: bytes(store[offset : offset + size]))
    store += data
    tokens: list[int] = []
    generated: list[bool] = []
    starts: list[bool] = []
    redrawn: list[bool] = []
    sizes, states = [len(store)], [(tokens, generated, starts, redrawn)]
    for share, added, kv, every in records:
        keep = round(share * len(tokens))
        marks = [mark for _, mark in added]
        if every:
            begun = [i % every == 0 and not mark for i, mark in enumerate(marks)]
        else:
            begun = [not mark and (i == 0 or marks[i - 1]) for i, mark in enumerate(marks)]
        twice = [every != 0 and i % every == 0 and mark for i, mark in enumerate(marks)]
        told = (begun, twice) if every else (None, None)
        cache, data = cache.extended(keep, [token for token, _ in added], marks, kv, *told)
        store += data
        tokens = tokens[:keep] + [token for token, _ in added]
        generated, starts, redrawn = generated[:keep] + marks, starts[:keep] + begun, redrawn[:keep] + twice
        sizes.append(len(store))
        states.append((tokens, generated, starts, redrawn))
    return Written(bytes(store), cache, sizes, states)


def state_of(cache: CacheFile) -> State:
    return cache.tokens.tolist(), cache.generated.tolist(), cache.starts.tolist(), cache.redrawn.tolist()


def check_segments(cache: CacheFile, sound: CacheFile) -> None:
    """The KV rows of `cache` are the first of those of `sound`, without a gap."""
    n_tokens = len(cache.tokens)
    found = cache.segments(n_tokens)
    assert found == sound.segments(n_tokens)[: len(found)]
    position = 0
    for segment in found:
        assert segment.first == position
        assert 0 < segment.n_live <= segment.count
        position += segment.n_live
    assert position <= n_tokens


@given(RECORDS)
def test_what_is_written_comes_back(records: list[CacheRecord]) -> None:
    written = write(records)
    for cache in (written.cache, CacheFile.parse(written.data), CacheFile.parse(written.data, len(written.data))):
        assert cache.header == HEADER
        assert state_of(cache) == written.states[-1]
        assert (cache.n_records, cache.size, cache.is_whole) == (len(records), len(written.data), True)
        assert cache.tokens.dtype == np.int32
        assert cache.generated.dtype == np.bool_
        check_segments(cache, written.cache)
    assert written.cache.segments(len(written.cache.tokens)) == CacheFile.parse(written.data).segments(1 << 40)


@given(RECORDS, st.data())
def test_cut_off_anywhere_it_is_a_prefix_of_its_records(records: list[CacheRecord], data: st.DataObject) -> None:
    written = write(records)
    for size in data.draw(st.lists(st.integers(0, len(written.data)), min_size=1, max_size=20)):
        check_cut(written, size)


def test_cut_off_everywhere() -> None:
    written = write(
        [
            (1, [(7, True)] * 9, b"kv" * 9, 0),
            (0.5, [(8, False)] * 9, b"", 2),
            (1, [], b"", 1),
            (1, [(9, True)], b"x", 0),
        ]
    )
    for size in range(len(written.data) + 1):
        check_cut(written, size)


def check_cut(written: Written, size: int) -> None:
    if size < written.sizes[0]:
        with pytest.raises(CacheDamaged):
            CacheFile.parse(written.data[:size])
        return
    cache = CacheFile.parse(written.data[:size])
    n_whole = sum(end <= size for end in written.sizes) - 1
    assert cache.n_records in (n_whole, n_whole + 1)  # one more when only KV rows are cut off
    assert state_of(cache) == written.states[cache.n_records]
    assert cache.size == written.sizes[n_whole]
    assert cache.is_whole == (size == written.sizes[n_whole])
    check_segments(cache, write_prefix(written, cache.n_records))


def write_prefix(written: Written, n_records: int) -> CacheFile:
    return CacheFile.parse(written.data[: written.sizes[n_records]])


@settings(max_examples=300)
@given(RECORDS, st.data())
def test_changed_anywhere_it_is_a_prefix_of_its_records(records: list[CacheRecord], data: st.DataObject) -> None:
    written = write(records)
    changed = bytearray(written.data)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(changed) - 1))
        changed[at] ^= data.draw(st.integers(1, 255))
    check_changed(written, bytes(changed))


def test_changed_everywhere() -> None:
    written = write(
        [
            (1, [(7, True)] * 9, b"kv" * 9, 0),
            (0.5, [(8, False)] * 9, b"", 2),
            (1, [], b"", 1),
            (1, [(9, True)], b"x", 0),
        ]
    )
    for at in range(len(written.data)):
        for flip in (1, 0x80, 0xFF):
            changed = bytearray(written.data)
            changed[at] ^= flip
            check_changed(written, bytes(changed))


def check_changed(written: Written, changed: bytes) -> None:
    try:
        cache = CacheFile.parse(changed)
    except CacheDamaged:
        return
    assert cache.header == HEADER
    assert state_of(cache) == written.states[cache.n_records]
    check_segments(cache, write_prefix(written, cache.n_records))
    compacted, data = cache.compacted()
    assert state_of(compacted) == state_of(cache) == state_of(CacheFile.parse(data))
    assert compacted.is_whole


@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    for candidate in (data, encode_header(HEADER) + data, encode_header(HEADER)[: len(data)] + data):
        try:
            cache = CacheFile.parse(candidate)
        except CacheDamaged:
            continue
        assert len(cache.tokens) == 0


def test_a_cut_is_written_down_where_it_is_not_the_usual_one() -> None:
    cache, head = CacheFile.create(HEADER, lambda offset, size: b"")
    marks = [False, False, False, True, False, False]
    plain, usual = cache.extended(0, range(6), marks)
    assert cache.extended(0, range(6), marks, starts=[True, False, False, False, True, False])[1] == usual
    assert plain.starts.tolist() == [True, False, False, False, True, False]
    cut, data = cache.extended(0, range(6), marks, starts=[True, False, True, True, True, False])
    assert (usual[:4], data[:4], len(data)) == (b"rec\n", b"cut\n", len(usual) + 1)
    for known in (cut, CacheFile.parse(head + data)):
        assert known.starts.tolist() == [True, False, True, False, True, False]  # a generated one is decoded alone
        assert not known.redrawn.any()
    twice, data = cache.extended(0, range(6), marks, redrawn=[True] * 6)
    assert (data[:4], len(data)) == (b"cut\n", len(usual) + 1)
    for known in (twice, CacheFile.parse(head + data)):
        assert known.starts.tolist() == plain.starts.tolist()
        assert known.redrawn.tolist() == marks  # prompt tokens are not drawn


def test_lengths_that_promise_too_much_cost_nothing() -> None:
    header = encode_header(HEADER)
    asked: list[int] = []

    def read(offset: int, size: int) -> bytes:
        asked.append(size)
        return data[offset : offset + size]

    data = header + b"rec\n" + struct.pack("<IIQ", 0, 2**32 - 1, 2**64 - 1) + bytes(100)
    assert not CacheFile.parse(read, len(data)).is_whole
    data = header[:12] + struct.pack("<I", 2**32 - 1) + header[16:]
    with pytest.raises(CacheDamaged, match="cut off"):
        CacheFile.parse(read, len(data))
    assert max(asked) < 10_000


def test_a_reader_that_ends_early_or_fails() -> None:
    written = write([(1, [(7, True)] * 2000, b"kv" * 900, 0)])
    with pytest.raises(CacheDamaged):
        CacheFile.parse(lambda offset, size: b"", len(written.data))
    short = CacheFile.parse(lambda offset, size: written.data[:5000][offset : offset + size], len(written.data))
    assert len(short.tokens) == 0

    def fail(offset: int, size: int) -> bytes:
        raise StoreDamaged("'a' is gone")

    with pytest.raises(StoreDamaged, match="is gone"):
        CacheFile.parse(fail, 100)


def test_records_of_another_container_do_not_count() -> None:
    one, other = write([(1, [(1, True)], b"", 0)]), write([(1, [(1, True)], b"", 0), (1, [(2, True)], b"", 0)])
    moved = one.data + one.data[one.sizes[0] :]
    assert state_of(CacheFile.parse(moved)) == one.states[-1]
    assert state_of(CacheFile.parse(one.data + other.data[other.sizes[1] :])) == other.states[-1]  # it is the same


def test_what_does_not_fit_is_refused() -> None:
    cache, _ = CacheFile.create(HEADER, lambda offset, size: b"")
    with pytest.raises(ValueError, match="keep is 1, but there are 0 tokens"):
        cache.extended(1, [], [])
    with pytest.raises(ValueError, match="2 tokens, but 1, 1 and 1 marks"):
        cache.extended(0, [1, 2], [True])
    with pytest.raises(ValueError, match="SHA-256"):
        CacheFile.create(CacheHeader(b"", 0, b""), lambda offset, size: b"")
    with pytest.raises(TypeError, match="needs the size"):
        CacheFile.parse(lambda offset, size: b"")
    damaged = CacheFile.parse(write([]).data + b"x")
    with pytest.raises(ValueError, match="write it anew"):
        damaged.extended(0, [], [])


# -- KV rows, waste, compaction


def test_segments_end_before_what_is_missing() -> None:
    written = write(
        [(1, [(1, True)] * 4, b"aaaa", 0), (1, [(2, True)] * 4, b"bbbb", 0), (0.75, [(3, True)] * 2, b"cc", 0)]
    )
    cache = written.cache
    assert cache.segments(8) == [Segment(0, 4, 4, b"aaaa"), Segment(4, 4, 2, b"bbbb"), Segment(6, 2, 2, b"cc")]
    assert cache.segments(5) == [Segment(0, 4, 4, b"aaaa"), Segment(4, 4, 1, b"bbbb")]
    assert cache.segments(0) == []
    gap = write([(1, [(1, True)] * 4, b"aaaa", 0), (1, [(2, True)] * 4, b"", 0), (1, [(3, True)] * 2, b"cc", 0)])
    assert gap.cache.segments(10) == [Segment(0, 4, 4, b"aaaa")]


def test_rows_that_cannot_be_read_are_missing() -> None:
    written = write([(1, [(1, True)] * 4, b"aaaa", 0)])

    def read(offset: int, size: int) -> bytes:
        if offset > written.data.index(b"aaaa") - 1:
            raise StoreDamaged("'a' has only 4 bytes on the disk")
        return written.data[offset : offset + size]

    cache = CacheFile.parse(read, len(written.data))
    assert cache.segments(4) == []
    assert state_of(cache.compacted()[0]) == written.states[-1]


def test_damaged_rows_keep_their_tokens_and_the_records_behind_them() -> None:
    written = write(
        [(1, [(1, True)] * 4, b"aaaa", 0), (1, [(2, True)] * 4, b"bbbb", 0), (1, [(3, True)] * 2, b"cc", 0)]
    )
    changed = bytearray(written.data)
    changed[changed.index(b"bbbb")] ^= 1
    cache = CacheFile.parse(bytes(changed))
    assert state_of(cache) == written.states[-1]
    assert cache.is_whole
    assert cache.segments(10) == [Segment(0, 4, 4, b"aaaa")]


@given(RECORDS)
def test_compaction_keeps_the_conversation_and_its_rows(records: list[CacheRecord]) -> None:
    written = write(records)
    compacted, data = written.cache.compacted()
    assert len(data) <= len(written.data) + 32  # a last roll-back may be added
    for cache in (CacheFile.parse(data), compacted):
        assert state_of(cache) == written.states[-1]
        assert (cache.header, cache.size, cache.is_whole) == (HEADER, len(data), True)
    assert CacheFile.parse(data).segments(1 << 40) == written.cache.segments(1 << 40)
    assert CacheFile.parse(data).waste_bytes <= 32
    extended, more = compacted.extended(len(compacted.tokens), [1], [True], b"kv")
    assert state_of(CacheFile.parse(data + more)) == state_of(extended)


def test_waste_is_what_the_conversation_has_no_use_for() -> None:
    cache, data = CacheFile.create(HEADER, lambda offset, size: data[offset : offset + size])
    cache, more = cache.extended(0, [1] * 10, [False] * 10, b"k" * 1000)
    data += more
    assert (cache.waste_bytes, cache.wants_compaction) == (0, False)
    cache, more = cache.extended(5, [2] * 10, [True] * 10, b"l" * 1000)
    data += more
    assert cache.waste_bytes == 0  # half of a record is not waste: its rows cannot be cut
    cache, more = cache.extended(0, [3] * 10, [True] * 10, b"m" * 1000)
    data += more
    assert cache.waste_bytes > 2000
    assert cache.wants_compaction
    assert len(cache.compacted()[1]) < len(data) / 2


def test_a_roll_back_alone_survives_compaction() -> None:
    written = write([(1, [(1, True)] * 10, b"k" * 10, 0), (0.5, [], b"", 0)])
    compacted, data = written.cache.compacted()
    assert state_of(CacheFile.parse(data)) == written.states[-1] == state_of(compacted)
    assert CacheFile.parse(data).segments(5) == [Segment(0, 10, 5, b"k" * 10)]
