"""Writes GGUF files for tests: any metadata, any tensors, weights all zero and sparse on disk."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from canister.model_file.gguf import TYPE_BY_NAME

Scalar = bool | int | float | str
Plain: TypeAlias = "Scalar | Sequence[Scalar] | array[int]"
Tensor = tuple[str, tuple[int, ...], str]


def write_gguf(
    path: Path,
    metadata: Mapping[str, Plain],
    tensors: Iterable[Tensor] = (),
    *,
    version: int = 3,
    alignment: int = 32,
) -> Path:
    """Whole numbers are written as u32 or i32 where they fit, else as u64 or i64; other numbers as f32."""
    tensors = list(tensors)
    header = header_bytes(metadata, tensors, version=version, alignment=alignment)
    n_data = sum(_padded(n_bytes(shape, name), alignment) for _, shape, name in tensors)
    with path.open("wb") as file:
        file.write(header)
        file.truncate(len(header) + n_data)
    return path


def header_bytes(
    metadata: Mapping[str, Plain], tensors: Iterable[Tensor] = (), *, version: int = 3, alignment: int = 32
) -> bytes:
    """The header, padded to where the weights begin."""
    tensors = list(tensors)
    entries = dict(metadata) if alignment == 32 else {**metadata, "general.alignment": alignment}
    out = bytearray(b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(entries)))
    for key, value in entries.items():
        out += string(key) + _value(value)
    offset = 0
    for name, shape, type_name in tensors:
        out += string(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
        out += struct.pack("<IQ", TYPE_BY_NAME[type_name].id, offset)
        offset += _padded(n_bytes(shape, type_name), alignment)
    return bytes(out.ljust(_padded(len(out), alignment), b"\0"))


def n_bytes(shape: tuple[int, ...], type_name: str) -> int:
    type_ = TYPE_BY_NAME[type_name]
    n_elements = 1
    for length in shape:
        n_elements *= length
    return n_elements // type_.block_elements * type_.block_bytes


def string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _value(value: Plain) -> bytes:
    if isinstance(value, str):
        return struct.pack("<I", 8) + string(value)
    if isinstance(value, array):  # keeps its type, whatever the values
        return struct.pack("<IIQ", 9, _ARRAYS[value.typecode], len(value)) + value.tobytes()
    if isinstance(value, Sequence):
        if value and isinstance(value[0], str):
            return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(string(str(item)) for item in value)
        kind, code = _common_type([item for item in value if not isinstance(item, str)])
        return struct.pack(f"<IIQ{len(value)}{code}", 9, kind, len(value), *value)
    kind, code = _number_type(value)
    return struct.pack(f"<I{code}", kind, value)


_ARRAYS = {"i": 5, "Q": 10}


def _common_type(items: Sequence[bool | int | float]) -> tuple[int, str]:
    """The one type of a whole array."""
    kinds = {_number_type(item) for item in items} or {(5, "i")}
    if len(kinds) == 1:
        return kinds.pop()
    return (11, "q") if all(isinstance(item, int) for item in items) else (6, "f")


def _number_type(value: Scalar) -> tuple[int, str]:
    if isinstance(value, bool):
        return 7, "?"
    if isinstance(value, float):
        return 6, "f"
    assert isinstance(value, int)
    if value < 0:
        return (5, "i") if value >= -(2**31) else (11, "q")
    return (4, "I") if value < 2**32 else (10, "Q")


def _padded(size: int, alignment: int) -> int:
    return -(-size // alignment) * alignment
