"""From a GGUF of the llama architecture to model.bin and tokenizer.bin of llama2.c, where those can hold the model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from canister.ao.llama2c import weights
from canister.ao.llama2c.convert import NORM_EPSILON, ROPE_BASE, naming, refuse_same
from canister.ao.llama2c.layout import (
    DEFAULT_GROUP,
    OUTPUT,
    VERSIONS,
    Layout,
    Llama2cError,
    Shape,
    layout_of,
    write_header,
)
from canister.ao.llama2c.vocabulary import write_tokenizer
from canister.model_file.gguf import GgufError, GgufFile, TensorInfo, read_gguf
from canister.system import atomic_file

_TOKENS, _SCORES = "tokenizer.ggml.tokens", "tokenizer.ggml.scores"
_SPECIAL_IDS = {"unknown": 0, "bos": 1, "eos": 2}


def export(source: Path, model: Path, tokenizer: Path, version: int = 0, group: int = DEFAULT_GROUP) -> Layout:
    """Write both files; returns what the model's says. group: of version 2, halved until it divides the width.

    Raises Llama2cError, which names the GGUF, and OSError. Neither file is then left, or both are as before.
    """
    if version not in VERSIONS:
        raise Llama2cError(f"there is no version {version} of llama2.c's files; the versions are 0, 1 and 2")
    refuse_same(model, source)
    refuse_same(tokenizer, source)
    if model.resolve() == tokenizer.resolve():
        raise Llama2cError(f"{model} cannot be both files; give the tokenizer another name")
    with naming(source), source.open("rb", buffering=0) as file:
        try:
            header = read_gguf(source, keep=(_TOKENS, _SCORES))
        except GgufError as error:
            raise Llama2cError(str(error)) from None
        tensors = {tensor.name: tensor for tensor in header.tensors}
        shape = _shape(header, shares_output=OUTPUT not in tensors)
        words = write_tokenizer(*_vocabulary(header, shape.vocabulary))
        _check_tensors(tensors, shape)
        layout = layout_of(version, shape, _whole_group(group, shape) if version == 2 else 0)
        with atomic_file.writing(tokenizer) as beside, atomic_file.writing(model) as target:
            beside.write(words)
            target.write(write_header(layout))
            for name, place in layout.places.items():
                _write_tables(target, layout)
                _write(target, file, header, tensors[name], place.group)
            _write_tables(target, layout)
    return layout


def _shape(header: GgufFile, *, shares_output: bool) -> Shape:
    if header.architecture != "llama":
        raise Llama2cError(f"its architecture is {header.architecture[:40]!r}; llama2.c has llama alone")
    expected: dict[str, float] = {"attention.layer_norm_rms_epsilon": NORM_EPSILON, "rope.freq_base": ROPE_BASE}
    for key, wanted in expected.items():
        found = header.metadata.get(f"llama.{key}", wanted)
        if not isinstance(found, int | float) or not math.isclose(found, wanted, rel_tol=1e-6):
            raise Llama2cError(f"its {key} is {found!r}; llama2.c computes with {wanted:g}")
    if any(key.startswith("llama.rope.scaling") for key in header.metadata) or header.integer("llama.expert_count"):
        raise Llama2cError("it scales its positions or has experts, which llama2.c does not")
    heads = _number(header, "llama.attention.head_count")
    kv_heads = header.integer("llama.attention.head_count_kv")
    shape = Shape(
        width=_number(header, "llama.embedding_length"),
        feed_forward=_number(header, "llama.feed_forward_length"),
        layers=_number(header, "llama.block_count"),
        heads=heads,
        kv_heads=heads if kv_heads is None else kv_heads,
        vocabulary=header.count(_TOKENS),
        context=_number(header, "llama.context_length"),
        shares_output=shares_output,
    )
    for key in ("rope.dimension_count", "attention.key_length", "attention.value_length"):
        size = header.integer(f"llama.{key}")
        if size not in (None, shape.head_size):
            raise Llama2cError(f"its {key} is {size}; llama2.c has that of a head, {shape.head_size}")
    return shape


def _number(header: GgufFile, key: str) -> int:
    found = header.integer(key)
    if found is None:
        raise Llama2cError(f"its header has no number {key}")
    return found


def _vocabulary(header: GgufFile, n_tokens: int) -> tuple[Sequence[str], Sequence[float]]:
    kind = header.text("tokenizer.ggml.model")
    if kind != "llama":
        raise Llama2cError(f"its tokenizer is {kind!r}; llama2.c has SentencePiece's alone, which GGUF calls 'llama'")
    for name, wanted in _SPECIAL_IDS.items():
        found = header.integer(f"tokenizer.ggml.{name}_token_id")
        if found not in (None, wanted):
            raise Llama2cError(f"its {name} token is {found}; in llama2.c it is {wanted}")
    texts, scores = header.metadata[_TOKENS], header.metadata.get(_SCORES)
    if not isinstance(texts, tuple) or not isinstance(scores, tuple) or len(scores) != n_tokens:
        raise Llama2cError("its vocabulary has no score for each token")
    return [str(text) for text in texts], [float(score) for score in scores]


def _check_tensors(tensors: dict[str, TensorInfo], shape: Shape) -> None:
    wanted = set(shape.names())
    missing, more = sorted(wanted - tensors.keys()), sorted(tensors.keys() - wanted)
    if missing:
        raise Llama2cError(f"it has no tensor {missing[0]}")
    if more:
        raise Llama2cError(f"it has the tensor {more[0]}, for which a file of llama2.c has no place")
    for name in wanted:
        if tensors[name].shape != shape.of(name)[::-1]:
            sizes = " x ".join(map(str, shape.of(name)))
            raise Llama2cError(f"its tensor {name} has the shape {tensors[name].shape}; the header says {sizes}")


def _whole_group(group: int, shape: Shape) -> int:
    """As llama2.c's own exporter finds it."""
    if group < 1:
        raise Llama2cError(f"a group of {group} numbers has no scale; give 1 or more")
    while shape.width % group:  # every matrix has one side of this length
        group //= 2
    return group


def _write(target: BinaryIO, file: BinaryIO, header: GgufFile, tensor: TensorInfo, group: int) -> None:
    if not group:
        for piece in weights.of_gguf(file, header, tensor):
            target.write(piece.astype("<f4", copy=False).tobytes())
        return
    left = np.empty(0, np.float32)  # groups need not end where rows do
    scales: list[bytes] = []
    for piece in weights.of_gguf(file, header, tensor):
        rows = np.concatenate([left, piece])
        whole = rows.size // group * group
        numbers, of_groups = weights.to_groups(rows[:whole], group)
        target.write(numbers)
        scales.append(of_groups)
        left = rows[whole:]
    target.write(b"".join(scales))


def _write_tables(target: BinaryIO, layout: Layout) -> None:
    """Where version 0 has them: cosines and sines of each position, which readers skip."""
    if not layout.tables_at or target.tell() != layout.tables_at:
        return
    shape = layout.shape
    turns = ROPE_BASE ** -(np.arange(0, shape.head_size, 2) / shape.head_size)
    for of in (np.cos, np.sin):
        for start in range(0, shape.context, 4096):
            positions = np.arange(start, min(start + 4096, shape.context))
            target.write(of(np.outer(positions, turns)).astype("<f4").tobytes())
