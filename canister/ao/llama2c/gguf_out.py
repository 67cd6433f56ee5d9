"""The header of a GGUF that is written: metadata and the list of tensors. The weights follow it, each padded."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from canister.model_file.gguf import TYPE_BY_NAME

ALIGNMENT = 32
VERSION = 3
_U32, _I32, _F32, _BOOL, _STRING, _ARRAY = 4, 5, 6, 7, 8, 9

Value = bool | int | float | str | Sequence[str] | Sequence[int] | Sequence[float]


@dataclass(frozen=True, slots=True)
class Tensor:
    """sizes: the longest step first, rows before columns. kind: the name of a type of GGUF."""

    name: str
    sizes: tuple[int, ...]
    kind: str

    @property
    def n_bytes(self) -> int:
        of = TYPE_BY_NAME[self.kind]
        n_elements = 1
        for size in self.sizes:
            n_elements *= size
        return n_elements // of.block_elements * of.block_bytes


def header(metadata: Mapping[str, Value], tensors: Sequence[Tensor]) -> bytes:
    """All before the weights, padded. Whole numbers are u32, or i32 in arrays; others f32."""
    parts = [b"GGUF", struct.pack("<IQQ", VERSION, len(tensors), len(metadata))]
    parts += [_string(key) + _value(value) for key, value in metadata.items()]
    offset = 0
    for tensor in tensors:
        sizes = tensor.sizes[::-1]
        parts.append(_string(tensor.name) + struct.pack(f"<I{len(sizes)}Q", len(sizes), *sizes))
        parts.append(struct.pack("<IQ", TYPE_BY_NAME[tensor.kind].id, offset))
        offset += tensor.n_bytes + padding(tensor.n_bytes)
    whole = b"".join(parts)
    return whole + bytes(padding(len(whole)))


def padding(n_bytes: int) -> int:
    return -n_bytes % ALIGNMENT


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _value(value: Value) -> bytes:
    if isinstance(value, bool):
        return struct.pack("<I?", _BOOL, value)
    if isinstance(value, int):
        return struct.pack("<II", _U32, value)
    if isinstance(value, float):
        return struct.pack("<If", _F32, value)
    if isinstance(value, str):
        return struct.pack("<I", _STRING) + _string(value)
    if value and isinstance(value[0], str):
        return struct.pack("<IIQ", _ARRAY, _STRING, len(value)) + b"".join(_string(str(item)) for item in value)
    kind, code = (_F32, "f") if value and isinstance(value[0], float) else (_I32, "i")
    return struct.pack(f"<IIQ{len(value)}{code}", _ARRAY, kind, len(value), *value)
