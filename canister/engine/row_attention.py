"""Gives tokens of one stream that are decoded at once the attention of tokens that are decoded one by one.

Kernels for a product with one row and with several differ in the last bits, and the queries of a stream are the rows of
its attention. ggml takes rows one by one where each is a batch of its own. llama.cpp tells a callback of each operation
of a decode before and after it. Before the products of queries with keys, and of weights with values, the rows of their
operands become batches here; afterwards the result has the shape that the rest of the decode expects. The data stay
where they are.

Fields of tensors are public (ggml.h). The callback is public too, but is set when a context is made, and asking Python
about each operation costs a small model more than the decode. So it is found in the context object by its value, and is
there only while it is needed. Where it is not found, or shapes are others, nothing is changed: `load/calibration.py`
measures what comes out.
"""

from __future__ import annotations

import ctypes
import os
import sys
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

EvalCallback = ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_void_p, ctypes.c_bool, ctypes.c_void_p)
TENSOR_BYTES = 336

_OBJECT_BYTES = 1024  # of the context object; its parameters stand in the first third
# struct ggml_tensor in words of 8 bytes: type, buffer, ne[4], nb[4], op with op_params and flags, src[10], view_src,
# view_offs, data, name[8], …
_WORDS = TENSOR_BYTES // 8
_SHAPE = slice(2, 10)
_SRC0, _SRC1 = 19, 20
_OP_AT, _NAME_AT = 80, 256  # bytes
_PRODUCTS = (b"kq-", b"kqv-")  # as llama.cpp names them, with the number of the layer

Words = NDArray[np.int64]


class RowAttention:
    """Of one context, while it is entered. mul_mat: ggml's number of the operation. n_changed: products since then.
    n_usual: of a decode, as far as any has come.
    """

    def __init__(self, mul_mat: int) -> None:
        self.callback = EvalCallback(self._on_operation)
        self._marker = ctypes.create_string_buffer(8)  # the callback's user data, at an address of its own
        self.n_changed = self.n_usual = 0
        self._mul_mat = mul_mat
        self._is_on = False
        self._place: Any = None  # callback and user data in the context
        self._kept: tuple[Words, Words, Words, Words] | None = None  # of the product that is being computed

    @property
    def address(self) -> int:
        """Of the callback."""
        return int(ctypes.cast(self.callback, ctypes.c_void_p).value or 0)

    @property
    def user_data(self) -> int:
        return ctypes.addressof(self._marker)

    def find(self, context: int) -> bool:
        """Find the callback in a context that was made with it, and take it out. context: its address."""
        wanted = [self.address, self.user_data]
        try:
            with open("/proc/self/mem", "rb", buffering=0) as memory:
                words = np.frombuffer(os.pread(memory.fileno(), _OBJECT_BYTES, context), np.uint64)
        except (OSError, OverflowError, ValueError):
            return False
        places = [at for at in range(len(words) - 1) if words[at : at + 2].tolist() == wanted]
        if len(places) != 1:
            return False
        self._place = (ctypes.c_uint64 * 2).from_address(context + 8 * places[0])
        self._place[:] = [0, 0]
        return True

    def __enter__(self) -> None:
        self._place[:] = [self.address, self.user_data]
        self._is_on, self.n_changed = True, 0

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._place[:] = [0, 0]
        self._is_on = False
        self._restore()  # a decode that was aborted, whose operations may be used again
        self.n_usual = max(self.n_usual, self.n_changed)

    def _on_operation(self, tensor: int, is_before: bool, _: object) -> bool:
        """Before an operation: does it want to see the result? After it: may the decode go on?"""
        if not self._is_on:
            return False
        if not is_before:
            self._restore()
            return True
        name = ctypes.string_at(tensor + _NAME_AT, 4)
        if not name.startswith(_PRODUCTS) or ctypes.c_int32.from_address(tensor + _OP_AT).value != self._mul_mat:
            return False
        return self._change(tensor)

    def _change(self, tensor: int) -> bool:
        result = _words(tensor)
        shape, sources = result[_SHAPE], result[_SRC0 : _SRC1 + 1]
        cells, rows = (np.array(_words(int(source))) for source in sources)  # copies, which other operations do not see
        if shape[1] < 2 or not shape[3] == cells[_SHAPE][3] == rows[_SHAPE][3] == 1:
            return False
        self._kept = shape, np.array(shape), sources, np.array(sources)
        _make_batches(shape)
        _make_batches(rows[_SHAPE])
        of_cells = cells[_SHAPE]
        of_cells[2:4] = 1, of_cells[2]
        of_cells[7] = of_cells[6]
        self._operands = cells, rows
        sources[:] = cells.ctypes.data, rows.ctypes.data
        self.n_changed += 1
        return True

    def _restore(self) -> None:
        if self._kept is not None:
            shape, old_shape, sources, old_sources = self._kept
            shape[:], sources[:] = old_shape, old_sources
            self._kept = None


def can_change(tensor_bytes: int) -> bool:
    """Are tensors of this size those that are known here?"""
    return sys.platform == "linux" and sys.byteorder == "little" and tensor_bytes == TENSOR_BYTES


def _make_batches(shape: Words) -> None:
    """[n, rows, heads, 1] becomes [n, 1, rows, heads]. shape: elements, then strides in bytes."""
    _, n_rows, n_heads, _, _, row_bytes, head_bytes, _ = shape.tolist()
    shape[1:4] = 1, n_rows, n_heads
    shape[5:8] = row_bytes, row_bytes, head_bytes


def _words(tensor: int) -> Words:
    return np.frombuffer(memoryview((ctypes.c_int64 * _WORDS).from_address(tensor)), np.int64)
