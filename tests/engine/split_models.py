"""Split models for tests: a whole GGUF file cut into parts as llama.cpp's gguf-split cuts it."""

from __future__ import annotations

import struct
from pathlib import Path

from canister.model_file.gguf import TensorInfo, _Header, _value, _version, read_gguf
from tests.engine.gguf_writer import string

_U16, _I32 = 2, 5


def split(model: Path, n_parts: int, folder: Path, prefix: str = "split") -> list[Path]:
    """The parts of a model, the first with all metadata, each with its share of the tensors."""
    header = read_gguf(model)
    tensors = header.tensors
    share = -(-len(tensors) // n_parts)
    paths = []
    for i in range(n_parts):
        own = tensors[i * share : (i + 1) * share]
        keys = [
            string("split.no") + struct.pack("<IH", _U16, i),
            string("split.count") + struct.pack("<IH", _U16, n_parts),
            string("split.tensors.count") + struct.pack("<Ii", _I32, len(tensors)),
        ]
        n_keys, metadata = _metadata(model) if i == 0 else (0, b"")
        path = folder / f"{prefix}-{i + 1:05}-of-{n_parts:05}.gguf"
        path.write_bytes(_part(model, n_keys + len(keys), metadata + b"".join(keys), own, header.data_offset))
        paths.append(path)
    return paths


def _metadata(model: Path) -> tuple[int, bytes]:
    """How many keys a file has, and their bytes."""
    with model.open("rb", buffering=0) as file:
        header = _Header(file, model.stat().st_size)
        _version(header)
        _, n_keys = header.u64(), header.u64()
        first = header.at
        for _ in range(n_keys):
            _value(header, header.string().decode(), full=False)
        return n_keys, bytes(header.data[first : header.at])


def _part(model: Path, n_keys: int, metadata: bytes, tensors: tuple[TensorInfo, ...], data_offset: int) -> bytes:
    out = bytearray(b"GGUF" + struct.pack("<IQQ", 3, len(tensors), n_keys) + metadata)
    data = bytearray()
    with model.open("rb") as file:
        for tensor in tensors:
            out += string(tensor.name) + struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *tensor.shape)
            out += struct.pack("<IQ", tensor.type.id, len(data))
            file.seek(data_offset + tensor.offset)
            data += file.read(tensor.n_bytes).ljust(-(-tensor.n_bytes // 32) * 32, b"\0")
    return bytes(out.ljust(-(-len(out) // 32) * 32, b"\0") + data)
