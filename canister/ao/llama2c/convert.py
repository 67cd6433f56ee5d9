"""From model.bin and tokenizer.bin of llama2.c to a GGUF that llama.cpp loads.

Weights stay as they are: llama2.c turns neighbouring numbers of a head, as llama.cpp does for this architecture.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from canister.ao.llama2c import weights
from canister.ao.llama2c.gguf_out import ALIGNMENT, Tensor, Value, header, padding
from canister.ao.llama2c.layout import HEADER_BYTES, Layout, Llama2cError, Place, read_header
from canister.ao.llama2c.vocabulary import Vocabulary, read_tokenizer
from canister.system import atomic_file

TYPES = {"f32": 0, "q8_0": 7}  # as GGUF numbers the types of files
MAX_TOKENIZER_BYTES = 256 << 20
NORM_EPSILON = 1e-5  # llama2.c has no other
ROPE_BASE = 10_000.0


def convert(model: Path, tokenizer: Path, out: Path, kind: str = "f32", *, name: str = "") -> Layout:
    """Write the GGUF; returns what the model's file says. kind: f32, or q8_0 for matrices of whole blocks.

    Raises Llama2cError, which names the file, and OSError. Nothing is then left at `out`, or what was there before.
    """
    if kind not in TYPES:
        raise Llama2cError(f"{kind[:40]!r} is no type to convert to; the types are {', '.join(TYPES)}")
    refuse_same(out, model, tokenizer)
    with model.open("rb", buffering=0) as file:
        with naming(model):
            layout = read_header(file.read(HEADER_BYTES))
            check_size(os.fstat(file.fileno()).st_size, layout)
        with naming(tokenizer):
            vocabulary = read_tokenizer(_small(tokenizer), layout.shape.vocabulary)
        names = layout.shape.names()
        tensors = [Tensor(each, layout.shape.of(each), _kind_of(layout.shape.of(each), kind)) for each in names]
        with atomic_file.writing(out) as target, naming(model):
            target.write(header(metadata(layout, vocabulary, kind, name or model.stem), tensors))
            for tensor in tensors:
                for piece in _encoded(file, layout.places[tensor.name], tensor.kind):
                    target.write(piece)
                target.write(bytes(padding(tensor.n_bytes)))
    return layout


def metadata(layout: Layout, vocabulary: Vocabulary, kind: str, name: str) -> dict[str, Value]:
    shape = layout.shape
    told: dict[str, Value] = {
        "general.architecture": "llama",
        "general.name": name,
        "general.file_type": TYPES[kind],
        "general.alignment": ALIGNMENT,
        "llama.context_length": shape.context,
        "llama.embedding_length": shape.width,
        "llama.block_count": shape.layers,
        "llama.feed_forward_length": shape.feed_forward,
        "llama.attention.head_count": shape.heads,
        "llama.attention.head_count_kv": shape.kv_heads,
        "llama.attention.layer_norm_rms_epsilon": NORM_EPSILON,
        "llama.rope.dimension_count": shape.head_size,
        "llama.rope.freq_base": ROPE_BASE,
        "llama.vocab_size": shape.vocabulary,
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": vocabulary.texts,
        "tokenizer.ggml.scores": vocabulary.scores,
        "tokenizer.ggml.token_type": vocabulary.types,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_space_prefix": True,
    }
    return told if kind == "f32" else {**told, "general.quantization_version": 2}


def check_size(n_bytes: int, layout: Layout) -> None:
    if n_bytes < layout.n_bytes:
        raise Llama2cError(f"it is cut off: its shape needs {layout.n_bytes} bytes, the file has {n_bytes}")
    if n_bytes > layout.n_bytes:
        raise Llama2cError(f"it has {n_bytes - layout.n_bytes} bytes more than its shape needs ({layout.n_bytes})")


def refuse_same(out: Path, *sources: Path) -> None:
    for source in sources:
        if out.exists() and source.exists() and out.samefile(source):
            raise Llama2cError(f"{out} would be replaced by what is made of it; give another file to write to")


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Errors say which file they are about."""
    try:
        yield
    except Llama2cError as error:
        raise Llama2cError(f"{path}: {error}") from None


def _small(path: Path) -> bytes:
    n_bytes = path.stat().st_size
    if n_bytes > MAX_TOKENIZER_BYTES:
        raise Llama2cError(f"it has {n_bytes} bytes, too many for a tokenizer of llama2.c")
    return path.read_bytes()


def _kind_of(sizes: tuple[int, ...], kind: str) -> str:
    """Norms stay f32, and so do matrices whose rows are no whole blocks."""
    return "q8_0" if kind == "q8_0" and len(sizes) == 2 and sizes[-1] % weights.BLOCK == 0 else "f32"


def _encoded(file: BinaryIO, place: Place, kind: str) -> Iterator[bytes]:
    if kind == "f32":
        yield from (piece.astype("<f4", copy=False).tobytes() for piece in weights.of_bin(file, place))
    elif place.group and place.group % weights.BLOCK == 0:  # the same int8, without a second rounding
        yield from (weights.pack_q8_0(*piece) for piece in weights.groups_of_bin(file, place))
    else:
        yield from map(weights.to_q8_0, weights.of_bin(file, place))
