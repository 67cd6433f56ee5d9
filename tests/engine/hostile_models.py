"""Model files that were made to do harm: small changes to a model that works.

What becomes of a process that loads them was seen with llama.cpp b10076: it is ended by an assertion (SIGABRT), by a
C++ exception that nobody catches, or by a bad address (SIGSEGV); or it never comes back.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from tests.engine.gguf_writer import Plain
from tests.engine.tiny_models import N_VOCAB, llama_model


@dataclass(frozen=True)
class Hostile:
    """changes: of the metadata. types: of tensors, by part of their names; their bytes stay as they were."""

    changes: dict[str, Plain] = field(default_factory=dict)
    types: dict[str, str] = field(default_factory=dict)

    def write(self, path: Path) -> Path:
        return llama_model(path, changes=self.changes, types=self.types)


CRASHING = {
    "some layers without heads": Hostile({"llama.attention.head_count_kv": [4, 0, 4]}),
    "negative epsilon": Hostile({"llama.attention.layer_norm_rms_epsilon": -1.0}),
    "epsilon that is no number": Hostile({"llama.attention.layer_norm_rms_epsilon": float("nan")}),
    "100000 layers": Hostile({"llama.block_count": 100_000}),
    "more experts used than there are": Hostile({"llama.expert_count": 8, "llama.expert_used_count": 9}),
    "no expert used": Hostile({"llama.expert_count": 8, "llama.expert_used_count": 0}),
    "every token the same": Hostile({"tokenizer.ggml.tokens": ["a"] * N_VOCAB}),
    "every token empty": Hostile({"tokenizer.ggml.tokens": [""] * N_VOCAB}),
    "vocabulary of another kind": Hostile({"tokenizer.ggml.model": "bert"}),
    "quantized norms": Hostile(types={"output_norm": "q4_0"}),
    "whole numbers as norms": Hostile(types={"norm": "i32"}),
    "whole numbers as embeddings": Hostile(types={"token_embd": "i32"}),
    "bytes as weights": Hostile(types={"attn_q": "i8"}),
    "weights of an inner type": Hostile(types={"attn_q": "q8_K"}),
}
ENDLESS = Hostile({"tokenizer.ggml.model": "rwkv"})
REFUSED = {
    "context that wraps around": Hostile({"llama.context_length": 2**32 - 1}),
    "context of terabytes": Hostile({"llama.context_length": 2**29}),
    "three heads": Hostile({"llama.attention.head_count": 3}),
    "epsilon that makes no numbers": Hostile({"llama.rope.freq_base": float("nan")}),
    "rope of 2^31": Hostile({"llama.rope.dimension_count": 2**31}),
    "context of no tokens": Hostile({"llama.context_length": 0}),
    "tokens without bytes": Hostile({"tokenizer.ggml.tokens": [f"q{i}" for i in range(N_VOCAB)]}),
}
