"""GGUF files of published models' shapes, sparse on disk: real headers, weights all zero.

Tensor names, shapes and types are those that llama.cpp's converter and quantizer write.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory

from canister.metering.cost_model import CostContext, CostModel, PageCosts
from canister.model_file.gguf import read_gguf
from canister.model_file.shape import ModelShape, read_shape
from tests.engine.gguf_writer import Plain, Tensor, write_gguf


@dataclass(frozen=True)
class Published:
    """Hyper-parameters of a published model."""

    arch: str
    n_layers: int
    width: int
    heads: int
    kv_heads: int
    head: int
    feed_forward: int
    vocabulary: int
    n_ctx_train: int
    tied: bool = True
    attention_layers: tuple[int, ...] | None = None  # None: all


QWEN25_05B = Published("qwen2", 24, 896, 14, 2, 64, 4864, 151_936, 32_768)
SMOLLM2_135M = Published("llama", 30, 576, 9, 3, 64, 1536, 49_152, 8192)
QWEN3_06B = Published("qwen3", 28, 1024, 16, 8, 128, 3072, 151_936, 40_960)
QWEN3_17B = Published("qwen3", 28, 2048, 16, 8, 128, 6144, 151_936, 40_960)
GEMMA3_270M = Published("gemma3", 18, 640, 4, 1, 256, 2048, 262_144, 32_768)
LFM2_350M = Published("lfm2", 16, 1024, 16, 8, 64, 4608, 65_536, 128_000, attention_layers=(2, 5, 8, 10, 12, 14))

Mix = Callable[[str, int, int], str]


def all_of(type_name: str, _name: str, _layer: int, _n_layers: int) -> str:
    return type_name


def q4_k_m(name: str, layer: int, n_layers: int) -> str:
    """q6_K for the head (which a tied embedding is) and for half of attn_v and ffn_down: the first and the last
    eighth of the layers, and every third one between."""
    if name in ("token_embd", "output"):
        return "q6_K"
    eighth = n_layers // 8
    more = layer < eighth or layer >= 7 * n_layers // 8 or (layer - eighth) % 3 == 2
    return "q6_K" if more and name in ("attn_v", "ffn_down") else "q4_K"


Q8_0: Mix = partial(all_of, "q8_0")
F16: Mix = partial(all_of, "f16")


def _attends(model: Published, layer: int) -> bool:
    return model.attention_layers is None or layer in model.attention_layers


def metadata(model: Published) -> dict[str, Plain]:
    arch = model.arch
    extra: dict[str, Plain] = {"gemma3.attention.sliding_window": 512} if arch == "gemma3" else {}
    return {
        "general.architecture": arch,
        f"{arch}.block_count": model.n_layers,
        f"{arch}.context_length": model.n_ctx_train,
        f"{arch}.embedding_length": model.width,
        f"{arch}.feed_forward_length": model.feed_forward,
        f"{arch}.attention.head_count": model.heads,
        f"{arch}.attention.head_count_kv": (
            model.kv_heads
            if model.attention_layers is None
            else [model.kv_heads * _attends(model, i) for i in range(model.n_layers)]
        ),
        f"{arch}.attention.key_length": model.head,
        f"{arch}.attention.value_length": model.head,
        **extra,
        "tokenizer.ggml.tokens": [f"t{i}" for i in range(model.vocabulary)],
    }


def tensors(model: Published, mix: Mix) -> Iterator[Tensor]:
    d, q, k, n = model.width, model.heads * model.head, model.kv_heads * model.head, model.n_layers
    yield "token_embd.weight", (d, model.vocabulary), mix("token_embd", 0, n)
    yield "output_norm.weight", (d,), "f32"
    if not model.tied:
        yield "output.weight", (d, model.vocabulary), mix("output", 0, n)
    for i in range(n):
        matrices = {
            "ffn_gate": (d, model.feed_forward),
            "ffn_up": (d, model.feed_forward),
            "ffn_down": (model.feed_forward, d),
        }
        vectors = {"attn_norm.weight": d, "ffn_norm.weight": d}
        if _attends(model, i):
            matrices |= {"attn_q": (d, q), "attn_k": (d, k), "attn_v": (d, k), "attn_output": (q, d)}
        else:
            matrices |= {"shortconv.in_proj": (d, 3 * d), "shortconv.out_proj": (d, d)}
            yield f"blk.{i}.shortconv.conv.weight", (3, d), "f32"
        if model.arch == "qwen2":
            vectors |= {"attn_q.bias": q, "attn_k.bias": k, "attn_v.bias": k}
        if model.arch in ("qwen3", "gemma3", "lfm2") and _attends(model, i):
            vectors |= {"attn_q_norm.weight": model.head, "attn_k_norm.weight": model.head}
        if model.arch == "gemma3":
            vectors |= {"post_attention_norm.weight": d, "post_ffw_norm.weight": d}
        for name, shape in matrices.items():
            yield f"blk.{i}.{name}.weight", shape, mix(name, i, n)
        for name, length in vectors.items():
            yield f"blk.{i}.{name}", (length,), "f32"


def write_model(path: Path, model: Published, mix: Mix) -> Path:
    return write_gguf(path, metadata(model), list(tensors(model, mix)))


@cache
def shape_of(model: Published, mix: Mix) -> ModelShape:
    with TemporaryDirectory() as folder:
        return read_shape(read_gguf(write_model(Path(folder) / "model.gguf", model, mix)))


def model_of(
    model: Published, mix: Mix, n_ctx: int = 4096, n_batch: int = 64, kv: str = "q8_0", pages: PageCosts = "mainnet"
) -> CostModel:
    return CostModel(shape_of(model, mix), CostContext(n_ctx, n_batch, n_batch, kv, kv), pages)
