"""KV rows of single tokens: cut out of a sequence state of llama.cpp, stored, and put together to a state again.

`llama_state_seq_get_data` of a plain attention cache (llama-cpp-python 0.3.36) gives, little endian:

    u32 magic 0xAF143CD8 · u32 flags · u32 n_streams
    per stream: u32 n_cells; only the stream in use has cells, and only it continues with
        n_cells × (i32 position, u32 n_seq_ids = 1, i32 0)                      12 bytes each
        u32 v_transposed · u32 n_layers
        per layer K: u32 type · u64 row_bytes · n_cells rows
        per layer V: as K, or, transposed (flash attention off):
            u32 type · u32 element_bytes · u32 n_elements · n_elements × n_cells

Other memories (recurrent, sliding windows in a cache of their own) look different and are refused.
Every fault of every input is a KvRowsError, and nothing else.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from canister.engine.request import KvSegment

Bytes = NDArray[np.uint8]
Take = Callable[[int], Bytes]
"""n → an array of n bytes of any content."""

STATE_MAGIC = 0xAF143CD8
ROWS_MAGIC = b"KVR1"
_HEADER = struct.Struct("<4s16sII")  # magic, digest of the layout, first position, count
_MAX_LAYERS = 4096
_RUN_TOKENS = 512  # of segments that are put together at once


def _fresh(n: int) -> Bytes:
    return np.empty(n, np.uint8)


class KvRowsError(ValueError):
    """Bytes that are not what they should be, or rows that do not fit."""


@dataclass(frozen=True, slots=True)
class Layout:
    """What the rows of one model and context look like. Stored rows fit if their layout is the same."""

    v_transposed: bool
    k: tuple[tuple[int, int], ...]  # per layer: ggml type, bytes per token
    v: tuple[tuple[int, ...], ...]  # per layer: the same, or (type, element bytes, elements) when transposed

    @property
    def bytes_per_token(self) -> int:
        v_bytes = (row[1] * row[2] if self.v_transposed else row[1] for row in self.v)
        return sum(row[1] for row in self.k) + sum(v_bytes)

    @property
    def digest(self) -> bytes:
        """16 bytes that differ when the layout does."""
        return hashlib.sha256(repr((STATE_MAGIC, self.v_transposed, self.k, self.v)).encode()).digest()[:16]


@dataclass(frozen=True, slots=True)
class Rows:
    """KV rows of `count` consecutive tokens, the first at position `first`.

    k, v: per layer uint8 [tokens, row_bytes]; transposed v: [elements, tokens, element_bytes].
    """

    first: int
    count: int
    k: tuple[Bytes, ...]
    v: tuple[Bytes, ...]

    def cut(self, layout: Layout, start: int, stop: int) -> Rows:
        """Views of the rows of positions start…stop."""
        at = slice(start - self.first, stop - self.first)
        if not 0 <= at.start <= at.stop <= self.count:
            raise KvRowsError(f"rows {start}…{stop} of {self.first}…{self.first + self.count}")
        v = tuple(x[:, at] if layout.v_transposed else x[at] for x in self.v)
        return Rows(start, stop - start, tuple(x[at] for x in self.k), v)


class _Reader:
    def __init__(self, data: Bytes) -> None:
        self.data, self.at = data, 0

    def take(self, n: int) -> Bytes:
        if n > len(self.data) - self.at:
            raise KvRowsError(f"the state ends at {len(self.data)}, wanted {n} bytes at {self.at}")
        self.at += n
        return self.data[self.at - n : self.at]

    def u32(self) -> int:
        return int.from_bytes(self.take(4).tobytes(), "little")

    def u64(self) -> int:
        return int.from_bytes(self.take(8).tobytes(), "little")


def parse(blob: Bytes) -> tuple[Layout, Rows]:
    """The one sequence in a state blob; views, nothing is copied."""
    r = _Reader(blob)
    if r.u32() != STATE_MAGIC:
        raise KvRowsError("not a sequence state")
    r.u32()
    found: tuple[Layout, Rows] | None = None
    for _ in range(r.u32()):
        n = r.u32()
        if n == 0:
            continue
        if found is not None:
            raise KvRowsError("more than one stream holds cells")
        found = _parse_stream(r, n)
    if found is None or r.at != len(blob):
        raise KvRowsError("a state without cells, or with bytes left over")
    return found


def _parse_stream(r: _Reader, n: int) -> tuple[Layout, Rows]:
    cells = r.take(12 * n).copy().view("<i4").reshape(n, 3)
    if not (np.array_equal(cells[:, 0], np.arange(n)) and (cells[:, 1] == 1).all()):
        raise KvRowsError("cells out of order, or shared")
    transposed, n_layers = r.u32(), r.u32()
    if transposed > 1 or n_layers > _MAX_LAYERS:
        raise KvRowsError(f"{n_layers} layers, transposed {transposed}")
    k_layout: list[tuple[int, int]] = []
    v_layout: list[tuple[int, ...]] = []
    k: list[Bytes] = []
    v: list[Bytes] = []
    for _ in range(n_layers):
        k_layout.append((r.u32(), r.u64()))
        k.append(r.take(k_layout[-1][1] * n).reshape(n, -1))
    for _ in range(n_layers):
        if transposed:
            kind, element, count = r.u32(), r.u32(), r.u32()
            v_layout.append((kind, element, count))
            v.append(r.take(element * count * n).reshape(count, n, element))
        else:
            v_layout.append((r.u32(), r.u64()))
            v.append(r.take(v_layout[-1][1] * n).reshape(n, -1))
    return Layout(bool(transposed), tuple(k_layout), tuple(v_layout)), Rows(0, n, tuple(k), tuple(v))


def encode(layout: Layout, rows: Rows) -> bytes:
    """Rows as bytes to store: a short header, then K of all layers, then V."""
    header = _HEADER.pack(ROWS_MAGIC, layout.digest, rows.first, rows.count)
    return b"".join([header, *(x.tobytes() for x in rows.k), *(x.tobytes() for x in rows.v)])


def decode(layout: Layout, data: bytes | memoryview) -> Rows:
    """What `encode` made, as views. KvRowsError when it is not that, or of another layout."""
    first, n = _check(layout, data)
    return _rows(layout, first, n, np.frombuffer(data, np.uint8)[None, _HEADER.size :])


def _check(layout: Layout, data: bytes | memoryview) -> tuple[int, int]:
    """First position and count of encoded rows."""
    if len(data) < _HEADER.size:
        raise KvRowsError(f"{len(data)} bytes are no KV rows")
    magic, digest, first, n = _HEADER.unpack_from(data)
    if magic != ROWS_MAGIC or digest != layout.digest:
        raise KvRowsError("no KV rows, or rows of another layout")
    if len(data) != _HEADER.size + n * layout.bytes_per_token:
        raise KvRowsError(f"{len(data)} bytes for the rows of {n} tokens")
    return int(first), int(n)


def _rows(layout: Layout, first: int, n: int, table: Bytes) -> Rows:
    """Rows of pieces of n tokens each, one after the other; table: a line of bytes each. Views if it is one piece."""
    m, at = len(table), 0
    k: list[Bytes] = []
    v: list[Bytes] = []
    for row in layout.k:
        k.append(table[:, at : at + n * row[1]].reshape(m * n, row[1]))
        at += n * row[1]
    for shape in layout.v:
        n_elements = shape[2] if layout.v_transposed else 1
        part = table[:, at : at + n * shape[1] * n_elements]
        at += n * shape[1] * n_elements
        if layout.v_transposed:
            v.append(part.reshape(m, n_elements, n * shape[1]).transpose(1, 0, 2).reshape(n_elements, m * n, shape[1]))
        else:
            v.append(part.reshape(m * n, shape[1]))
    return Rows(first, m * n, tuple(k), tuple(v))


def merge(layout: Layout, pieces: Sequence[Rows], n_streams: int, take: Take = _fresh) -> Bytes:
    """A state of positions 0 and up for a context with n_streams streams; it may be set into any of them."""
    n = 0
    for piece in pieces:
        if piece.first != n:
            raise KvRowsError(f"rows from position {piece.first}, expected {n}")
        n += piece.count
    if n == 0:
        raise KvRowsError("no rows")
    n_head_bytes = 12 * len(layout.k) + 12 * len(layout.v)
    w = _Writer(take(4 * (5 + n_streams) + 12 * n + n_head_bytes + n * layout.bytes_per_token))
    w.u32(STATE_MAGIC, 0, n_streams, n)
    cells = w.take(12 * n).view("<i4").reshape(n, 3)
    cells[:] = (0, 1, 0)
    cells[:, 0] = np.arange(n)
    w.u32(layout.v_transposed, len(layout.k))
    for i, (kind, row) in enumerate(layout.k):
        w.u32(kind)
        w.u64(row)
        np.concatenate([piece.k[i] for piece in pieces], axis=0, out=w.take(n * row).reshape(n, row))
    for i, shape in enumerate(layout.v):
        if layout.v_transposed:
            w.u32(*shape)
            _, element, count = shape
            v = w.take(element * count * n).reshape(count, n, element)
            np.concatenate([piece.v[i] for piece in pieces], axis=1, out=v)
        else:
            w.u32(shape[0])
            w.u64(shape[1])
            _, row = shape
            np.concatenate([piece.v[i] for piece in pieces], axis=0, out=w.take(n * row).reshape(n, row))
    w.u32(*[0] * (n_streams - 1))
    return w.data


def state_of(
    layout: Layout, segments: Iterable[KvSegment], n_max: int, n_streams: int, take: Take = _fresh
) -> tuple[int, Bytes]:
    """A state assembled from stored rows, of at most n_max tokens, and its number of tokens; 0 where the rows are
    unsound.

    take: gives the memory for it.
    """
    pieces: list[Rows] = []
    run: list[KvSegment] = []  # whole segments of the same size take half the time when they are put together at once
    n = 0

    def flush() -> None:
        if run:
            table = np.stack([np.frombuffer(each.rows, np.uint8)[_HEADER.size :] for each in run])
            pieces.append(_rows(layout, run[0].first, run[0].count, table))
            run.clear()

    for segment in segments:
        try:
            first, count = _check(layout, segment.rows)
            used = min(segment.count, n_max - n)
            if (first, segment.first) != (n, n) or not 0 < used <= count:
                break
        except KvRowsError:
            break
        if run and (count != run[0].count or len(run) * count >= _RUN_TOKENS):
            flush()
        if used == count < _RUN_TOKENS:
            run.append(segment)
        else:
            flush()
            pieces.append(decode(layout, segment.rows).cut(layout, n, n + used))
        n += used
    flush()
    return n, merge(layout, pieces, n_streams, take) if n else np.empty(0, np.uint8)


class _Writer:
    def __init__(self, data: Bytes) -> None:
        self.data, self.at = data, 0

    def take(self, n: int) -> Bytes:
        self.at += n
        return self.data[self.at - n : self.at]

    def u32(self, *values: int) -> None:
        self.take(4 * len(values))[:] = np.array(values, "<u4").view(np.uint8)

    def u64(self, value: int) -> None:
        self.take(8)[:] = np.array([value], "<u8").view(np.uint8)
