"""The cost model against published figures, and the laws it must obey."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from canister.errors import BadRequest
from canister.metering import fees
from canister.metering.cost_model import SCALE, CostContext, CostModel, Work, load_cost, other_cost, upload_cost
from canister.model_file.gguf import TENSOR_TYPES, read_gguf
from canister.model_file.shape import ModelShapeError, read_shape
from tests.calibration import FIGURES, Figure, table
from tests.engine.gguf_writer import Plain, Tensor, header_bytes
from tests.engine.tiny_models import llama_model
from tests.shapes import (
    F16,
    GEMMA3_270M,
    LFM2_350M,
    Q8_0,
    QWEN3_06B,
    QWEN3_17B,
    QWEN25_05B,
    SMOLLM2_135M,
    metadata,
    model_of,
    q4_k_m,
    shape_of,
    tensors,
)

ALL = [
    (QWEN25_05B, Q8_0),
    (SMOLLM2_135M, Q8_0),
    (QWEN3_06B, Q8_0),
    (QWEN3_17B, q4_k_m),
    (GEMMA3_270M, Q8_0),
    (LFM2_350M, q4_k_m),
]


# -- calibration: figures published for the main network


@pytest.mark.parametrize("figure", FIGURES, ids=lambda figure: figure.name)
def test_published_figures(figure: Figure) -> None:
    assert abs(figure.residual) < figure.tolerance


def test_the_page_has_the_residuals() -> None:
    page = (Path(__file__).parents[2] / "docs" / "cost-model.md").read_text(encoding="utf-8")
    assert table() in page


# -- the shape of a model


def test_the_shape_of_a_qwen3() -> None:
    shape = shape_of(QWEN3_17B, q4_k_m)
    assert (len(shape.layers), shape.width, shape.vocabulary, shape.n_ctx_train) == (28, 2048, 151_936, 40_960)
    assert {type_.name: n for type_, n in shape.macs} == {"q4_K": 1_203_765_248, "q6_K": 205_520_896}
    assert shape.head_type.name == "q6_K"
    assert shape.rows == 28 * (2048 + 2 * 1024 + 2048 + 2 * 6144 + 2048)
    assert shape.input_lengths == 28 * (3 * 2048 + 2048 + 2 * 2048 + 6144)
    assert shape.weight_bytes == shape.file_bytes
    assert all(layer.has_head_norms and not layer.has_bias and not layer.window for layer in shape.layers)
    assert shape.estimates == ()


def test_an_untied_embedding_is_not_touched() -> None:
    tied, untied = shape_of(QWEN3_06B, Q8_0), shape_of(replace(QWEN3_06B, tied=False), Q8_0)
    assert untied.file_bytes - untied.weight_bytes == 1024 * 151_936 * 34 // 32
    assert (untied.macs, untied.rows) == (tied.macs, tied.rows)


def test_biases_and_windows() -> None:
    assert all(layer.has_bias for layer in shape_of(QWEN25_05B, Q8_0).layers)
    windows = [layer.window for layer in shape_of(GEMMA3_270M, Q8_0).layers]
    assert windows == [512, 512, 512, 512, 512, 0] * 3
    assert all(layer.n_post_norms == 2 for layer in shape_of(GEMMA3_270M, Q8_0).layers)


def test_sliding_windows_need_fewer_cells() -> None:
    model = model_of(GEMMA3_270M, Q8_0, n_ctx=4096)
    per_layer = 256 * 2 * 34 // 32
    assert model.kv_bytes_per_token == 18 * per_layer
    assert model.kv_bytes == per_layer * (3 * 4096 + 15 * 768)
    full = CostModel(model.shape, replace(model.context, swa_full=True))
    assert full.kv_bytes == 18 * per_layer * 4096


def test_layers_without_attention_keep_no_keys() -> None:
    model = model_of(LFM2_350M, q4_k_m, n_ctx=1024)
    assert len(model.shape.attention_layers) == 6
    assert model.kv_bytes == 1024 * 6 * 512 * 2 * 34 // 32
    assert model.estimates == []


def test_what_was_never_fitted_is_marked() -> None:
    other = metadata(QWEN3_06B) | {"general.architecture": "novel"}
    head: list[Tensor] = [("token_embd.weight", (256, 100), "iq4_nl"), ("blk.0.ffn_down.weight", (256, 256), "bf16")]
    model = CostModel(read_shape(read_gguf(with_weights(other, head))), CostContext(128, type_k="q4_0"))
    assert [text for text in model.estimates if "novel" in text]
    assert [text for text in model.estimates if "bf16" in text and "as f16" in text]
    assert [text for text in model.estimates if "iq4_nl" in text and "as q4_K" in text]
    assert [text for text in model.estimates if "q4_0" in text and "as q8_0" in text]


def test_of_experts_only_the_used_ones_count() -> None:
    entries: dict[str, Plain] = {
        "general.architecture": "qwen3moe",
        "qwen3moe.block_count": 1,
        "qwen3moe.expert_used_count": 2,
    }
    file: list[Tensor] = [("token_embd.weight", (64, 32), "f16"), ("blk.0.ffn_down_exps.weight", (96, 64, 8), "f16")]
    shape = read_shape(read_gguf(with_weights(entries, file)))
    assert shape.macs[0][1] == 2 * 96 * 64
    assert shape.rows == 2 * 64
    assert shape.layers[0].feed_forward == 2 * 96
    assert shape.file_bytes - shape.weight_bytes == 6 * 96 * 64 * 2
    assert len(shape.estimates) == 2


def with_weights(entries: dict[str, Plain], file: list[Tensor]) -> bytes:
    return header_bytes(entries, file) + bytes(2_000_000)


@pytest.mark.parametrize(
    "file",
    [
        [],
        [("output.weight", (4, 4), "f32")],
        [("token_embd.weight", (4,), "f32")],
        [("token_embd.weight", (4, 4), "f32")],
        [("token_embd.weight", (4, 4), "f32"), ("output.weight", (4,), "f32"), ("blk.0.x", (4,), "f32")],
    ],
)
def test_no_language_model(file: list[Tensor]) -> None:
    with pytest.raises(ModelShapeError):
        read_shape(read_gguf(with_weights({"general.architecture": "llama"}, file)))


NUMBERS = st.one_of(
    st.integers(-(2**31), 2**33), st.sampled_from([0, 1, 2, 8]), st.lists(st.integers(-2, 9), max_size=40)
)


@given(
    st.dictionaries(st.sampled_from(list(metadata(GEMMA3_270M))[1:-1]), NUMBERS),
    st.sampled_from(["gemma3", "llama", "x"]),
)
@settings(max_examples=100)
def test_any_metadata_gives_a_shape_or_is_refused(entries: dict[str, Plain], arch: str) -> None:
    small = replace(GEMMA3_270M, arch=arch, vocabulary=16, n_layers=2)
    named = {key.replace("gemma3", arch): value for key, value in entries.items()}
    data = header_bytes(metadata(small) | named, list(tensors(small, F16)))
    try:
        model = CostModel(read_shape(read_gguf(data + bytes(30_000_000))), CostContext(256))
    except BadRequest:
        return
    assert all(part >= 0 for part in model.cost(Work(prompt=3, generated=2, sampled=2, saves=1)).parts().values())


# -- laws

MODELS = st.sampled_from(ALL).flatmap(
    lambda pair: st.builds(
        lambda n_ctx, n_batch, kv: model_of(*pair, n_ctx=n_ctx, n_batch=n_batch, kv=kv),
        st.sampled_from([256, 4096, 16_384]),
        st.sampled_from([1, 8, 64, 2048]),
        st.sampled_from(["q8_0", "f16", "f32", "q4_0"]),
    )
)
TOKENS = st.integers(0, 5000)
WORKS = st.builds(
    lambda reused, more, prompt, generated, sampled, saves, penalized: Work(
        reused + more, reused, prompt, generated, sampled, saves, penalized
    ),
    TOKENS,
    st.integers(0, 100),
    st.integers(0, 300),
    st.integers(0, 100),
    st.integers(0, 100),
    st.integers(0, 2),
    st.booleans(),
)


@given(MODELS, WORKS)
def test_parts_are_whole_and_sum_to_the_total(model: CostModel, work: Work) -> None:
    cost = model.cost(work)
    assert all(isinstance(part, int) and part >= 0 for part in cost.parts().values())
    assert sum(cost.parts().values()) == cost.total
    assert cost.fixed == cost.clear + cost.session + cost.pagein + cost.base


@given(MODELS, WORKS)
def test_cost_rises_with_whatever_is_done(model: CostModel, work: Work) -> None:
    total = model.cost(work).total
    for more in (
        replace(work, prompt=work.prompt + 1),
        replace(work, generated=work.generated + 1),
        replace(work, sampled=work.sampled + 1),
        replace(work, saves=work.saves + 1, prompt=work.prompt + 1),
        replace(work, loaded=work.loaded + 1),
    ):
        assert model.cost(more).total > total
    if work.prompt or work.generated:
        assert model.cost(replace(work, reused=work.reused + 1)).total > total
    wider = CostModel(model.shape, replace(model.context, n_ctx=model.context.n_ctx + 256))
    assert wider.cost(work).total >= total + (wider.kv_bytes > model.kv_bytes)
    assert wider.kv_bytes > model.kv_bytes


@given(MODELS, st.integers(0, 5000), st.integers(1, 700))
@settings(max_examples=50)
def test_the_closed_sum_over_positions_is_the_naive_one(model: CostModel, position: int, n: int) -> None:
    one = model.decode(0, 1) - attention(model, 1)
    once = 2 * model.decode(0, 1) - model.decode(0, 2) - 2 * attention(model, 1)
    once += attention(model, 1) + attention(model, 2)
    naive = (one - once) * n + once + sum(attention(model, t) for t in range(position + 1, position + n + 1))
    assert model.decode(position, n) == naive


def attention(model: CostModel, t: int) -> int:
    """attn(t) as the specification writes it, in 1/SCALE instructions."""
    shape, kv = model.shape, {"q8_0": (2.281, 9.906), "f16": (19.375, 18.625), "f32": (4.375, 4.4375)}
    dot, add = kv.get(model.context.type_k, kv["q8_0"])
    d = shape.key_length
    per_key = round((472 + 1.026 * d * (dot + add)) * SCALE)
    total = 0
    for layer in shape.attention_layers:
        t_eff = min(t, layer.window) if layer.window else t
        total += layer.heads * (t_eff * per_key + (741 + 18 * 256 * -(-t // 256) + 80 * d) * SCALE)
    return total


@given(MODELS, st.integers(0, 3000), st.integers(1, 30))
def test_one_by_one_costs_as_much_as_the_sum(model: CostModel, position: int, n: int) -> None:
    work = Work(reused=position, generated=n)
    one_by_one = sum(model.decode(position + i, 1) for i in range(n))
    assert model.cost(work).generate == (2 * one_by_one + SCALE) // (2 * SCALE)
    assert model.decode(position, n) <= one_by_one


def test_page_costs_of_the_past() -> None:
    now, past = model_of(QWEN3_06B, Q8_0), model_of(QWEN3_06B, Q8_0, pages="legacy")
    assert past.pagein == 0
    assert past.clear < now.clear
    assert now.clear == (2 * now.kv_bytes * 14_096 + 4096) // 8192


def test_no_cache_no_session() -> None:
    model = model_of(QWEN3_06B, Q8_0)
    assert model.session(0) == 0
    assert model.session(1) == model.kv_bytes + (148 * model.kv_bytes_per_token + 5) // 10


def test_heap_and_other_methods() -> None:
    model = model_of(QWEN3_17B, q4_k_m, n_ctx=16_384, n_batch=8)
    assert model.heap_bytes / 2**30 == pytest.approx(2.07, rel=0.02)  # published for this very model and context
    assert upload_cost(1000) == 8_600_000
    assert load_cost(1_000_000) == 10_000_000
    assert other_cost(10) == 1_001_000


def test_unknown_kv_type() -> None:
    with pytest.raises(BadRequest, match="'q9' is no type of a KV cache"):
        CostModel(shape_of(QWEN3_06B, Q8_0), CostContext(256, type_k="q9"))


@pytest.mark.parametrize("type_", TENSOR_TYPES, ids=lambda type_: type_.name)
def test_every_weight_type_has_a_price(type_: object) -> None:
    model = model_of(QWEN3_06B, lambda *_: type_.name)  # type: ignore[attr-defined]
    assert model.matrices > 0


def test_fees() -> None:
    assert fees.update_cycles(0) == 6_200_000
    assert fees.update_cycles(10, 5, nodes=26) == 2 * 6_210_010
    assert fees.update_cycles(1, nodes=34) == round(6_200_001 * 34 / 13)
    assert (fees.xdr(10**12), fees.usd(10**12)) == (1.0, 1.366)
    assert fees.seconds(40_000_000_000) == pytest.approx(8.6)


def test_embeddings_compute_no_head_and_need_no_cache(tmp_path: Path) -> None:
    model = CostModel(read_shape(read_gguf(llama_model(tmp_path / "model.gguf"))), CostContext(512, n_batch=64))
    head = model.decode(0, 1) - model.embed(1, both_ways=False) * SCALE
    assert 0 < head < model.decode(0, 1)
    # A prompt in decodes of 64, each without its head.
    decodes = model.decode(0, 64) + model.decode(64, 36)
    assert abs(model.embed(100, both_ways=False) * SCALE - (decodes - 2 * head)) < 3 * SCALE
    # One token sees itself either way; keys and values of 3 layers with 4 heads of 32 are stored for a cache alone.
    stored = 18.25 * 2 * 3 * 4 * 32
    assert abs(model.embed(1, both_ways=False) - model.embed(1, both_ways=True) - stored) <= 1
    # Two-way attention grows by the square, the rest by the tokens.
    one, two, four = (model.embed(n, both_ways=True) for n in (64, 128, 256))
    assert 2 * one < two
    assert four - 2 * two > 3 * (two - 2 * one)
    assert model.embed_call(both_ways=False) - model.embed_call(both_ways=True) == model.clear > 0
