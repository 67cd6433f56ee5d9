"""Rows read where they lie are those of llama.cpp's own states, whatever happened to the streams before."""

from __future__ import annotations

import mmap
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from canister.engine.kv import in_place
from canister.engine.kv.in_place import KvMemory, open_kv_memory
from canister.engine.kv.rows import Layout, encode, parse
from canister.engine.llama import Bytes, Context, Logits, Model
from canister.engine.llama_types import ContextParams, DecodeAborted
from canister.engine.pages import LARGE_BYTES, map_large_blocks
from tests.engine.driver import Driver
from tests.engine.memory import may_be_huge, resident_pages, small_pages
from tests.engine.test_batch_invariance import some_prompt

N_STREAMS, N_CELLS = 3, 256
KINDS = [("f16", "f16", False), ("f16", "f16", True), ("q8_0", "q8_0", True), ("q8_0", "f16", False)]

streams = st.integers(0, N_STREAMS - 1)
steps = st.one_of(
    st.tuples(st.just("append"), st.lists(streams, min_size=1, max_size=3, unique=True), st.integers(1, 20)),
    st.tuples(st.just("cut"), streams, st.integers(0, 30)),
    st.tuples(st.just("abort"), st.lists(streams, min_size=1, max_size=3, unique=True), st.integers(1, 20)),
    st.tuples(st.just("dummy"), streams, st.just(1)),
    st.tuples(st.just("clear"), streams, st.just(0)),
    st.tuples(st.just("restore"), streams, streams),
)


@contextmanager
def context_of(
    path: Path, kind: tuple[str, str, bool], n_streams: int = N_STREAMS, n_cells: int = N_CELLS
) -> Iterator[tuple[Context, Layout]]:
    """A context without cells in use, and the layout of its rows."""
    model = Model(path, "m")
    context = Context(model, ContextParams(n_streams, n_cells, 64, 1, *kind), "m")
    context.decode([0] * 2, range(2), range(2), [])
    layout = parse(context.state(0))[0]
    context.clear(0)
    yield context, layout
    context.close()
    del model


