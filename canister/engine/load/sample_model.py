"""A tiny model whose matrices have one weight type, on which llama.cpp's kernels for that type are tried.

It is a Llama with one layer, with or without experts, wide enough for kernels that work in blocks and tiles. Its
weights come from no file, so any fault is the library's.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

import numpy as np

from canister.model_file.gguf import DEFAULT_ALIGNMENT, TYPE_BY_NAME, TensorType

N_VOCAB = 288
N_CTX = 1024
_WIDTH, _N_FF, _N_HEADS, _N_KV_HEADS, _HEAD = 256, 512, 4, 2, 64
_N_EXPERTS, _N_USED = 4, 2
_U32, _I32, _F32, _STRING, _ARRAY = 4, 5, 6, 8, 9
_NORMAL, _UNKNOWN, _CONTROL, _BYTE = 1, 2, 3, 6
# Every byte of a quantized matrix has these bits only, so that a scale of any format is a small number, never infinite.
_HARMLESS_BITS = 0x23
_MXFP4_SCALE = 120  # 2^-7; a scale of this type is a power of two, and the bits above make nothing but zeros of it

Value = int | float | str | Sequence[int] | Sequence[float] | Sequence[str]


def sample_model(type_name: str, *, has_experts: bool) -> bytes:
    """A GGUF file. type_name: of TENSOR_TYPES."""
    type_, f32 = TYPE_BY_NAME[type_name], TYPE_BY_NAME["f32"]
    kv_width = _N_KV_HEADS * _HEAD
    norms = ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm")
    matrices: dict[str, tuple[int, ...]] = {
        "output": (_WIDTH, N_VOCAB),
        "blk.0.attn_q": (_WIDTH, _WIDTH),
        "blk.0.attn_k": (_WIDTH, kv_width),
        "blk.0.attn_v": (_WIDTH, kv_width),
        "blk.0.attn_output": (_WIDTH, _WIDTH),
    }
    for name, n_in, n_out in (("gate", _WIDTH, _N_FF), ("up", _WIDTH, _N_FF), ("down", _N_FF, _WIDTH)):
        if has_experts:
            matrices[f"blk.0.ffn_{name}_exps"] = (n_in, n_out, _N_EXPERTS)
        else:
            matrices[f"blk.0.ffn_{name}"] = (n_in, n_out)
    rng = np.random.default_rng(0)
    tensors: list[tuple[str, tuple[int, ...], TensorType, bytes]] = [
        ("token_embd.weight", (_WIDTH, N_VOCAB), f32, _normal(rng, _WIDTH * N_VOCAB))
    ]
    tensors += [(f"{name}.weight", (_WIDTH,), f32, np.ones(_WIDTH, "<f4").tobytes()) for name in norms]
    if has_experts:
        tensors.append(("blk.0.ffn_gate_inp.weight", (_WIDTH, _N_EXPERTS), f32, _normal(rng, _WIDTH * _N_EXPERTS)))
    for name, shape in matrices.items():
        tensors.append((f"{name}.weight", shape, type_, _weights(rng, type_, int(np.prod(shape)))))
    return _file(_metadata(has_experts), tensors)


def _normal(rng: np.random.Generator, n: int) -> bytes:
    return (rng.standard_normal(n) / 16).astype("<f4").tobytes()


def _weights(rng: np.random.Generator, type_: TensorType, n: int) -> bytes:
    if type_.block_elements == 1:
        whole = np.frombuffer(_normal(rng, n), "<f4")
        if type_.name == "bf16":
            return (whole.view("<u4") >> 16).astype("<u2").tobytes()
        return whole.astype(f"<f{type_.block_bytes}").tobytes()
    blocks = rng.integers(0, 256, (n // type_.block_elements, type_.block_bytes), np.uint8) & _HARMLESS_BITS
    if type_.name == "mxfp4":
        blocks[:, 0] = _MXFP4_SCALE
    return blocks.tobytes()


def _metadata(has_experts: bool) -> dict[str, Value]:
    experts: dict[str, Value] = {"llama.expert_count": _N_EXPERTS, "llama.expert_used_count": _N_USED}
    n_more = N_VOCAB - 259
    return {
        "general.architecture": "llama",
        "llama.context_length": N_CTX,
        "llama.block_count": 1,
        "llama.embedding_length": _WIDTH,
        "llama.feed_forward_length": _N_FF,
        "llama.rope.dimension_count": _HEAD,
        "llama.attention.head_count": _N_HEADS,
        "llama.attention.head_count_kv": _N_KV_HEADS,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        **(experts if has_experts else {}),
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [
            *("<unk>", "<s>", "</s>"),
            *(f"<0x{byte:02X}>" for byte in range(256)),
            *(f"w{i}" for i in range(n_more)),
        ],
        "tokenizer.ggml.scores": [0.0] * N_VOCAB,
        "tokenizer.ggml.token_type": [_UNKNOWN, _CONTROL, _CONTROL, *[_BYTE] * 256, *[_NORMAL] * n_more],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
    }


def _file(metadata: Mapping[str, Value], tensors: Sequence[tuple[str, tuple[int, ...], TensorType, bytes]]) -> bytes:
    header = bytearray(b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata)))
    for key, value in metadata.items():
        header += _string(key) + _value(value)
    data = bytearray()
    for name, shape, type_, weights in tensors:
        header += _string(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
        header += struct.pack("<IQ", type_.id, len(data))
        data += _padded(weights)
    return bytes(_padded(header) + data)


def _value(value: Value) -> bytes:
    if isinstance(value, int):
        return struct.pack("<II", _U32, value)
    if isinstance(value, float):
        return struct.pack("<If", _F32, value)
    if isinstance(value, str):
        return struct.pack("<I", _STRING) + _string(value)
    # Whole numbers of a list are signed: llama.cpp takes types of tokens no other way.
    kind = struct.pack("<I", _I32) if isinstance(value[0], int) else _value(value[0])[:4]
    return struct.pack("<I", _ARRAY) + kind + struct.pack("<Q", len(value)) + b"".join(_value(one)[4:] for one in value)


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _padded(data: bytes | bytearray) -> bytes:
    return bytes(data) + bytes(-len(data) % DEFAULT_ALIGNMENT)
