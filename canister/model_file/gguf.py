"""The header of a GGUF model file (versions 2 and 3, little-endian): metadata and tensor list, read without llama.cpp.

The file is hostile. Every count is checked against the rest of the file, MAX_HEADER_BYTES and MAX_ITEMS bound the
header whatever it claims, and long arrays (vocabularies) are counted but not kept unless asked for. Whatever the bytes,
the result is a GgufFile or a GgufError, whose message leaves it to the caller to name the file.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeAlias

from canister.errors import BadRequest

MAX_HEADER_BYTES = 128 * 1024 * 1024
MAX_ITEMS = 8 * 1024 * 1024  # strings, keys and tensors of one header; large vocabularies have some 0.8 M
MAX_SHORT_ARRAY = 1024  # elements; longer arrays are only counted
MAX_TENSOR_NAME_BYTES = 63
MAX_DIMENSIONS = 4
DEFAULT_ALIGNMENT = 32
_CHUNK_BYTES = 1024 * 1024


class GgufError(BadRequest):
    """Not a GGUF file, damaged, or cut off. The message says where."""


@dataclass(frozen=True, slots=True)
class TensorType:
    """How weights are stored: `block_bytes` bytes for each block of `block_elements` elements of one row."""

    id: int
    name: str
    block_elements: int
    block_bytes: int

    @property
    def bits_per_element(self) -> float:
        return 8 * self.block_bytes / self.block_elements


TENSOR_TYPES = tuple(
    TensorType(*row)
    for row in (
        (0, "f32", 1, 4),
        (1, "f16", 1, 2),
        (2, "q4_0", 32, 18),
        (3, "q4_1", 32, 20),
        (6, "q5_0", 32, 22),
        (7, "q5_1", 32, 24),
        (8, "q8_0", 32, 34),
        (9, "q8_1", 32, 36),
        (10, "q2_K", 256, 84),
        (11, "q3_K", 256, 110),
        (12, "q4_K", 256, 144),
        (13, "q5_K", 256, 176),
        (14, "q6_K", 256, 210),
        (15, "q8_K", 256, 292),
        (16, "iq2_xxs", 256, 66),
        (17, "iq2_xs", 256, 74),
        (18, "iq3_xxs", 256, 98),
        (19, "iq1_s", 256, 50),
        (20, "iq4_nl", 32, 18),
        (21, "iq3_s", 256, 110),
        (22, "iq2_s", 256, 82),
        (23, "iq4_xs", 256, 136),
        (24, "i8", 1, 1),
        (25, "i16", 1, 2),
        (26, "i32", 1, 4),
        (27, "i64", 1, 8),
        (28, "f64", 1, 8),
        (29, "iq1_m", 256, 56),
        (30, "bf16", 1, 2),
        (34, "tq1_0", 256, 54),
        (35, "tq2_0", 256, 66),
        (39, "mxfp4", 32, 17),
        (40, "nvfp4", 64, 36),
        (41, "q1_0", 128, 18),
        (42, "q2_0", 64, 18),
    )
)
TYPE_BY_ID = {type_.id: type_ for type_ in TENSOR_TYPES}
TYPE_BY_NAME = {type_.name: type_ for type_ in TENSOR_TYPES}


@dataclass(frozen=True, slots=True)
class LongArray:
    """An array that was skipped: the type and number of its elements."""

    element: str
    count: int


Scalar: TypeAlias = bool | int | float | str
Value: TypeAlias = Scalar | tuple[Scalar, ...] | LongArray


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor. `shape`: fastest dimension (the input length of a matrix) first. `offset`: bytes from data_offset."""

    name: str
    shape: tuple[int, ...]
    type: TensorType
    n_elements: int
    n_bytes: int
    offset: int


@dataclass(frozen=True, slots=True)
class GgufFile:
    """A header. Sizes and offsets are bytes; `size` is that of the whole file."""

    version: int
    metadata: dict[str, Value]
    tensors: tuple[TensorInfo, ...]
    alignment: int
    data_offset: int
    size: int

    @property
    def architecture(self) -> str:
        return self.text("general.architecture") or ""

    def text(self, key: str) -> str | None:
        value = self.metadata.get(key)
        return value if isinstance(value, str) else None

    def integer(self, key: str) -> int | None:
        value = self.metadata.get(key)
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    def integers(self, key: str) -> tuple[int, ...]:
        """A short array of whole numbers or truth values; empty when the key is missing or something else."""
        value = self.metadata.get(key)
        if not isinstance(value, tuple):
            return ()
        return tuple(item for item in value if isinstance(item, int))

    def count(self, key: str) -> int:
        """How many elements the array has; 0 when there is none."""
        value = self.metadata.get(key)
        if isinstance(value, LongArray):
            return value.count
        return len(value) if isinstance(value, tuple) else 0


