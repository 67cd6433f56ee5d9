"""The tokens of a prompt: those of its text, and BOS before them where the vocabulary says so; nothing else, ever."""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import pytest

from canister.engine.llama import Model
from canister.engine.llama_build import start_backend
from tests.engine.gguf_writer import Plain, Tensor, write_gguf

UNK, BOS, EOS, SEP = 0, 1, 2, 3
SPECIAL = ["<unk>", "<s>", "</s>", "<sep>"]
TEXTS = ["a", "b", "ab", "▁", "▁ab", "\n"]
A_B, SPACE_A_B = 6, 8  # ids of "ab" and "▁ab"
TOKENS = [*SPECIAL, *TEXTS, *(f"<0x{byte:02X}>" for byte in range(256))]
N_VOCAB = len(TOKENS)
_UNKNOWN, _NORMAL, _CONTROL, _BYTE = 2, 1, 3, 6
FLAGS = ("add_bos_token", "add_eos_token", "add_sep_token", "add_space_prefix")


@dataclass(frozen=True)
class Tokenizer:
    """model, pre: as the header names it. adds_bos: when the header does not say. prefix: does the text begin with a
    space, when the header does not say; None: whatever the header says, and the tokens are as for `always`."""

    model: str
    adds_bos: bool
    prefix: bool | None
    always: int = A_B
    pre: str | None = None


TOKENIZERS = [
    Tokenizer("llama", True, True),
    Tokenizer("gpt2", False, None, pre="gpt-2"),
    Tokenizer("gpt2", True, None, pre="llama-bpe"),
    Tokenizer("gemma4", True, None),
    Tokenizer("bert", True, None, always=SPACE_A_B),
    Tokenizer("t5", False, False),
    Tokenizer("rwkv", False, None),
    Tokenizer("plamo2", False, None),
]


@pytest.fixture(scope="module", autouse=True)
def _backend() -> None:
    start_backend()


def model_of(path: Path, tokenizer: Tokenizer, changes: Mapping[str, Plain]) -> Model:
    d, n_ff = 32, 32
    tensors: list[Tensor] = [
        ("token_embd.weight", (d, N_VOCAB), "f32"),
        ("output_norm.weight", (d,), "f32"),
        *((f"blk.0.{name}.weight", (d,), "f32") for name in ("attn_norm", "ffn_norm")),
        *((f"blk.0.attn_{name}.weight", (d, d), "f32") for name in ("q", "k", "v", "output")),
        *((f"blk.0.ffn_{name}.weight", (d, n_ff), "f32") for name in ("gate", "down", "up")),
    ]
    byte = _NORMAL if tokenizer.model == "bert" else _BYTE  # llama.cpp knows no bytes there
    kinds = [_UNKNOWN, *[_CONTROL] * 3, *[_NORMAL] * len(TEXTS), *[byte] * 256]
    metadata: dict[str, Plain] = {
        "general.architecture": "llama",
        "llama.context_length": 64,
        "llama.block_count": 1,
        "llama.embedding_length": d,
        "llama.feed_forward_length": n_ff,
        "llama.rope.dimension_count": d,
        "llama.attention.head_count": 1,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "tokenizer.ggml.model": tokenizer.model,
        "tokenizer.ggml.tokens": TOKENS,
        "tokenizer.ggml.scores": [-20.0 if "<0x" in token else -5.0 + len(token) for token in TOKENS],
        "tokenizer.ggml.token_type": array("i", kinds),
        "tokenizer.ggml.merges": ["a b"],
        "tokenizer.ggml.bos_token_id": BOS,
        "tokenizer.ggml.eos_token_id": EOS,
        "tokenizer.ggml.seperator_token_id": SEP,
        **({} if tokenizer.pre is None else {"tokenizer.ggml.pre": tokenizer.pre}),
        **changes,
    }
    path.unlink(missing_ok=True)  # the model before may still have it mapped
    return Model(write_gguf(path, metadata, tensors), "tiny.gguf")


@pytest.mark.parametrize("tokenizer", TOKENIZERS, ids=lambda each: each.pre or each.model)
def test_only_bos_is_added_whatever_the_header_asks_for(tokenizer: Tokenizer, tmp_path: Path) -> None:
    for values in product((None, False, True), repeat=len(FLAGS)):
        asked = {flag: value for flag, value in zip(FLAGS, values, strict=True) if value is not None}
        changes: dict[str, Plain] = {f"tokenizer.ggml.{flag}": value for flag, value in asked.items()}
        model = model_of(tmp_path / "tiny.gguf", tokenizer, changes)
        before = [BOS] if asked.get("add_bos_token", tokenizer.adds_bos) or tokenizer.model == "gemma4" else []
        prefix = None if tokenizer.prefix is None else asked.get("add_space_prefix", tokenizer.prefix)
        word = tokenizer.always if prefix is None else SPACE_A_B if prefix else A_B
        assert model.add_bos is bool(before), asked
        for text, tokens in (("", []), ("ab", [word]), ("ab</s>ab", [word, EOS, word]), ("<s>ab", [BOS, word])):
            assert model.tokenize(text, add_bos=True, special=True) == before + tokens, (asked, text)
            assert model.tokenize(text, add_bos=False, special=True) == tokens, (asked, text)


@pytest.mark.parametrize("tokenizer", TOKENIZERS, ids=lambda each: each.pre or each.model)
def test_a_vocabulary_that_wants_a_bos_which_it_has_not_gets_none(tokenizer: Tokenizer, tmp_path: Path) -> None:
    wanted: dict[str, Plain] = {f"tokenizer.ggml.{flag}": True for flag in FLAGS[:3]}
    model = model_of(tmp_path / "tiny.gguf", tokenizer, wanted | {"tokenizer.ggml.bos_token_id": 2**32 - 1})
    has_default = tokenizer.model in ("llama", "gpt2", "bert", "plamo2")
    assert model.add_bos is has_default
    assert len(model.tokenize("ab", add_bos=True, special=True)) == 1 + has_default
