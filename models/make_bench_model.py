"""Writes GGUF files in the exact shape of well-known models, with random weights: what a benchmark needs, and no more.

    python -m models.make_bench_model [--shape q05] [--type Q8_0] [--out FILE]

Speed and memory depend on shape and types alone, so everybody can measure with these without fetching a model.
Weights come from a seed, straight as quantized blocks; they are scaled so that activations stay near one. The tokenizer
is a working byte-level BPE with merges of our own: each token beyond the bytes is a space and up to five letters, and
a word is always cut the same way, so text that was generated becomes the same tokens again. Rows of the embedding of
all other tokens (bytes, end of generation, …) are zero: with the tied output they are never the likeliest.
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import string
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType as Type

from models.chatml import SPECIAL_TOKENS, TEMPLATE

SEED = 20_240_601
TITLE = "benchmark model, shape "
SPACE = "Ġ"  # how byte-level BPE writes a space
WORD_LETTERS = 5  # longest word that can be one token
EMBEDDING_STD = 0.02  # small, so that the layers decide the next token, not the last one
QUIET = 0.005  # of the usual weights, in the layers that decide little
STRIPE_ROWS = 8192  # weights that are made at once


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a model. n_text: tokens that are bytes or words; those behind them, up to n_vocab, are special.

    n_loud: layers that decide the next token, while what the others add is small; 0: all. A model of those layers alone
    guesses most of its tokens.
    """

    name: str
    arch: str
    n_layers: int
    width: int
    n_heads: int
    n_kv_heads: int
    feed_forward: int
    n_vocab: int
    n_text: int
    context: int
    rope_base: float
    tokenizer_pre: str
    qkv_bias: bool
    norm_eps: float
    n_loud: int = 0

    @property
    def head_size(self) -> int:
        return self.width // self.n_heads

    @property
    def kv_width(self) -> int:
        return self.n_kv_heads * self.head_size


SHAPES = {
    # Qwen2.5-0.5B-Instruct
    "q05": Shape("q05", "qwen2", 24, 896, 14, 2, 4864, 151_936, 151_643, 32_768, 1e6, "qwen2", True, 1e-6),
    # SmolLM2-135M-Instruct
    "smol": Shape("smol", "llama", 30, 576, 9, 3, 1536, 49_152, 49_149, 8192, 1e5, "smollm", False, 1e-5),
    # The KV rows of q05 and hardly any weights: what a call costs beside its decoding can be seen
    "kv05": Shape("kv05", "qwen2", 24, 128, 2, 2, 256, 4096, 4000, 32_768, 1e6, "qwen2", True, 1e-6),
    # A model of half a gigabyte with a vocabulary like Llama 2's, and one of a seventh of its work that guesses for it
    "deep": Shape("deep", "qwen2", 24, 896, 14, 2, 4864, 32_000, 31_900, 8192, 1e6, "qwen2", True, 1e-6, 2),
    "deep-draft": Shape("deep-draft", "qwen2", 2, 896, 14, 2, 4864, 32_000, 31_900, 8192, 1e6, "qwen2", True, 1e-6),
    # Hardly anything at all: what a call costs beside its decoding, and many chats in little space
    "thin": Shape("thin", "llama", 2, 64, 2, 1, 128, 4096, 4000, 8192, 1e5, "smollm", False, 1e-5),
}

FILE_TYPES = {
    "Q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
    "F16": gguf.LlamaFileType.MOSTLY_F16,
    "Q4_0": gguf.LlamaFileType.MOSTLY_Q4_0,
    "Q4_K_M": gguf.LlamaFileType.MOSTLY_Q4_K_M,
}


@dataclass(frozen=True, slots=True)
class Block:
    """How a quantized block looks: where its scale (f16) stands, and the deviation of random weights at scale 1."""

    scale_at: int
    std: float


def _uniform_std(low: int, high: int) -> float:
    return math.sqrt(((high - low + 1) ** 2 - 1) / 12)


BLOCKS = {
    Type.Q8_0: Block(0, _uniform_std(-128, 127)),
    Type.Q4_0: Block(0, _uniform_std(-8, 7)),
    Type.Q5_0: Block(0, _uniform_std(-16, 15)),
    # Both K types with one sub-scale throughout: 32 of 63, 64 of 127.
    Type.Q4_K: Block(0, 32 * _uniform_std(0, 15)),
    Type.Q6_K: Block(208, 64 * _uniform_std(-32, 31)),
}


# -- tokenizer


