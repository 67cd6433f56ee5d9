"""What stands where in a model.bin of llama2.c, versions 0, 1 and 2. No I/O here.

    0   7 numbers, then all as f32; the vocabulary's sign tells whether the output is a matrix of its own
    1   from byte 256 on: f32, the norms first
    2   the norms as f32, then each matrix as int8, followed by one f32 scale a group of its numbers

Every size follows from the shape, so that a file is checked before a weight is read.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from canister.errors import BadRequest

MAGIC = 0x616B3432  # "ak42"
VERSIONS = (0, 1, 2)
HEADER_BYTES = 256  # of versions 1 and 2
DEFAULT_GROUP = 64
EMBEDDING, OUTPUT, OUTPUT_NORM = "token_embd.weight", "output.weight", "output_norm.weight"
ATTENTION = ("attn_q", "attn_k", "attn_v", "attn_output")
FEED_FORWARD = ("ffn_gate", "ffn_down", "ffn_up")
_NUMBERS = struct.Struct("<7i")
_LIMITS = {"width": 1 << 16, "feed_forward": 1 << 20, "layers": 1024, "heads": 1024, "context": 1 << 20}
_MAX_VOCABULARY = 1 << 21


class Llama2cError(BadRequest):
    """Not a file of llama2.c, damaged, cut off, or a model that such a file cannot hold. The message says what."""


@dataclass(frozen=True, slots=True)
class Shape:
    """width: of an embedding. context: the longest, in tokens. shares_output: the embeddings are the output matrix."""

    width: int
    feed_forward: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int
    context: int
    shares_output: bool

    def __post_init__(self) -> None:
        for name, limit in _LIMITS.items():
            if not 0 < getattr(self, name) <= limit:
                raise Llama2cError(f"the model's {name} is {getattr(self, name)}; it must be from 1 to {limit}")
        if not 0 < self.vocabulary <= _MAX_VOCABULARY:
            raise Llama2cError(f"the vocabulary has {self.vocabulary} tokens; it must have 1 to {_MAX_VOCABULARY}")
        if not 0 < self.kv_heads <= self.heads or self.heads % self.kv_heads:
            raise Llama2cError(f"{self.heads} heads cannot share {self.kv_heads} heads of keys and values")
        if self.width % self.heads or self.width // self.heads % 2:
            raise Llama2cError(f"a width of {self.width} cannot be cut into {self.heads} heads of an even size")

    @property
    def head_size(self) -> int:
        return self.width // self.heads

    def of(self, name: str) -> tuple[int, ...]:
        """Rows and columns of a tensor, or the length of a norm; by its name in GGUF."""
        kv_width = self.kv_heads * self.head_size
        part = name.split(".")[-2]
        if part.endswith("norm"):
            return (self.width,)
        rows, columns = {
            "token_embd": (self.vocabulary, self.width),
            "output": (self.vocabulary, self.width),
            "attn_q": (self.width, self.width),
            "attn_k": (kv_width, self.width),
            "attn_v": (kv_width, self.width),
            "attn_output": (self.width, self.width),
            "ffn_gate": (self.feed_forward, self.width),
            "ffn_down": (self.width, self.feed_forward),
            "ffn_up": (self.feed_forward, self.width),
        }[part]
        return rows, columns

    def names(self) -> Iterator[str]:
        """All tensors, in the order in which a GGUF has them."""
        yield EMBEDDING
        for i in range(self.layers):
            for part in ("attn_norm", *ATTENTION, "ffn_norm", *FEED_FORWARD):
                yield f"blk.{i}.{part}.weight"
        yield OUTPUT_NORM
        if not self.shares_output:
            yield OUTPUT


@dataclass(frozen=True, slots=True)
class Place:
    """A tensor in the file. group: how many int8 have one scale; 0 where all is f32. scales_at: where those are."""

    name: str
    rows: int
    columns: int
    at: int
    group: int = 0
    scales_at: int = 0

    @property
    def n_elements(self) -> int:
        return self.rows * self.columns


@dataclass(frozen=True, slots=True)
class Layout:
    """places: by name, as they follow each other. tables_at: of a version 0, where its cosines and sines are."""

    version: int
    shape: Shape
    group: int
    places: dict[str, Place]
    n_bytes: int
    tables_at: int = 0


def read_header(head: bytes) -> Layout:
    """What the first 256 bytes of a file say, or all of a shorter one."""
    if len(head) < _NUMBERS.size:
        raise Llama2cError(f"it has {len(head)} bytes, and the header of a model of llama2.c has {_NUMBERS.size}")
    if int.from_bytes(head[:4], "little") != MAGIC:
        numbers = _NUMBERS.unpack_from(head)
        own_output = numbers[5] < 0
        return layout_of(0, _shape((*numbers[:5], abs(numbers[5]), numbers[6]), shares_output=not own_output))
    if len(head) < HEADER_BYTES:
        raise Llama2cError(f"it has {len(head)} bytes, and its header has {HEADER_BYTES}")
    version = int.from_bytes(head[4:8], "little", signed=True)
    shared, group = struct.unpack_from("<Bi", head, 36)
    if version not in (1, 2):
        raise Llama2cError(f"its version is {version}; versions 0, 1 and 2 are known")
    shape = _shape(_NUMBERS.unpack_from(head, 8), shares_output=bool(shared))
    return layout_of(version, shape, group if version == 2 else 0)


def write_header(layout: Layout) -> bytes:
    shape = layout.shape
    numbers = (shape.width, shape.feed_forward, shape.layers, shape.heads, shape.kv_heads)
    if layout.version == 0:
        vocabulary = shape.vocabulary if shape.shares_output else -shape.vocabulary
        return _NUMBERS.pack(*numbers, vocabulary, shape.context)
    head = struct.pack("<Ii7iB", MAGIC, layout.version, *numbers, shape.vocabulary, shape.context, shape.shares_output)
    if layout.version == 2:
        head += struct.pack("<i", layout.group)
    return head.ljust(HEADER_BYTES, b"\0")


def layout_of(version: int, shape: Shape, group: int = 0) -> Layout:
    """group: of version 2, how many numbers have one scale; it must divide the width and every matrix."""
    if version == 2 and (group < 1 or shape.width % group):
        raise Llama2cError(f"its group size is {group}, which does not divide the width {shape.width}")
    places: dict[str, Place] = {}
    at = _NUMBERS.size if version == 0 else HEADER_BYTES
    tables_at = 0
    for name in _order(version, shape):
        if name == "tables":
            tables_at = at
            at += shape.context * shape.head_size * 4
            continue
        sizes = shape.of(name)
        place = Place(name, sizes[0] if len(sizes) == 2 else 1, sizes[-1], at)
        if version == 2 and len(sizes) == 2:
            if place.n_elements % group:
                raise Llama2cError(f"its tensor {name} of {place.n_elements} numbers has no whole groups of {group}")
            place = Place(name, place.rows, place.columns, at, group, at + place.n_elements)
            at += place.n_elements + place.n_elements // group * 4
        else:
            at += place.n_elements * 4
        places[name] = place
    return Layout(version, shape, group, places, at, tables_at)


def _shape(numbers: Sequence[int], *, shares_output: bool) -> Shape:
    width, feed_forward, layers, heads, kv_heads, vocabulary, context = numbers
    return Shape(width, feed_forward, layers, heads, kv_heads, vocabulary, context, shares_output)


def _order(version: int, shape: Shape) -> Iterator[str]:
    def layers(*parts: str) -> Iterator[str]:
        return (f"blk.{i}.{part}.weight" for part in parts for i in range(shape.layers))

    if version == 0:
        yield EMBEDDING
        yield from layers("attn_norm", *ATTENTION, "ffn_norm", *FEED_FORWARD)
        yield OUTPUT_NORM
        yield "tables"
    else:
        yield from layers("attn_norm", "ffn_norm")
        yield OUTPUT_NORM
        yield EMBEDDING
        yield from layers(*ATTENTION, *FEED_FORWARD)
    if not shape.shares_output:
        yield OUTPUT
