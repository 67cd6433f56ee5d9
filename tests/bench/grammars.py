"""What bound answers cost the thread that decodes, in CPU time: `python -m tests.bench.grammars`.

An object of six members, with a vocabulary of 2 048 tokens and one of 131 072: single bytes, and words of one to seven
letters. The chosen token is asked about first; the whole vocabulary only when it does not fit.
"""

from __future__ import annotations

import json
import random
import statistics
import tempfile
import time
from array import array
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from canister.engine.llama import Model
from canister.engine.llama_build import start_backend
from canister.engine.sampling.binding import Binding, Gbnf, Guided
from canister.engine.sampling.grammars import LIMITS
from canister.engine.sampling.llguidance import TokenTable
from canister.engine.sampling.logprobs import logprobs
from canister.engine.sampling.samplers import Candidates, Sampler
from canister.json_schema import bindable
from tests.engine.gguf_writer import Plain, Tensor
from tests.engine.tiny_models import write_random

MEMBERS = ("name", "age", "city", "zip", "job", "pay")
SCHEMA = {
    "type": "object",
    "properties": {key: {"type": "integer" if at % 2 else "string"} for at, key in enumerate(MEMBERS)},
    "required": list(MEMBERS),
}
# What llama.cpp's own converter makes of the same.
GBNF = "\n".join(
    [
        r'root ::= "{" space ' + r' "," space '.join(f"m{at}" for at in range(6)) + ' "}" space',
        *(
            rf'm{at} ::= "\"{key}\"" space ":" space {"integer" if at % 2 else "string"}'
            for at, key in enumerate(MEMBERS)
        ),
        r'char ::= [^"\\\x7F\x00-\x1F] | [\\] (["\\bfnrt] | "u" [0-9a-fA-F]{4})',
        r'string ::= "\"" char* "\"" space',
        r'integer ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) space',
        r'space ::= | " " | "\n"{1,2} [ \t]{0,20}',
    ]
)
ANSWER = '{"name": "Ada Lovelace", "age": 36, "city": "London", "zip": 12345, "job": "counts engines", "pay": 100200}'
ROUNDS = 5

T = TypeVar("T")


def main() -> None:
    start_backend()
    for n_vocab in (2048, 131_072):
        print(f"{n_vocab} tokens")
        with tempfile.TemporaryDirectory() as folder:
            _measure(Model(_model(Path(folder) / "model.gguf", n_vocab), "bench"))


def _measure(model: Model) -> None:
    table, seconds = _timed(lambda: TokenTable(model.pieces(), model.untexted_tokens, model.eog_tokens))
    _tell("vocabulary sorted, once a model", seconds)
    schema = json.dumps(bindable(SCHEMA))
    tokens = table.spelled(ANSWER.encode())
    candidates = Candidates(model.n_vocab)
    logits = np.random.default_rng(1).normal(0, 3, model.n_vocab).astype(np.float32)
    makes: dict[str, Callable[[], Binding]] = {
        "GBNF": lambda: Gbnf(Sampler.grammar(model, GBNF)),
        "llguidance": lambda: Guided(frozenset(model.eog_tokens), table.matcher("json_schema", schema, LIMITS)),
    }
    for name, make in makes.items():
        start, seconds = _timed(make)
        _tell(f"{name}, set-up", seconds)
        alone: list[float] = []
        whole: list[float] = []
        for _ in range(ROUNDS):
            binding = start.begun()
            for token in tokens:
                fits, seconds = _timed(partial(binding.fits, token))
                if not fits:
                    raise RuntimeError(f"{name} does not take {model.piece(token, True)!r}")
                candidates.fill(logits)
                whole.append(_timed(partial(binding.restrict, candidates, ()))[1])
                alone.append(seconds + _timed(partial(binding.accept, token))[1])
        _tell(f"{name}, chosen token alone, and taken", statistics.mean(alone))
        _tell(f"{name}, whole vocabulary", statistics.mean(whole), max(whole))
        _tell(f"{name}, replay of {len(tokens)} tokens", _replay(start, tokens))
    for n_draws in (10, 1000, 100_000):
        entered = [_timed(partial(Sampler.dist, 1, n_draws))[1] for _ in range(20)]
        _tell(f"random sequence entered at draw {n_draws}", statistics.mean(entered))
    for n_top in (0, 20):
        told = [_timed(partial(logprobs, logits, 5, n_top))[1] for _ in range(50)]
        _tell(f"log-probabilities of a token and the {n_top} likeliest", statistics.mean(told))


def _replay(start: Binding, tokens: list[int]) -> float:
    def replay() -> None:
        binding = start.begun()
        binding.replay(tokens)
        binding.close()

    return statistics.mean(_timed(replay)[1] for _ in range(ROUNDS))


def _timed(work: Callable[[], T]) -> tuple[T, float]:
    started = time.thread_time()
    result = work()
    return result, time.thread_time() - started


def _tell(what: str, seconds: float, worst: float | None = None) -> None:
    told = f"  {what:<55} {seconds * 1e3:9.3f} ms"
    print(told if worst is None else f"{told}, worst {worst * 1e3:.3f}")


def _model(path: Path, n_vocab: int) -> Path:
    """A model that is hardly more than a vocabulary."""
    draw = random.Random(0)
    words = [*"<>", *(f"<0x{byte:02X}>" for byte in range(256))]
    seen = set(words)
    while len(words) < n_vocab:
        word = "".join(draw.choices("etaoinshrdlucmfwypvbgkqjxz", k=draw.randint(1, 7)))
        word = ("▁" if draw.random() < 0.5 else "") + word
        if draw.random() < 0.05:
            word = draw.choice(['{"', '":', '",', '"}', ',▁"', ":▁", '":▁"', "1", "23"]) + word[: draw.randint(0, 2)]
        if word not in seen:
            seen.add(word)
            words.append(word)
    metadata: dict[str, Plain] = {
        "general.architecture": "llama",
        "llama.context_length": 64,
        "llama.block_count": 1,
        "llama.embedding_length": 32,
        "llama.feed_forward_length": 32,
        "llama.rope.dimension_count": 32,
        "llama.attention.head_count": 1,
        "llama.attention.head_count_kv": 1,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": words,
        "tokenizer.ggml.scores": [0.0] * n_vocab,
        "tokenizer.ggml.token_type": array("i", [3, 3, *[6] * 256, *[1] * (n_vocab - 258)]),
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 1,
    }
    square = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    tensors: list[Tensor] = [
        ("token_embd.weight", (32, n_vocab), "f32"),
        ("output_norm.weight", (32,), "f32"),
        *((f"blk.0.{name}.weight", (32,), "f32") for name in ("attn_norm", "ffn_norm")),
        *((f"blk.0.{name}.weight", (32, 32), "f32") for name in square),
    ]
    return write_random(path, metadata, tensors, 0)


if __name__ == "__main__":
    main()
