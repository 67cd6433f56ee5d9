"""Tiny random embedding models, written on the spot: of the families that llama.cpp makes embeddings with."""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import llama_cpp
import numpy as np
from numpy.typing import NDArray

from tests.architectures.table import Row
from tests.architectures.writer import write_model
from tests.engine.gguf_writer import Plain

N_CTX = 512
MEAN, CLS, LAST = 1, 2, 3
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_WORDS = ("hello", "world", "the", "cat", "sat", "on", "mat")
_CONTROL, _UNKNOWN, _NORMAL = 3, 2, 1


def _word_pieces() -> dict[str, Plain]:
    """BERT's kind of vocabulary, which frames a text by [CLS] and [SEP]."""
    tokens = [*_SPECIAL, *(f"▁{letter}" for letter in _LETTERS), *_LETTERS, *(f"▁{word}" for word in _WORDS)]
    tokens += [f"▁w{i}" for i in range(128 - len(tokens))]
    types = [_CONTROL, _UNKNOWN, *[_CONTROL] * 3, *[_NORMAL] * (len(tokens) - len(_SPECIAL))]
    return {
        "tokenizer.ggml.model": "bert",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": array("i", types),
        "tokenizer.ggml.token_type_count": 2,
        "tokenizer.ggml.bos_token_id": 2,
        "tokenizer.ggml.cls_token_id": 2,
        "tokenizer.ggml.seperator_token_id": 3,
        "tokenizer.ggml.eos_token_id": 3,
        "tokenizer.ggml.unknown_token_id": 1,
        "tokenizer.ggml.padding_token_id": 0,
        "tokenizer.ggml.mask_token_id": 4,
    }


@dataclass(frozen=True)
class _BertRow(Row):
    """A model with BERT's vocabulary."""

    def metadata(self, architecture: str) -> dict[str, Plain]:
        made = {key: value for key, value in super().metadata(architecture).items() if "tokenizer." not in key}
        return {**made, **_word_pieces(), f"{architecture}.vocab_size": 128}


def _both_ways(pooling: int, **more: Plain) -> dict[str, Plain]:
    return {"pooling_type": pooling, "attention.causal": False, **more}


# A decoder that ends each text with EOS, as those for embeddings do.
_DECODER: dict[str, Plain] = {"pooling_type": LAST}

ROWS: Mapping[str, Row] = {
    "bert": _BertRow(changes=_both_ways(MEAN)),
    "nomic-bert": _BertRow(changes=_both_ways(MEAN)),
    "nomic-bert-moe": _BertRow(changes=_both_ways(MEAN, moe_every_n_layers=2), is_moe=True),
    "jina-bert-v2": _BertRow(changes=_both_ways(MEAN)),
    "jina-bert-v3": _BertRow(changes=_both_ways(MEAN)),
    "gemma-embedding": Row(changes=_both_ways(MEAN)),
    "modern-bert": Row(changes=_both_ways(CLS)),
    "neo-bert": Row(changes=_both_ways(MEAN)),
    "eurobert": Row(changes=_both_ways(MEAN)),
    "llama-embed": Row(changes=_both_ways(MEAN)),
    "qwen3": Row(changes=_DECODER),
    "llama": Row(changes=_both_ways(MEAN)),
}
"""By architecture. qwen3 is a decoder that was made into an embedding model, llama one that reads both ways."""


def embedding_model(path: Path, architecture: str = "bert") -> Path:
    return write_model(path, architecture, row=ROWS[architecture])


def as_llama_cpp_python(path: Path, texts: list[str]) -> NDArray[np.float32]:
    """What llama-cpp-python's own `embed` gives, all in one batch and as they come; a row a text."""
    model = llama_cpp.Llama(str(path), embedding=True, n_ctx=N_CTX, n_batch=N_CTX, n_ubatch=N_CTX, verbose=False)
    try:
        return np.array([model.embed(text) for text in texts], np.float32)
    finally:
        model.close()


def distance(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """The largest difference between vectors of length 1 in the same directions."""

    def unit(vectors: NDArray[np.float32]) -> NDArray[np.float64]:
        wide = vectors.astype(np.float64)
        found: NDArray[np.float64] = wide / np.linalg.norm(wide, axis=-1, keepdims=True)
        return found

    return float(np.abs(unit(one) - unit(other)).max())