def read_gguf(source: Path | str | bytes, *, keep: Collection[str] = (), size: int | None = None) -> GgufFile:
    """Read a header from a file, or from bytes. `keep` names long arrays to read in full. Raises GgufError.

    size: of the whole file, where only its beginning is given as bytes.
    """
    if isinstance(source, bytes):
        return _read(io.BytesIO(source), len(source) if size is None else size, keep)
    try:
        with open(source, "rb", buffering=0) as file:
            return _read(file, file.seek(0, io.SEEK_END), keep)
    except OSError as error:
        raise GgufError(f"The file cannot be read: {error.strerror or error}.") from error


_STRING, _ARRAY = 8, 9
_NUMBERS = {
    0: ("u8", "B", 1),
    1: ("i8", "b", 1),
    2: ("u16", "H", 2),
    3: ("i16", "h", 2),
    4: ("u32", "I", 4),
    5: ("i32", "i", 4),
    6: ("f32", "f", 4),
    7: ("bool", "?", 1),
    10: ("u64", "Q", 8),
    11: ("i64", "q", 8),
    12: ("f64", "d", 8),
}
_U32 = struct.Struct("<I").unpack_from
_U64 = struct.Struct("<Q").unpack_from


class _Header:
    """The bytes read so far and the position in them. Grows in chunks, never beyond the file or the limit."""

    def __init__(self, file: BinaryIO | io.RawIOBase, size: int) -> None:
        self.file = file
        self.size = size
        self.data = bytearray()
        self.at = 0
        self.items = 0
        file.seek(0)

    def need(self, n_bytes: int) -> None:
        """Make the next n_bytes available."""
        end = self.at + n_bytes
        if end <= len(self.data):
            return
        if end > self.size:
            raise GgufError(f"The file is cut off: its header needs {end} bytes, the file has {self.size}.")
        if end > MAX_HEADER_BYTES:
            raise GgufError(f"The header is larger than {MAX_HEADER_BYTES} bytes.")
        while len(self.data) < end:
            chunk = self.file.read(max(_CHUNK_BYTES, end - len(self.data)))
            if not chunk:
                raise GgufError(f"The header goes on behind the {len(self.data)} bytes of it that are there.")
            self.data += chunk

    def spend(self, n_items: int) -> None:
        self.items += n_items
        if self.items > MAX_ITEMS:
            raise GgufError(f"The header has more than {MAX_ITEMS} entries.")

    def u32(self) -> int:
        self.need(4)
        (value,) = _U32(self.data, self.at)
        self.at += 4
        return int(value)

    def u64(self) -> int:
        self.need(8)
        (value,) = _U64(self.data, self.at)
        self.at += 8
        return int(value)

    def string(self) -> bytes:
        length = self.u64()
        self.need(length)
        value = bytes(self.data[self.at : self.at + length])
        self.at += length
        return value

    def skip_strings(self, count: int) -> None:
        """Over `count` strings; a loop of its own because vocabularies have hundreds of thousands."""
        data, at = self.data, self.at
        for _ in range(count):
            if at + 8 > len(data):
                self.at = at
                self.need(8)
            at += 8 + _U64(data, at)[0]
        self.at = at
        self.need(0)


def _read(file: BinaryIO | io.RawIOBase, size: int, keep: Collection[str]) -> GgufFile:
    header = _Header(file, size)
    version = _version(header)
    n_tensors, n_keys = header.u64(), header.u64()
    header.spend(n_tensors + n_keys)
    metadata: dict[str, Value] = {}
    for _ in range(n_keys):
        key = _text(header.string())
        if not key or key in metadata:
            raise GgufError(f"The metadata key {key[:80]!r} is empty or there twice.")
        metadata[key] = _value(header, key, full=key in keep)
    alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    if not isinstance(alignment, int) or not 0 < alignment <= 2**31 or alignment & (alignment - 1):
        raise GgufError(f"general.alignment is {alignment!r}; it must be a power of two.")
    tensors: dict[str, TensorInfo] = {}
    end = 0
    for _ in range(n_tensors):
        tensor = _tensor(header, expected_offset=_padded(end, alignment))
        if tensor.name in tensors:
            raise GgufError(f"The tensor {tensor.name!r} is there twice.")
        tensors[tensor.name] = tensor
        end = tensor.offset + tensor.n_bytes
    data_offset = _padded(header.at, alignment)
    if tensors and data_offset + end > size:
        raise GgufError(f"The file is cut off: its tensors need {data_offset + end} bytes, the file has {size}.")
    return GgufFile(version, metadata, tuple(tensors.values()), alignment, data_offset, size)


