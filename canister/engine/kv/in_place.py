"""Reads KV rows where they lie, as arrays over llama.cpp's own tensors, so that no state need be copied.

llama.cpp hands out whole sequence states only, but the fields of its tensors are public (ggml.h). This module finds
`cache_k_l<layer>` and `cache_v_l<layer>` in its memory object and tests them: rows read here must equal those cut out
of a state, byte for byte. Where anything is unexpected, or a tensor lies in a device's memory, it returns None, and
rows are cut out of states.
"""

from __future__ import annotations

import os
import re
import struct
import sys
from collections.abc import Callable, Iterable, Iterator
from ctypes import c_uint8
from dataclasses import dataclass
from math import prod

import numpy as np

from canister.engine.kv.rows import Bytes, KvRowsError, Layout, Rows, parse
from canister.engine.llama import Context
from canister.engine.llama_build import is_host_buffer, tensor_bytes
from canister.engine.llama_types import EngineFault
from canister.engine.pages import forget, use_huge_pages
from canister.telemetry.logs import get_logger

log = get_logger(__name__)

Peek = Callable[[int, int], bytes]
"""(address, size) → that many bytes of this process; raises OSError where there is no memory."""

_OBJECT_BYTES = 2048  # of the memory object; its layers stand within the first kilobyte
_MAX_LAYERS_BYTES = 1 << 20
# struct ggml_tensor: type, buffer, ne[4], nb[4], op, op_params, flags, src[10], view_src, view_offs, data, name, …
_TENSOR = struct.Struct("<i4xQ4q4Q4x64x4x80x8x8xQ64s")
_TENSOR_BYTES = 336
_WORDS_OF_A_LAYER = 16  # at most, up to its tensors
_NAME_AT = 256
_NAME = re.compile(rb"cache_([kv])_l\d+\0")
_PROBE_TOKENS = 3
# Each token reads all of its stream. In small pages, so many are more than a processor's TLB holds. It then looks up
# everything else anew as well, which costs a call's Python more than the decode.
LARGE_STREAM_BYTES = 32 << 20


@dataclass(frozen=True, slots=True)
class _Tensor:
    """type: ggml's. buffer: the address of its ggml_backend_buffer. ne: elements by dimension. nb: bytes from one to
    the next.
    """

    type: int
    buffer: int
    ne: tuple[int, ...]
    nb: tuple[int, ...]
    data: int


class KvMemory:
    """Rows by stream and position, as views of the context's memory.

    k, v: per layer uint8 [streams, cells, row_bytes]; transposed v: [streams, elements, cells, element_bytes].

    Cells equal positions in a stream that was only appended to, cut at its end, cleared and restored. A context shift
    breaks that, so after one no rows may be read here until the stream was cleared.
    """

    def __init__(self, k: tuple[Bytes, ...], v: tuple[Bytes, ...], v_transposed: bool) -> None:
        self._k, self._v, self._v_transposed = k, v, v_transposed

    def rows(self, stream: int, first: int, stop: int) -> Rows:
        """Views of the rows of positions first…stop; they change with the next decode."""
        at = slice(first, stop)
        k = tuple(x[stream, at] for x in self._k)
        v = tuple(x[stream, :, at] if self._v_transposed else x[stream, at] for x in self._v)
        return Rows(first, stop - first, k, v)

    def forget(self) -> None:
        """Give back the memory of all cells, which comes back as zeros where a row is written. For empty streams only.

        llama.cpp writes zeros into all of it, so even cells that no chat ever reaches would be resident. Large streams
        then lie in huge pages, and take their memory in such pieces.
        """
        arrays = (*self._k, *self._v)
        is_large = sum(x[0].nbytes for x in arrays) >= LARGE_STREAM_BYTES
        for first, stop in _spans(arrays):
            if is_large:
                use_huge_pages(first, stop - first)
            forget(first, stop - first)


def _spans(arrays: Iterable[Bytes]) -> list[tuple[int, int]]:
    """Addresses (first, stop) of arrays; those that follow each other without a gap are one."""
    spans: list[tuple[int, int]] = []
    for first, stop in sorted((x.ctypes.data, x.ctypes.data + x.nbytes) for x in arrays):
        if spans and spans[-1][1] == first:
            spans[-1] = spans[-1][0], stop
        else:
            spans.append((first, stop))
    return spans


def open_kv_memory(context: Context, layout: Layout | None) -> KvMemory | None:
    """The tested KV memory of a context without used cells; None where it cannot be read. On the context's thread.

    The memory object holds a vector of layers with two tensors each. They are searched for through /proc/self/mem,
    where a wrong address is an error and not a crash, and accepted only if names, types and shapes fit the layout.
    """
    if layout is None or sys.platform != "linux" or sys.byteorder != "little" or tensor_bytes() != _TENSOR_BYTES:
        return None
    try:
        with open("/proc/self/mem", "rb", buffering=0) as memory:
            found = _find(context, layout, lambda address, size: os.pread(memory.fileno(), size, address))
        if found is not None and _agrees(context, layout, found):
            return found
        reason = "no tensors that fit the layout" if found is None else "rows differ from those of the state"
    except (OSError, OverflowError, KvRowsError, EngineFault) as error:
        reason = str(error)
    log.info("KV rows are cut out of sequence states", reason=reason)
    return None


