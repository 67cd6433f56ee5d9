"""States cut into rows and put together again; damaged bytes."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from canister.engine.kv.rows import Bytes, KvRowsError, Layout, Rows, decode, encode, merge, parse, state_of
from canister.engine.request import KvSegment

LAYOUTS = [
    Layout(False, ((1, 8), (1, 8)), ((1, 8), (1, 4))),
    Layout(True, ((8, 34),), ((1, 2, 16),)),
    Layout(True, ((1, 8), (1, 8)), ((0, 4, 2), (1, 2, 4))),
]


def some_state(layout: Layout, n: int, n_streams: int = 3) -> Bytes:
    rng = np.random.default_rng(n)

    def noise(*shape: int) -> Bytes:
        return rng.integers(0, 256, shape, np.uint8)

    k = tuple(noise(n, row[1]) for row in layout.k)
    v = tuple(noise(row[2], n, row[1]) if layout.v_transposed else noise(n, row[1]) for row in layout.v)
    return merge(layout, [Rows(0, n, k, v)], n_streams)


@pytest.mark.parametrize("layout", LAYOUTS)
@given(n=st.integers(1, 12), cuts=st.lists(st.integers(0, 12), max_size=4), n_streams=st.integers(1, 4))
def test_cut_stored_and_merged_is_the_same_state(layout: Layout, n: int, cuts: list[int], n_streams: int) -> None:
    blob = some_state(layout, n, n_streams)
    found, rows = parse(blob)
    assert found == layout
    assert (rows.first, rows.count) == (0, n)
    edges = sorted({0, n, *(cut for cut in cuts if cut < n)})
    stored = [encode(layout, rows.cut(layout, *edge)) for edge in itertools.pairwise(edges)]
    assert merge(layout, [decode(layout, each) for each in stored], n_streams).tobytes() == blob.tobytes()
    segments = [KvSegment(a, b - a, rows) for (a, b), rows in zip(itertools.pairwise(edges), stored, strict=True)]
    whole = state_of(layout, segments, n, n_streams)
    assert (whole[0], whole[1].tobytes()) == (n, blob.tobytes())
    n_header = len(encode(layout, rows)) - n * layout.bytes_per_token
    assert sum(map(len, stored)) == n * layout.bytes_per_token + n_header * len(stored)


@pytest.mark.parametrize("layout", LAYOUTS)
@given(
    sizes=st.lists(st.sampled_from([1, 2, 2, 2, 3, 300, 600]), min_size=1, max_size=10),
    n_cut=st.integers(0, 30),
    bad=st.none() | st.tuples(st.integers(0, 9), st.sampled_from(["bytes", "gap", "missing", "count"])),
)
def test_a_state_of_stored_segments(layout: Layout, sizes: list[int], n_cut: int, bad: tuple[int, str] | None) -> None:
    """It is that of the tokens before the first fault, and at most those that are wanted."""
    edges = [0, *itertools.accumulate(sizes)]
    rows = parse(some_state(layout, edges[-1]))[1]
    segments = [KvSegment(a, b - a, encode(layout, rows.cut(layout, a, b))) for a, b in itertools.pairwise(edges)]
    n_sound = edges[-1]
    if bad is not None and bad[0] < len(segments):
        at, how = bad
        n_sound, broken = edges[at], segments[at]
        segments[at] = {
            "bytes": replace(broken, rows=bytes(broken.rows)[:-1]),
            "gap": replace(broken, first=broken.first + 1),
            "missing": replace(broken, rows=b""),
            "count": replace(broken, count=broken.count + 1),
        }[how]
    n_max = max(edges[-1] - n_cut, 0)
    if bad is not None and bad[1] == "count" and n_max <= n_sound + sizes[min(bad[0], len(sizes) - 1)]:
        n_max = n_sound  # a count too high does not matter where less is wanted
    n, state = state_of(layout, segments, n_max, 2)
    assert n == min(n_sound, n_max)
    assert state.tobytes() == (merge(layout, [rows.cut(layout, 0, n)], 2).tobytes() if n else b"")


@pytest.mark.parametrize("layout", LAYOUTS)
@settings(max_examples=300)
@given(data=st.data())
def test_damage_is_one_kind_of_error(layout: Layout, data: st.DataObject) -> None:
    """Whatever is done to the bytes, the answer is rows or a KvRowsError."""
    blob = some_state(layout, 5).tobytes()
    stored = encode(layout, parse(np.frombuffer(blob, np.uint8))[1])
    for original in (blob, stored):
        damaged = bytearray(original[: data.draw(st.integers(0, len(original)))])
        for at, value in data.draw(st.lists(st.tuples(st.integers(0, 150), st.integers(0, 255)), max_size=4)):
            if at < len(damaged):
                damaged[at] = value
        try:
            if original is blob:
                parse(np.frombuffer(bytes(damaged), np.uint8))
            else:
                rows = decode(layout, bytes(damaged))
                rows.cut(layout, 0, 2)
                merge(layout, [rows], 2)
        except KvRowsError:
            continue


@given(st.binary(max_size=400))
def test_any_bytes(data: bytes) -> None:
    for attempt in (lambda: parse(np.frombuffer(data, np.uint8)), lambda: decode(LAYOUTS[0], data)):
        with pytest.raises(KvRowsError):
            attempt()


def test_what_does_not_fit() -> None:
    layout, other = LAYOUTS[:2]
    rows = parse(some_state(layout, 4))[1]
    with pytest.raises(KvRowsError, match="another layout"):
        decode(other, encode(layout, rows))
    with pytest.raises(KvRowsError, match="expected 0"):
        merge(layout, [rows.cut(layout, 1, 3)], 1)
    with pytest.raises(KvRowsError, match="no rows"):
        merge(layout, [], 1)
    for start, stop in ((-1, 2), (3, 2), (0, 5)):
        with pytest.raises(KvRowsError):
            rows.cut(layout, start, stop)
    assert len({each.digest for each in LAYOUTS}) == len(LAYOUTS)