def _beginning(magic: bytes) -> str:
    """The beginning of a file that is no GGUF, as text where it is text."""
    if not magic:
        return "it has less than 4 bytes"
    text = magic.decode("ascii", "replace")
    shown = f"'{text}'" if text.isascii() and text.isprintable() else f"the bytes {magic.hex(' ')}"
    return f"it begins with {shown}, not with 'GGUF'"


def _version(header: _Header) -> int:
    magic = b""
    if header.size >= 4:
        header.need(4)
        magic = bytes(header.data[:4])
        header.at = 4
    if magic != b"GGUF":
        raise GgufError(f"Not a GGUF file: {_beginning(magic)}.")
    version = header.u32()
    if version and version & 0xFFFF == 0:
        raise GgufError("The GGUF file is big-endian; convert it to little-endian.")
    if version not in (2, 3):
        raise GgufError(f"GGUF version {version} is not supported; versions 2 and 3 are.")
    return version


def _value(header: _Header, key: str, *, full: bool) -> Value:
    kind = header.u32()
    if kind == _STRING:
        return _text(header.string())
    if kind != _ARRAY:
        return _numbers(header, kind, 1, key)[0]
    kind, count = header.u32(), header.u64()
    if kind != _STRING:
        if full or count <= MAX_SHORT_ARRAY:
            return _numbers(header, kind, count, key)
        name, _, width = _number_type(kind, key)
        header.need(count * width)
        header.at += count * width
        return LongArray(name, count)
    header.spend(count)
    if full:
        return tuple(_text(header.string()) for _ in range(count))
    header.skip_strings(count)
    return LongArray("string", count)


def _numbers(header: _Header, kind: int, count: int, key: str) -> tuple[Scalar, ...]:
    _, code, width = _number_type(kind, key)
    header.need(count * width)
    values = struct.unpack_from(f"<{count}{code}", header.data, header.at)
    header.at += count * width
    return values


def _number_type(kind: int, key: str) -> tuple[str, str, int]:
    if kind not in _NUMBERS:
        raise GgufError(f"The metadata key {key[:80]!r} has the unknown type {kind}.")
    return _NUMBERS[kind]


def _tensor(header: _Header, *, expected_offset: int) -> TensorInfo:
    raw = header.string()
    name = _text(raw[:80])
    if len(raw) > MAX_TENSOR_NAME_BYTES:
        raise GgufError(f"The tensor name {name!r} is longer than {MAX_TENSOR_NAME_BYTES} bytes.")
    n_dimensions = header.u32()
    if n_dimensions > MAX_DIMENSIONS:
        raise GgufError(f"The tensor {name!r} has {n_dimensions} dimensions; at most {MAX_DIMENSIONS} are allowed.")
    shape = tuple(header.u64() for _ in range(n_dimensions))
    type_ = TYPE_BY_ID.get(header.u32())
    offset = header.u64()
    if type_ is None:
        raise GgufError(f"The tensor {name!r} has an unknown type.")
    n_elements = 1
    for length in shape:
        n_elements *= length
    if n_elements >= 2**63 or (shape[0] if shape else 1) % type_.block_elements:
        raise GgufError(f"The tensor {name!r} of type {type_.name} cannot have the shape {shape}.")
    if offset != expected_offset:
        raise GgufError(f"The tensor {name!r} is at offset {offset}; it must be at {expected_offset}.")
    n_bytes = n_elements // type_.block_elements * type_.block_bytes
    return TensorInfo(name, shape, type_, n_elements, n_bytes, offset)


def _padded(n_bytes: int, alignment: int) -> int:
    return -(-n_bytes // alignment) * alignment


def _text(data: bytes) -> str:
    return data.decode("utf-8", errors="replace")