def _find(context: Context, layout: Layout, peek: Peek) -> KvMemory | None:
    words = _words(peek(context.memory_address, _OBJECT_BYTES))
    for begin, end, room in zip(words, words[1:], words[2:], strict=False):
        if not (0 < begin < end <= room and end - begin <= _MAX_LAYERS_BYTES and begin % 8 == end % 8 == 0):
            continue
        try:
            tensors = list(_tensors(begin, end, peek))
        except OSError:
            continue
        k = [tensor for kind, tensor in tensors if kind == "k"]
        v = [tensor for kind, tensor in tensors if kind == "v"]
        if len(k) == len(layout.k) and len(v) == len(layout.v):
            buffers = {tensor.buffer for tensor in (*k, *v)}
            if not all(buffer and is_host_buffer(buffer) for buffer in buffers):
                raise KvRowsError("they lie in the memory of a device")
            return _arrays(context, layout, k, v)
    return None


def _words(data: bytes) -> tuple[int, ...]:
    return struct.unpack(f"<{len(data) // 8}Q", data[: len(data) // 8 * 8])


def _tensors(begin: int, end: int, peek: Peek) -> Iterator[tuple[str, _Tensor]]:
    """The K and V tensors that a vector's elements point to, in order. Empty if its first elements point to none."""
    elements = peek(begin, end - begin)
    n_found = 0
    for at, address in enumerate(_words(elements)):
        if at > _WORDS_OF_A_LAYER and not n_found:
            return
        found = _tensor_at(peek, address)
        if found is not None:
            n_found += 1
            yield found


def _tensor_at(peek: Peek, address: int) -> tuple[str, _Tensor] | None:
    if address < 4096 or address % 8 or address >= 1 << 47:
        return None
    try:
        data = peek(address, _NAME_AT + 64)
    except OSError:
        return None
    if len(data) < _TENSOR.size:
        return None
    kind, buffer, *numbers, name = _TENSOR.unpack(data)
    match = _NAME.match(name)
    if match is None:
        return None
    return match[1].decode(), _Tensor(kind, buffer, tuple(numbers[:4]), tuple(numbers[4:8]), numbers[-1])


def _arrays(context: Context, layout: Layout, k: list[_Tensor], v: list[_Tensor]) -> KvMemory | None:
    n_streams, n_cells = context.params.n_streams, context.params.n_cells
    arrays: dict[str, list[Bytes]] = {"k": [], "v": []}
    for kind, tensors, rows in (("k", k, layout.k), ("v", v, layout.v)):
        for tensor, row in zip(tensors, rows, strict=True):
            shape: tuple[int, ...] = (n_streams, n_cells, row[1])
            if kind == "v" and layout.v_transposed:
                shape = (n_streams, row[2], n_cells, row[1])
                if tensor.ne[0] != row[2] or tensor.nb[0] != row[1]:
                    return None
            elif tensor.nb[1] != row[1]:
                return None
            n_bytes = prod(shape)
            if tensor.type != row[0] or tensor.ne[1] != n_cells or tensor.nb[2] * n_streams != n_bytes:
                return None
            if tensor.ne[2:] != (n_streams, 1) or not tensor.data:
                return None
            buffer = (c_uint8 * n_bytes).from_address(tensor.data)
            arrays[kind].append(np.frombuffer(memoryview(buffer), np.uint8).reshape(shape))
    return KvMemory(tuple(arrays["k"]), tuple(arrays["v"]), layout.v_transposed)


def _agrees(context: Context, layout: Layout, memory: KvMemory) -> bool:
    """Decode a little in the first and the last stream, also where cells were used before: are the rows the same?"""
    streams = sorted({0, context.params.n_streams - 1})
    n = _PROBE_TOKENS
    try:
        for stream in streams:
            context.decode([stream] * n, range(n), range(1 + stream, 1 + stream + n), [])
            context.remove(stream, n - 1)
            context.decode([stream] * n, range(n - 1, 2 * n - 1), range(n), [])
        for stream in streams:
            found, expected = parse(context.state(stream))
            rows = memory.rows(stream, 0, expected.count)
            pairs = zip((*expected.k, *expected.v), (*rows.k, *rows.v), strict=True)
            if found != layout or not all(np.array_equal(a, b) for a, b in pairs):
                return False
        return True
    finally:
        for stream in streams:
            context.clear(stream)
