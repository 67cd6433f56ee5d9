"""Models for tests, made on the spot: random weights in the shape of a real architecture, and a vocabulary of bytes.

What they say means nothing, but every kernel, memory and weight type behaves as in a real model of the kind.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Mapping
from pathlib import Path

import llama_cpp
import numpy as np

from tests.engine.gguf_writer import Plain, Tensor, header_bytes

N_VOCAB = 512
N_CTX_TRAIN = 512
EOS = 2
N_LAYERS = 3
FILE_TYPES = {"f16": 1, "q4_0": 2, "q8_0": 7, "q4_k_m": 15}
_NORMAL, _UNKNOWN, _CONTROL, _BYTE = 1, 2, 3, 6


def vocabulary(n: int) -> dict[str, Plain]:
    """n tokens: three special ones, the bytes, and words."""
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [
            "<unk>",
            "<s>",
            "</s>",
            *(f"<0x{byte:02X}>" for byte in range(256)),
            "▁",
            *(f"▁w{i}" for i in range(n - 260)),
        ],
        "tokenizer.ggml.scores": [0.0] * 259 + [-float(i) for i in range(n - 259)],
        "tokenizer.ggml.token_type": array("i", [_UNKNOWN, _CONTROL, _CONTROL, *[_BYTE] * 256, *[_NORMAL] * (n - 259)]),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": EOS,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.add_bos_token": True,
    }


VOCABULARY = vocabulary(N_VOCAB)


def llama_model(
    path: Path,
    file_type: str = "f32",
    seed: int = 0,
    *,
    changes: Mapping[str, Plain] = {},
    types: Mapping[str, str] = {},
) -> Path:
    """A Llama with grouped-query attention; every length a multiple of 32 (of 256 for K-quants).

    changes: metadata to be otherwise. types: tensors that the header calls other than f32, by part of their names.
    """
    d, n_ff, n_head, n_head_kv, d_head = 256, 512, 8, 4, 32
    tensors: list[Tensor] = [
        ("token_embd.weight", (d, N_VOCAB), "f32"),
        ("output_norm.weight", (d,), "f32"),
        ("output.weight", (d, N_VOCAB), "f32"),
    ]
    for i in range(N_LAYERS):
        tensors += [
            (f"blk.{i}.attn_norm.weight", (d,), "f32"),
            (f"blk.{i}.attn_q.weight", (d, n_head * d_head), "f32"),
            (f"blk.{i}.attn_k.weight", (d, n_head_kv * d_head), "f32"),
            (f"blk.{i}.attn_v.weight", (d, n_head_kv * d_head), "f32"),
            (f"blk.{i}.attn_output.weight", (n_head * d_head, d), "f32"),
            (f"blk.{i}.ffn_norm.weight", (d,), "f32"),
            (f"blk.{i}.ffn_gate.weight", (d, n_ff), "f32"),
            (f"blk.{i}.ffn_down.weight", (n_ff, d), "f32"),
            (f"blk.{i}.ffn_up.weight", (d, n_ff), "f32"),
        ]
    attention: dict[str, Plain] = {
        "head_count": n_head,
        "head_count_kv": n_head_kv,
        "layer_norm_rms_epsilon": 1e-5,
    }
    shape: dict[str, Plain] = {"embedding_length": d, "feed_forward_length": n_ff, "rope.dimension_count": d_head}
    for part, type_name in types.items():
        tensors = [(name, dims, type_name if part in name else kind) for name, dims, kind in tensors]
    return _quantized(write_random(path, {**_metadata("llama", attention, shape), **changes}, tensors, seed), file_type)


def gemma_model(path: Path, file_type: str = "f32", seed: int = 0) -> Path:
    """A Gemma 3, whose memory is two caches: full attention and a sliding window of 16 tokens."""
    d, n_ff, n_head, n_head_kv, d_head = _width(file_type, 64), _width(file_type, 96), 4, 2, 32
    tensors: list[Tensor] = [("token_embd.weight", (d, N_VOCAB), "f32"), ("output_norm.weight", (d,), "f32")]
    for i in range(2 * N_LAYERS):
        tensors += [
            (f"blk.{i}.attn_norm.weight", (d,), "f32"),
            (f"blk.{i}.attn_q.weight", (d, n_head * d_head), "f32"),
            (f"blk.{i}.attn_k.weight", (d, n_head_kv * d_head), "f32"),
            (f"blk.{i}.attn_v.weight", (d, n_head_kv * d_head), "f32"),
            (f"blk.{i}.attn_output.weight", (n_head * d_head, d), "f32"),
            (f"blk.{i}.post_attention_norm.weight", (d,), "f32"),
            (f"blk.{i}.attn_q_norm.weight", (d_head,), "f32"),
            (f"blk.{i}.attn_k_norm.weight", (d_head,), "f32"),
            (f"blk.{i}.ffn_norm.weight", (d,), "f32"),
            (f"blk.{i}.ffn_gate.weight", (d, n_ff), "f32"),
            (f"blk.{i}.ffn_down.weight", (n_ff, d), "f32"),
            (f"blk.{i}.ffn_up.weight", (d, n_ff), "f32"),
            (f"blk.{i}.post_ffw_norm.weight", (d,), "f32"),
        ]
    attention: dict[str, Plain] = {
        "head_count": n_head,
        "head_count_kv": n_head_kv,
        "key_length": d_head,
        "value_length": d_head,
        "sliding_window": 16,
        "layer_norm_rms_epsilon": 1e-6,
    }
    shape: dict[str, Plain] = {"embedding_length": d, "feed_forward_length": n_ff, "block_count": 2 * N_LAYERS}
    return _quantized(write_random(path, _metadata("gemma3", attention, shape), tensors, seed), file_type)


def lfm2_model(path: Path, file_type: str = "f32", seed: int = 0) -> Path:
    """An LFM2, whose memory is a hybrid: attention in the first and the last layer, a recurrent state between them."""
    d, n_ff, n_head, d_head, d_conv = 256, 512, 4, 64, 3
    tensors: list[Tensor] = [("token_embd.weight", (d, N_VOCAB), "f32"), ("token_embd_norm.weight", (d,), "f32")]
    for i in range(N_LAYERS):
        tensors += [
            (f"blk.{i}.attn_norm.weight", (d,), "f32"),
            (f"blk.{i}.ffn_norm.weight", (d,), "f32"),
            (f"blk.{i}.ffn_gate.weight", (d, n_ff), "f32"),
            (f"blk.{i}.ffn_down.weight", (n_ff, d), "f32"),
            (f"blk.{i}.ffn_up.weight", (d, n_ff), "f32"),
        ]
        if i == 1:
            tensors += [
                (f"blk.{i}.shortconv.conv.weight", (d_conv, d), "f32"),
                (f"blk.{i}.shortconv.in_proj.weight", (d, 3 * d), "f32"),
                (f"blk.{i}.shortconv.out_proj.weight", (d, d), "f32"),
            ]
        else:
            tensors += [(f"blk.{i}.attn_{name}.weight", (d, d), "f32") for name in ("q", "k", "v", "output")]
            tensors += [(f"blk.{i}.attn_{name}_norm.weight", (d_head,), "f32") for name in ("q", "k")]
    heads = [n_head, 0, n_head]
    attention: dict[str, Plain] = {"head_count": heads, "head_count_kv": heads, "layer_norm_rms_epsilon": 1e-5}
    shape: dict[str, Plain] = {
        "embedding_length": d,
        "feed_forward_length": n_ff,
        "rope.dimension_count": d_head,
        "shortconv.l_cache": d_conv,
        "vocab_size": N_VOCAB,
    }
    return _quantized(write_random(path, _metadata("lfm2", attention, shape), tensors, seed), file_type)


def mamba_model(path: Path, file_type: str = "f32", seed: int = 0) -> Path:
    """A Mamba, whose memory is one recurrent state: no part of it can be removed."""
    d, d_state, d_conv, dt_rank = _width(file_type, 64), 16, 4, 4
    d_inner = 2 * d
    tensors: list[Tensor] = [("token_embd.weight", (d, N_VOCAB), "f32"), ("output_norm.weight", (d,), "f32")]
    for i in range(N_LAYERS):
        tensors += [
            (f"blk.{i}.attn_norm.weight", (d,), "f32"),
            (f"blk.{i}.ssm_in.weight", (d, 2 * d_inner), "f32"),
            (f"blk.{i}.ssm_conv1d.weight", (d_conv, d_inner), "f32"),
            (f"blk.{i}.ssm_conv1d.bias", (d_inner,), "f32"),
            (f"blk.{i}.ssm_x.weight", (d_inner, dt_rank + 2 * d_state), "f32"),
            (f"blk.{i}.ssm_dt.weight", (dt_rank, d_inner), "f32"),
            (f"blk.{i}.ssm_dt.bias", (d_inner,), "f32"),
            (f"blk.{i}.ssm_a", (d_state, d_inner), "f32"),
            (f"blk.{i}.ssm_d", (d_inner,), "f32"),
            (f"blk.{i}.ssm_out.weight", (d_inner, d), "f32"),
        ]
    attention: dict[str, Plain] = {"head_count": 0, "layer_norm_rms_epsilon": 1e-5}
    shape: dict[str, Plain] = {
        "embedding_length": d,
        "feed_forward_length": 0,
        "ssm.conv_kernel": d_conv,
        "ssm.inner_size": d_inner,
        "ssm.state_size": d_state,
        "ssm.time_step_rank": dt_rank,
    }
    return _quantized(write_random(path, _metadata("mamba", attention, shape), tensors, seed), file_type)


def _width(file_type: str, least: int) -> int:
    """A length that weights of this type can have."""
    return least if file_type == "f32" else 256


def _metadata(architecture: str, attention: dict[str, Plain], shape: dict[str, Plain]) -> dict[str, Plain]:
    named = {"context_length": N_CTX_TRAIN, "block_count": N_LAYERS, **shape}
    named |= {f"attention.{key}": value for key, value in attention.items()}
    return {
        "general.architecture": architecture,
        **{f"{architecture}.{key}": value for key, value in named.items()},
        **VOCABULARY,
    }


def write_random(path: Path, metadata: Mapping[str, Plain], tensors: list[Tensor], seed: int) -> Path:
    """All weights f32: random, norms near one, what must decay negative."""
    rng = np.random.default_rng(seed)
    with path.open("wb") as file:
        file.write(header_bytes(metadata, tensors))
        for name, shape, _ in tensors:
            weights = rng.normal(0, 1 / np.sqrt(shape[0]), shape[::-1])
            if "norm" in name:
                weights = 1 + weights
            elif name.endswith("ssm_a"):
                weights = -np.exp(weights)
            elif name.endswith("bias"):
                weights = weights / 10
            data = weights.astype(np.float32).tobytes()
            file.write(data.ljust(-(-len(data) // 32) * 32, b"\0"))
    return path


def _quantized(path: Path, file_type: str) -> Path:
    if file_type == "f32":
        return path
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = FILE_TYPES[file_type]
    params.nthread = 1
    target = path.with_suffix(f".{file_type}.gguf")
    assert llama_cpp.llama_model_quantize(os.fsencode(path), os.fsencode(target), params) == 0
    return target
