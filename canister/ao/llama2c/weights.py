"""Weights in pieces of a bounded size: read from a model.bin or a GGUF, and the two ways to store them as int8.

Nothing here holds a whole tensor. Every number that is read is finite, or the file is refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from canister.ao.llama2c.layout import Llama2cError, Place
from canister.model_file.gguf import GgufFile, TensorInfo

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

PIECE_ELEMENTS = 1 << 22
BLOCK = 32  # numbers that share a scale in q8_0
_LARGEST = 127
_BF16_BITS = 16


def of_bin(file: BinaryIO, place: Place) -> Iterator[Floats]:
    """A tensor of a model.bin as whole rows."""
    if not place.group:
        for start, n in _cuts(place.n_elements, place.columns):
            yield _finite(np.frombuffer(_read(file, place.at + 4 * start, 4 * n), "<f4"), place.name)
        return
    for numbers, scales in groups_of_bin(file, place):
        yield (numbers.reshape(-1, place.group) * scales[:, None]).reshape(-1)


def groups_of_bin(file: BinaryIO, place: Place) -> Iterator[tuple[NDArray[np.int8], Floats]]:
    """A tensor of version 2 as it is stored: whole rows of int8, and the scale of each group."""
    for start, n in _cuts(place.n_elements, math.lcm(place.columns, place.group)):
        numbers = np.frombuffer(_read(file, place.at + start, n), np.int8)
        at, n_scales = place.scales_at + start // place.group * 4, n // place.group
        yield numbers, _finite(np.frombuffer(_read(file, at, 4 * n_scales), "<f4"), place.name)


def of_gguf(file: BinaryIO, header: GgufFile, tensor: TensorInfo) -> Iterator[Floats]:
    """A tensor of a GGUF as whole rows."""
    kind = tensor.type
    decode = _DECODERS.get(kind.name)
    if decode is None:
        raise Llama2cError(f"its tensor {tensor.name} is stored as {kind.name}; {', '.join(_DECODERS)} can be exported")
    for start, n in _cuts(tensor.n_elements, tensor.shape[0]):
        at = header.data_offset + tensor.offset + start // kind.block_elements * kind.block_bytes
        data = _read(file, at, n // kind.block_elements * kind.block_bytes)
        yield _finite(decode(data), tensor.name)


def to_q8_0(rows: Floats) -> bytes:
    """As GGUF's q8_0: each 32 numbers one scale as f16, then the int8. Rows must be whole blocks."""
    numbers, scales = _quantized(rows, BLOCK)
    return pack_q8_0(numbers, scales)


def pack_q8_0(numbers: NDArray[np.int8], scales: Floats) -> bytes:
    """numbers: in blocks of 32, or of a multiple of that; scales: one a block."""
    halves = np.repeat(scales, numbers.size // scales.size // BLOCK).astype(np.float32)
    with np.errstate(over="ignore"):
        packed = halves.astype("<f2")
    if not np.isfinite(packed).all():
        raise Llama2cError("its weights are too large for q8_0; convert it with --type f32")
    blocks = np.concatenate([packed[:, None].view(np.uint8), numbers.reshape(-1, BLOCK).view(np.uint8)], axis=1)
    return blocks.tobytes()


def to_groups(rows: Floats, group: int) -> tuple[bytes, bytes]:
    """As version 2 of llama2.c: all int8, and the scales of their groups as f32."""
    numbers, scales = _quantized(rows, group)
    return numbers.tobytes(), scales.astype("<f4").tobytes()


def _quantized(rows: Floats, group: int) -> tuple[NDArray[np.int8], Floats]:
    grouped = rows.reshape(-1, group)
    scales = np.abs(grouped).max(axis=1) / np.float32(_LARGEST)
    safe = np.where(scales == 0, np.float32(1), scales)
    return np.rint(grouped / safe[:, None]).clip(-_LARGEST, _LARGEST).astype(np.int8), scales


def _cuts(n_elements: int, unit: int) -> Iterator[tuple[int, int]]:
    """Start and length of pieces that are whole units, all but the last of one size."""
    step = max(1, PIECE_ELEMENTS // unit) * unit
    for start in range(0, n_elements, step):
        yield start, min(step, n_elements - start)


def _read(file: BinaryIO, at: int, n_bytes: int) -> bytes:
    file.seek(at)
    data = file.read(n_bytes)
    if len(data) != n_bytes:
        raise Llama2cError("the file became shorter while it was read")
    return data


def _finite(numbers: Floats, name: str) -> Floats:
    if not np.isfinite(numbers).all():
        raise Llama2cError(f"its tensor {name} has numbers that are not finite: the file is damaged")
    return numbers


def _from_bf16(data: bytes) -> Floats:
    return (np.frombuffer(data, "<u2").astype(np.uint32) << _BF16_BITS).view(np.float32)


def _from_q8_0(data: bytes) -> Floats:
    blocks = np.frombuffer(data, np.uint8).reshape(-1, 2 + BLOCK)
    scales = np.ascontiguousarray(blocks[:, :2]).view("<f2").astype(np.float32)
    return (np.ascontiguousarray(blocks[:, 2:]).view(np.int8) * scales).reshape(-1)


_DECODERS: dict[str, Callable[[bytes], Floats]] = {
    "f32": lambda data: np.frombuffer(data, "<f4"),
    "f16": lambda data: np.frombuffer(data, "<f2").astype(np.float32),
    "bf16": _from_bf16,
    "q8_0": _from_q8_0,
}