def vocabulary(shape: Shape) -> tuple[list[str], list[str], int]:
    """Tokens, merges, and how many of the tokens are bytes. A word grows letter by letter from its space: one way."""
    tokens = list(_byte_symbols().values())
    n_bytes = len(tokens)
    merges: list[str] = []
    for word in itertools.islice(_words(), shape.n_text - n_bytes):
        tokens.append(SPACE + word)
        merges.append(f"{SPACE}{word[:-1]} {word[-1]}")
    n_unused = shape.n_vocab - len(tokens) - len(SPECIAL_TOKENS)
    tokens += [*SPECIAL_TOKENS, *(f"<|unused_{n}|>" for n in range(n_unused))]
    return tokens, merges, n_bytes


def _words() -> Iterator[str]:
    """a, b, …, z, aa, ab, …: every word comes after the one that it grows from."""
    for n_letters in range(1, WORD_LETTERS + 1):
        for letters in itertools.product(string.ascii_lowercase, repeat=n_letters):
            yield "".join(letters)


def _byte_symbols() -> dict[int, str]:
    """GPT-2's printable stand-in for each byte."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = (byte for byte in range(256) if byte not in printable)
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + n) for n, byte in enumerate(others)}


# -- weights

_ADDING = ("attn_output.weight", "ffn_down.weight")  # through which a layer adds to what goes on


def tensor_types(shape: Shape, kind: str) -> Iterator[tuple[str, tuple[int, int], Type]]:
    """Name, (rows, columns) and type of each matrix."""
    width, kv, ffn = shape.width, shape.kv_width, shape.feed_forward
    yield "token_embd.weight", (shape.n_vocab, width), _type(kind, width, is_output=True)
    for layer in range(shape.n_layers):
        # As llama-quantize mixes Q4_K_M: more bits for V and FFN-down in the first and last eighth and every third.
        eighth = shape.n_layers // 8
        more = layer < eighth or layer >= 7 * shape.n_layers // 8 or (layer - eighth) % 3 == 2
        for name, rows, columns, is_important in (
            ("attn_q", width, width, False),
            ("attn_k", kv, width, False),
            ("attn_v", kv, width, more),
            ("attn_output", width, width, False),
            ("ffn_gate", ffn, width, False),
            ("ffn_up", ffn, width, False),
            ("ffn_down", width, ffn, more),
        ):
            yield f"blk.{layer}.{name}.weight", (rows, columns), _type(kind, columns, is_important=is_important)


def _type(kind: str, columns: int, *, is_important: bool = False, is_output: bool = False) -> Type:
    """As llama-quantize chooses it; is_important: where a mixture spends more bits."""
    if kind in ("Q8_0", "F16"):
        return Type[kind]
    if kind == "Q4_0" and not is_output:
        return Type.Q4_0
    wanted = Type.Q6_K if is_important or is_output else Type.Q4_K
    fallback = {Type.Q6_K: Type.Q8_0, Type.Q4_K: Type.Q5_0}  # for rows that are no multiple of 256
    return wanted if columns % gguf.GGML_QUANT_SIZES[wanted][0] == 0 else fallback[wanted]


def matrix(rng: np.random.Generator, rows: int, columns: int, kind: Type, std: float) -> npt.NDArray[np.uint8]:
    """Random weights of this deviation, as the bytes of their blocks; shape: rows, bytes of a row."""
    if kind is Type.F16:
        weights = rng.standard_normal((rows, columns), dtype=np.float32) * np.float32(std)
        return weights.astype(np.float16).view(np.uint8)
    n_elements, n_bytes = gguf.GGML_QUANT_SIZES[kind]
    shape = (rows * columns // n_elements, n_bytes)
    blocks = rng.integers(0, 256, shape, dtype=np.uint8)
    block = BLOCKS[kind]
    _put(blocks, block.scale_at, std / block.std)
    if kind is Type.Q4_K:
        # weight = scale · 32 · q − minimum · 32, so the middle of 0…15 becomes 0.
        _put(blocks, 2, 7.5 * std / block.std)
        blocks[:, 4:12] = 32 | (32 >> 4) << 6  # 6-bit sub-scales and minima: low bits of 0–3, high bits of 4–7
        blocks[:, 12:16] = 0  # low bits of 4–7
    elif kind is Type.Q6_K:
        blocks[:, 192:208] = 64
    return blocks.reshape(rows, -1)


def _put(blocks: npt.NDArray[np.uint8], at: int, scale: float) -> None:
    blocks[:, at : at + 2] = np.array([scale], np.float16).view(np.uint8)


# -- file


def write(path: Path, shape: Shape, kind: str = "Q8_0", seed: int = SEED) -> Path:
    """Write the model; same arguments, same bytes. It appears under its name only when it is whole."""
    if kind not in FILE_TYPES:
        raise ValueError(f"there is no type {kind}: {', '.join(FILE_TYPES)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        _write(partial, shape, kind, seed)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def _write(path: Path, shape: Shape, kind: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    tokens, merges, n_bytes = vocabulary(shape)
    writer = gguf.GGUFWriter(path, shape.arch)
    _write_metadata(writer, shape, kind)
    _write_vocabulary(writer, shape, tokens, merges)

    matrices = list(tensor_types(shape, kind))
    vectors = list(_vectors(shape))
    for name, (rows, columns), type_ in matrices:
        n_elements, block_bytes = gguf.GGML_QUANT_SIZES[type_]
        row_bytes = columns // n_elements * block_bytes
        writer.add_tensor_info(name, (rows, row_bytes), np.dtype(np.uint8), rows * row_bytes, type_)
    for name, vector in vectors:
        writer.add_tensor_info(name, vector.shape, vector.dtype, vector.nbytes)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for name, (rows, columns), type_ in matrices:
        is_embedding = name == "token_embd.weight"
        std = EMBEDDING_STD if is_embedding else 1 / math.sqrt(columns)
        if shape.n_loud and name.endswith(_ADDING) and int(name.split(".")[1]) >= shape.n_loud:
            std *= QUIET
        stripes = [
            matrix(rng, min(STRIPE_ROWS, rows - first), columns, type_, std) for first in range(0, rows, STRIPE_ROWS)
        ]
        data = stripes[0] if len(stripes) == 1 else np.concatenate(stripes)
        if is_embedding:
            data[:n_bytes] = 0
            data[shape.n_text :] = 0
        writer.write_tensor_data(data)
    for _, vector in vectors:
        writer.write_tensor_data(vector)
    writer.close()


def _vectors(shape: Shape) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
    def ones(n: int) -> npt.NDArray[np.float32]:
        return np.ones(n, np.float32)

    yield "output_norm.weight", ones(shape.width)
    for layer in range(shape.n_layers):
        yield f"blk.{layer}.attn_norm.weight", ones(shape.width)
        yield f"blk.{layer}.ffn_norm.weight", ones(shape.width)
        if shape.qkv_bias:
            for name, n in (("attn_q", shape.width), ("attn_k", shape.kv_width), ("attn_v", shape.kv_width)):
                yield f"blk.{layer}.{name}.bias", np.full(n, 0.01, np.float32)


def _write_metadata(writer: gguf.GGUFWriter, shape: Shape, kind: str) -> None:
    writer.add_name(f"{TITLE}{shape.name}")
    writer.add_description("Random weights in the shape of a known model; it answers nothing of sense.")
    writer.add_file_type(FILE_TYPES[kind])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.n_layers)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_head_count(shape.n_heads)
    writer.add_head_count_kv(shape.n_kv_heads)
    if shape.arch == "llama":
        writer.add_rope_dimension_count(shape.head_size)
        writer.add_vocab_size(shape.n_vocab)
    writer.add_rope_freq_base(shape.rope_base)
    writer.add_layer_norm_rms_eps(shape.norm_eps)


def _write_vocabulary(writer: gguf.GGUFWriter, shape: Shape, tokens: list[str], merges: list[str]) -> None:
    end_of_text, _, end = (shape.n_text + n for n in range(len(SPECIAL_TOKENS)))
    n_unused = shape.n_vocab - shape.n_text - len(SPECIAL_TOKENS)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(shape.tokenizer_pre)
    writer.add_token_list(tokens)
    writer.add_token_types(
        [gguf.TokenType.NORMAL] * shape.n_text
        + [gguf.TokenType.CONTROL] * len(SPECIAL_TOKENS)
        + [gguf.TokenType.UNUSED] * n_unused
    )
    writer.add_token_merges(merges)
    writer.add_bos_token_id(end_of_text)
    writer.add_eos_token_id(end)
    writer.add_pad_token_id(end_of_text)
    writer.add_add_bos_token(False)
    writer.add_chat_template(TEMPLATE)


# -- cache


def cache_dir() -> Path:
    """`$XDG_CACHE_HOME/llama-canister/bench`, or the same under `~/.cache`."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "llama-canister" / "bench"


def cached(shape_name: str, kind: str = "Q8_0") -> Path:
    """The file of a shape and type in the cache folder; made now if it is not there."""
    path = cache_dir() / f"{shape_name}-{kind.lower()}-{SEED}.gguf"
    return path if path.exists() else write(path, SHAPES[shape_name], kind)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="q05")
    parser.add_argument("--type", choices=FILE_TYPES, default="Q8_0")
    parser.add_argument("--out", type=Path, help="instead of the cache folder")
    options = parser.parse_args()
    made = (
        cached(options.shape, options.type)
        if options.out is None
        else write(options.out, SHAPES[options.shape], options.type)
    )
    print(f"{made}  {made.stat().st_size:,} bytes")