class Streams:
    """A context, and how many positions each of its streams holds."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.lengths = [0] * N_STREAMS
        self.n_decoded = 0

    def append(self, streams: list[int], n: int) -> None:
        n = min(n, *(N_CELLS - self.lengths[stream] for stream in streams))
        if n:
            rows = [(stream, self.lengths[stream] + i) for stream in streams for i in range(n)]
            tokens = [(self.n_decoded + 7 * i) % 500 for i in range(len(rows))]
            self.context.decode(*zip(*rows, strict=True), tokens, [])  # type: ignore[misc]
            self.n_decoded += len(rows)
        for stream in streams:
            self.lengths[stream] += n

    def cut(self, stream: int, n: int) -> None:
        n = max(self.lengths[stream] - n, 0)
        assert self.context.remove(stream, n)
        self.lengths[stream] = n

    def abort(self, streams: list[int], n: int) -> None:
        """A decode that is broken off, and what the runner then cuts."""
        lengths = [*self.lengths]
        self.context.abort()
        try:
            self.append(streams, n)
        except DecodeAborted:
            self.lengths = lengths
            for stream in streams:
                assert self.context.remove(stream, lengths[stream])
        self.context.rearm()

    def dummy(self, stream: int, n: int) -> None:
        if self.lengths[stream] < N_CELLS:
            self.append([stream], n)
            self.cut(stream, n)

    def clear(self, stream: int, _: int) -> None:
        self.context.clear(stream)
        self.lengths[stream] = 0

    def restore(self, stream: int, source: int) -> None:
        if self.lengths[source]:
            assert self.context.set_state(stream, self.context.state(source))
            self.lengths[stream] = self.lengths[source]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(map(str, kind)))
def test_rows_where_they_lie_are_those_of_the_state(
    model_path: Callable[[str], Path], kind: tuple[str, str, bool]
) -> None:
    with context_of(model_path("q8_0"), kind) as (context, layout):
        memory = open_kv_memory(context, layout)
        assert memory is not None

        @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
        @given(st.lists(steps, min_size=1, max_size=15), st.integers(0, 1000))
        def check(play: list[tuple[str, int, int]], cut: int) -> None:
            held = Streams(context)
            for stream in range(N_STREAMS):
                held.clear(stream, 0)
            for name, *arguments in play:
                getattr(held, name)(*arguments)
                for stream, n in enumerate(held.lengths):
                    if not n:
                        continue
                    found, rows = parse(context.state(stream))
                    first = cut % n
                    assert (found, rows.count) == (layout, n)
                    expected = encode(layout, rows.cut(layout, first, n))
                    assert encode(layout, memory.rows(stream, first, n)) == expected

        check()


def test_a_decode_that_was_broken_off_leaves_no_gap(model_path: Callable[[str], Path]) -> None:
    """llama.cpp takes streams with a gap between them in turn. Where the first ones are broken off, it took the place
    to go on at in another stream for that of a later one, so that this one's next tokens came to lie further behind.
    """
    with context_of(model_path("q8_0"), KINDS[0]) as (context, layout):
        memory = open_kv_memory(context, layout)
        assert memory is not None
        for lengths in ((0, 0, 0), (0, 0, 5), (7, 0, 40), (40, 0, 7)):
            held = Streams(context)
            for stream, n in enumerate(lengths):
                held.clear(stream, 0)
                held.append([stream], n)
            held.abort([0, 2], 20)
            assert tuple(held.lengths) == lengths
            held.append([0, 2], 15)
            for stream in (0, 2):
                rows = encode(layout, parse(context.state(stream))[1])
                assert encode(layout, memory.rows(stream, 0, held.lengths[stream])) == rows


def test_a_window_is_there_when_a_chat_is_rolled_back_after_a_decode_that_was_broken_off(
    model_path: Callable[[str], Path],
) -> None:
    """Cells that a window has left behind count as free: whoever looks for a place from the first one on takes them."""

    def logits(*, breaks: bool) -> Logits:
        model = Model(model_path("gemma"), "m")
        context = Context(model, ContextParams(N_STREAMS, N_CELLS, 64, 1, *KINDS[0]), "m")
        held = Streams(context)
        held.append([0], 40)
        held.append([0], 20)
        if breaks:
            held.abort([0], 10)
            assert held.lengths[0] == 60
        for _ in range(30):
            held.append([0], 1)
        held.cut(0, 50)
        context.decode([0], [40], [7], [0])
        found = context.logits(0).copy()
        context.close()
        return found

    assert np.array_equal(logits(breaks=True), logits(breaks=False))


@pytest.mark.parametrize("n_streams", [1, 2])
def test_few_streams(model_path: Callable[[str], Path], n_streams: int) -> None:
    with context_of(model_path("q8_0"), KINDS[0], n_streams) as (context, layout):
        memory = open_kv_memory(context, layout)
        assert memory is not None
        assert context.state_bytes(0) == context.state_bytes(n_streams - 1)  # it leaves nothing behind


@pytest.mark.skipif(sys.platform != "linux", reason="other systems keep their pages")
@pytest.mark.parametrize("kind", KINDS[:2], ids=["transposed", "rows"])
def test_cells_take_memory_as_they_are_used(model_path: Callable[[str], Path], kind: tuple[str, str, bool]) -> None:
    n_cells = 8192
    with small_pages(), context_of(model_path("q8_0"), kind, n_cells=n_cells) as (context, layout):
        memory = open_kv_memory(context, layout)
        assert memory is not None
        memory.forget()
        cells = memory.rows(1, 0, n_cells).k

        def resident_bytes() -> int:
            return sum(resident_pages(x) for x in cells) * mmap.PAGESIZE

        n_bytes = sum(x.nbytes for x in cells)
        assert resident_bytes() <= 2 * mmap.PAGESIZE * len(cells)  # the pages at both ends
        for start in range(0, n_cells, 64):
            context.decode([1] * 64, range(start, start + 64), [start % 500] * 64, [])
            if start == n_cells // 2:
                assert 0.4 * n_bytes < resident_bytes() < 0.7 * n_bytes
        assert resident_bytes() >= n_bytes
        assert all(x.any(axis=1).all() for x in cells)


@pytest.mark.skipif(not Path("/sys/kernel/mm/transparent_hugepage").is_dir(), reason="this kernel has no huge pages")
@pytest.mark.parametrize("kind", KINDS[:2], ids=["transposed", "rows"])
def test_large_streams_lie_in_huge_pages(
    model_path: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, kind: tuple[str, str, bool]
) -> None:
    map_large_blocks()  # as loading does: in the heap lie pages of which the system was told before
    n_cells = 8192
    with context_of(model_path("q8_0"), kind, n_cells=n_cells) as (context, layout):
        stream_bytes = n_cells * layout.bytes_per_token
        assert LARGE_BYTES < stream_bytes < in_place.LARGE_STREAM_BYTES
        small = open_kv_memory(context, layout)
        assert small is not None
        small.forget()
        middle = small.rows(1, n_cells // 2, n_cells).k[1].ctypes.data
        assert not may_be_huge(middle)
        monkeypatch.setattr(in_place, "LARGE_STREAM_BYTES", stream_bytes)
        memory = open_kv_memory(context, layout)
        assert memory is not None
        memory.forget()
        assert may_be_huge(middle)
        context.decode([1] * 3, range(3), [300, 301, 302], [])
        assert encode(layout, memory.rows(1, 0, 3)) == encode(layout, parse(context.state(1))[1])


def test_what_does_not_fit_is_not_used(model_path: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    with context_of(model_path("q8_0"), KINDS[0]) as (context, layout):
        other = Layout(True, layout.k[:-1], layout.v[:-1])
        wide = Layout(True, tuple((kind, row + 2) for kind, row in layout.k), layout.v)
        assert open_kv_memory(context, None) is None
        assert open_kv_memory(context, other) is None
        assert open_kv_memory(context, wide) is None
        rows = KvMemory.rows

        def shifted(self: KvMemory, stream: int, first: int, stop: int) -> object:
            return rows(self, stream, first + 1, stop + 1)

        monkeypatch.setattr(KvMemory, "rows", shifted)
        assert open_kv_memory(context, layout) is None
        monkeypatch.undo()
        monkeypatch.setattr(Context, "memory_address", property(lambda _: 8))
        assert open_kv_memory(context, layout) is None
        monkeypatch.undo()
        monkeypatch.setattr(in_place, "tensor_bytes", lambda: 344)
        assert open_kv_memory(context, layout) is None


@pytest.mark.parametrize("model", ["q8_0", "gemma", "mamba"])
def test_a_chat_is_the_same_when_rows_are_cut_out_of_states(
    model_path: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    def played(**how: bool) -> tuple[bool, list[int], list[Bytes]]:
        with Driver(model_path(model), n_slots=2, n_ctx=200, **how) as driver:
            chat = driver.chat("k")
            driver.run(chat.answer(some_prompt(3), 20, [3, 9, 1]))
            rows = [np.frombuffer(segment.rows, np.uint8) for segment in chat.segments]
            return driver.engine._core.runner.reads_rows, chat.sampled, rows

    reads, sampled, rows = played()
    assert reads == (model == "q8_0")

    def check(found: tuple[bool, list[int], list[Bytes]]) -> None:
        assert found[:2] == (False, sampled)
        assert all(map(np.array_equal, rows, found[2]))

    check(played(reads_in_place=False))
    monkeypatch.setattr(in_place, "is_host_buffer", lambda _: False)  # as where a device has them
    check(played())
    monkeypatch.undo()
    monkeypatch.setattr(in_place, "tensor_bytes", lambda: 344)
    check(played())
