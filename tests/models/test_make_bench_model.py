"""The benchmark models: right weights, a working tokenizer, and llama.cpp decodes them without ever ending."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type

from models.make_bench_model import BLOCKS, FILE_TYPES, SHAPES, Shape, matrix, tensor_types, vocabulary, write
from tests.harness import GREEDY, canister_in

TINY = Shape("tiny", "qwen2", 3, 256, 4, 2, 512, 2000, 1900, 512, 1e6, "qwen2", True, 1e-6)
WORDS = " a bc aef abi zz q b"


@pytest.mark.parametrize("kind", [*BLOCKS, Type.F16], ids=lambda kind: kind.name)
def test_weights_have_the_deviation_that_was_asked_for(kind: Type) -> None:
    blocks = matrix(np.random.default_rng(1), 64, 1024, kind, 0.05)
    weights = gguf.quants.dequantize(blocks.view(np.float16) if kind is Type.F16 else blocks, kind)
    assert weights.shape == (64, 1024)
    assert float(weights.std()) == pytest.approx(0.05, rel=0.05)
    assert abs(float(weights.mean())) < 0.15 * 0.05  # the steps of Q4_0 go from -8 to 7


def test_same_seed_same_file(tmp_path: Path) -> None:
    one, same = write(tmp_path / "one", TINY), write(tmp_path / "same", TINY)
    other = write(tmp_path / "other", TINY, seed=2)
    assert one.read_bytes() == same.read_bytes() != other.read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"one", "same", "other"}


def test_an_unknown_type_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no type Q3_X: Q8_0, F16"):
        write(tmp_path / "model", TINY, "Q3_X")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("name", "million"), [("q05", 494.0), ("smol", 134.5)])
def test_shapes_have_the_size_of_their_models(name: str, million: float) -> None:
    shape = SHAPES[name]
    n_weights = sum(rows * columns for _, (rows, columns), _ in tensor_types(shape, "Q8_0"))
    assert n_weights / 1e6 == pytest.approx(million, rel=0.002)
    tokens, merges, n_bytes = vocabulary(shape)
    assert len(tokens) == len(set(tokens)) == shape.n_vocab
    assert len(merges) == shape.n_text - n_bytes


def test_a_mixture_falls_back_where_rows_do_not_fit_its_blocks() -> None:
    types = {name: type_ for name, _, type_ in tensor_types(SHAPES["q05"], "Q4_K_M")}
    assert types["token_embd.weight"] is Type.Q8_0  # 896 columns are no multiple of 256
    assert types["blk.0.attn_q.weight"] is Type.Q5_0
    assert types["blk.0.ffn_down.weight"] is Type.Q6_K
    assert types["blk.4.ffn_down.weight"] is Type.Q4_K


@pytest.mark.anyio
@pytest.mark.parametrize("kind", FILE_TYPES)
@pytest.mark.parametrize("arch", ["qwen2", "llama"])
async def test_the_engine_loads_and_decodes_it(tmp_path: Path, kind: str, arch: str) -> None:
    shape = TINY if arch == "qwen2" else dataclasses.replace(TINY, arch="llama", tokenizer_pre="smollm", qkv_bias=False)
    file = write(tmp_path / "model.gguf", shape, kind)
    async with canister_in(tmp_path / "canister") as canister:
        await canister.load(file, "--ctx-size", "256")
        first = await canister.run(WORDS, *GREEDY, "-n", "100")
        assert first.n_prompt_tokens == len(WORDS.split())
        assert not first.generated_eog
        assert first.n_tokens_generated == 99  # the last one is shown, and not decoded
        # What was generated is cut into the same tokens again.
        again = await canister.run(WORDS + first.output, *GREEDY, "-n", "1")
        assert again.n_prompt_tokens == len(WORDS.split()) + 100
        assert again.n_prompt_tokens_cached == len(WORDS.split()) + 99
        assert len(set(first.output.split())) > 1
