"""Hyperparameters of a tiny model of each architecture: what they share, and what some need otherwise.

llama.cpp ignores the keys that an architecture does not know, so that most get along with what they share.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field

from tests.engine.gguf_writer import Plain
from tests.engine.tiny_models import N_CTX_TRAIN, N_VOCAB, vocabulary


@dataclass(frozen=True)
class Row:
    """A tiny model. n_experts: 0 for dense ones. changes: metadata without the name of the architecture in front.

    types: of tensors that are not f32, by name. without: optional tensors that its files do not have, by part of names.
    """

    width: int = 64
    heads: int = 4
    feed_forward: int = 96
    layers: int = 3
    vocabulary: int = N_VOCAB
    is_moe: bool = False
    changes: Mapping[str, Plain] = field(default_factory=dict)
    types: Mapping[str, str] = field(default_factory=dict)
    without: tuple[str, ...] = ()

    def metadata(self, architecture: str) -> dict[str, Plain]:
        d, n, head = self.width, self.layers, self.width // self.heads
        named: dict[str, Plain] = {
            "vocab_size": self.vocabulary,
            "context_length": N_CTX_TRAIN,
            "embedding_length": d,
            "features_length": d,
            "block_count": n,
            "leading_dense_block_count": 1,
            "feed_forward_length": self.feed_forward,
            "use_parallel_residual": False,
            "logit_scale": 1.0,
            "time_mix_extra_dim": 64,
            "time_decay_extra_dim": 128,
            "token_shift_count": 2,
            "rescale_every_n_layers": 2,
            "full_attention_interval": 2,
            "decoder_start_token_id": 1,
            "attention.head_count": self.heads,
            "attention.head_count_kv": self.heads,
            "attention.max_alibi_bias": 8.0,
            "attention.clamp_kqv": 1.0,
            "attention.layer_norm_epsilon": 1e-5,
            "attention.layer_norm_rms_epsilon": 1e-5,
            "attention.group_norm_epsilon": 1e-5,
            "attention.group_norm_groups": 8,
            "attention.q_lora_rank": 64,
            "attention.kv_lora_rank": 64,
            "attention.decay_lora_rank": 32,
            "attention.iclr_lora_rank": 32,
            "attention.value_residual_mix_lora_rank": 32,
            "attention.gate_lora_rank": 32,
            "attention.relative_buckets_count": 8,
            "attention.sliding_window": 32,
            "attention.sliding_window_pattern": 2,
            "attention.indexer.head_count": 64,
            "attention.indexer.key_length": 128,
            "attention.indexer.top_k": 131072,
            "attention.indexer.block_size": 4,
            "attention.indexer.kpool": 4,
            "attention.indexer.kpool_select_tail": True,
            "attention.indexer.local_blocks": 1,
            "rope.dimension_count": head,
            "rope.dimension_sections": [head // 4] * 4,
            "ssm.inner_size": 2 * d,
            "ssm.conv_kernel": 4,
            "ssm.state_size": 16,
            "ssm.time_step_rank": self.heads,
            "ssm.group_count": 2,
            "kda.head_dim": head,
            "kda.safe_gate": True,
            "kda.gate_lower_bound": -5.0,
            "wkv.head_size": head,
            "shortconv.l_cache": 3,
            "residual_scale": 1.0,
            "embedding_scale": 1.0,
            "attn_res.block_size": 12,
            "activation.situ_beta": 4.0,
            "activation.situ_linear_beta": 25.0,
            "num_loops": 1,
            "posnet.embedding_length": d,
            "posnet.block_count": n,
            "convnext.embedding_length": d,
            "convnext.block_count": n,
        }
        if self.is_moe:
            named |= {
                "expert_feed_forward_length": self.feed_forward,
                "expert_shared_feed_forward_length": self.feed_forward,
                "expert_latent_length": self.feed_forward,
                "interleave_moe_layer_step": 2,
                "expert_count": 2,
                "expert_used_count": 2,
                "expert_shared_count": 1,
                "expert_gating_func": 2,
                "expert_group_scale": 1.0,
                "experts_per_group": 1,
            }
        named |= self.changes
        activation = {"xielu.alpha_n": 1.0, "xielu.alpha_p": 1.0, "xielu.beta": 1.0, "xielu.eps": 1e-7}
        return {
            "general.architecture": architecture,
            **{key if key in _OF_NO_ARCHITECTURE else f"{architecture}.{key}": value for key, value in named.items()},
            **activation,
            **vocabulary(self.vocabulary),
        }


_OF_NO_ARCHITECTURE = ("tokenizer.ggml.token_type_count",)
_SOME_LAYERS: dict[str, Plain] = {"attention.head_count": [4, 0, 4], "attention.head_count_kv": [4, 0, 4]}
"""Hybrid models: the layers without heads are recurrent."""
_SOME_LATENT_LAYERS: dict[str, Plain] = {"attention.head_count": [4, 0, 4], "attention.head_count_kv": [1, 0, 1]}


def _every_other(n: int) -> list[int]:
    return [i % 2 for i in range(n)]


def _latent(head_mla: int = 24, value_mla: int = 16, **more: Plain) -> dict[str, Plain]:
    """Multi-head latent attention: one compressed row of 64, and 8 values of rotary keys."""
    return {
        "attention.head_count_kv": 1,
        "attention.key_length": 72,
        "attention.value_length": 64,
        "rope.dimension_count": 8,
        "attention.key_length_mla": head_mla,
        "attention.value_length_mla": value_mla,
        **more,
    }


_MOE = Row(is_moe=True)
_PATTERN: dict[str, Plain] = {"attention.sliding_window_pattern": _every_other(3)}

_HYPER: dict[str, Plain] = {
    "hyper_connection.count": 4,
    "hyper_connection.sinkhorn_iterations": 2,
    "hyper_connection.epsilon": 1e-6,
    "hyper_connection.low_rank": 8,
}
_PER_LAYER: dict[str, Plain] = {
    "attention.compress_ratios": [4, 4, 4],
    "ple.layers": [0],
    "ple.ngram_size": 3,
    "ple.heads_per_ngram": 2,
    "ple.conv_kernel": 4,
    "ple.eos_token_id": 0,
    "embedding_length_per_layer_input": 16,
    "ple.layer_multipliers": array("Q", [1, 3, 5]),
    "ple.head_offsets": array("Q", [i * N_VOCAB for i in range(4)]),
    "ple.head_vocab_sizes": array("Q", [N_VOCAB] * 4),
}
_ALIKE = (
    *("llama", "deci", "falcon", "baichuan", "gpt2", "gptneox", "mpt", "starcoder", "refact", "bloom"),
    *("stablelm", "qwen", "qwen2", "qwen2vl", "qwen3", "qwen3vl", "phi2", "phi3", "plamo", "plamo3"),
    *("codeshell", "orion", "internlm2", "minicpm", "minicpm3", "gemma", "gemma2", "gemma3", "starcoder2"),
    *("mamba", "mamba2", "falcon-h1", "xverse", "command-r", "cohere2", "olmo", "olmo2", "openelm", "chatglm"),
    *("glm4", "bitnet", "jais", "jais2", "nemotron", "exaone", "exaone4", "granite", "plm", "arcee"),
    *("ernie4_5", "hunyuan-dense", "hunyuan_vl", "smollm3", "seed_oss", "apertus", "cogvlm", "pangu-embedded"),
    *("mistral3", "paddleocr", "maincoder", "talkie", "nanbeige"),
)
_EXPERTS = (
    *("grok", "qwen2moe", "qwen3moe", "qwen3vlmoe", "phimoe", "dbrx", "olmoe", "arctic", "deepseek", "deepseek2-ocr"),
    *("glm4moe", "exaone-moe", "bailingmoe", "bailingmoe2", "dots1", "afmoe", "laguna", "ernie4_5-moe", "hunyuan-moe"),
    *("hy_v3", "gpt-oss", "smallthinker", "grovemoe", "minimax-m2", "mellum", "minimax-01"),
    "granitemoe",
)

ROWS: dict[str, Row] = {
    **dict.fromkeys(_ALIKE, Row()),
    **dict.fromkeys(_EXPERTS, _MOE),
    "llama4": Row(layers=4, is_moe=True),
    **dict.fromkeys(("cohere2moe", "mimo2", "step35"), Row(is_moe=True, changes=_PATTERN)),
    **dict.fromkeys(("granite_swa", "spark2_5", "muse-glimmer"), Row(changes=_PATTERN)),
    "maple": Row(is_moe=True, changes={**_PATTERN, "swiglu_clamp_exp": 7.0}),
    **dict.fromkeys(("jamba", "granitehybrid", "lfm2"), Row(changes=_SOME_LAYERS)),
    "plamo2": Row(changes={**_SOME_LAYERS, "ssm.group_count": 0, "attention.key_length": 16}),
    "lfm2moe": Row(is_moe=True, changes=_SOME_LAYERS),
    "nemotron_h": Row(changes={**_SOME_LAYERS, "feed_forward_length": [0, 0, 96]}),
    "nemotron_h_moe": Row(is_moe=True, changes={**_SOME_LAYERS, "feed_forward_length": [0, 0, 96]}),
    "qwen3next": Row(is_moe=True, changes={"ssm.inner_size": 64}),
    "qwen35": Row(changes={"ssm.inner_size": 64}),
    "qwen35moe": Row(is_moe=True, changes={"ssm.inner_size": 64}),
    **dict.fromkeys(("deepseek2", "deepseek32", "glm-dsa", "mistral4"), Row(is_moe=True, changes=_latent())),
    **dict.fromkeys(("kimi-linear", "kimi-k3"), Row(is_moe=True, changes={**_latent(), **_SOME_LATENT_LAYERS})),
    "bailingmoe3": Row(
        is_moe=True,
        changes={
            **_latent(),
            **_SOME_LATENT_LAYERS,
            "rope.dimension_sections": [1, 1, 2, 0],
            "swiglu_clamp_exp": [0.0, 4.0, 4.0],
            "swiglu_clamp_shexp": [0.0, 5.0, 5.0],
        },
    ),
    "dots3note": Row(
        is_moe=True,
        changes={
            **_PATTERN,
            **_latent(),
            "attention.kv_lora_rank_swa": 64,
            "attention.key_length_swa": 72,
            "attention.value_length_swa": 64,
            "attention.key_length_mla_swa": 24,
            "attention.value_length_mla_swa": 16,
            "rope.freq_base_swa": 10000.0,
            "attention.indexer.types": [1, 0, 1],
        },
    ),
    "hy_v4": Row(
        is_moe=True,
        changes={
            **_latent(),
            **_HYPER,
            "hyper_connection.magnitude": 2.0,
            "swiglu_clamp_exp": 10.0,
            "expert_weights_scale": 1.0,
            "expert_weights_norm": True,
            "attention.indexer.types": [1, 0, 1],
        },
    ),
    "deepseek4": Row(
        width=64,
        heads=8,
        layers=4,
        is_moe=True,
        changes={
            **_HYPER,
            "attention.head_count_kv": 1,
            "attention.key_length": 8,
            "attention.value_length": 8,
            "rope.dimension_count": 4,
            "attention.output_group_count": 8,
            "attention.output_lora_rank": 32,
            "attention.compress_ratios": [0, 0, 4, 128],
            "attention.compress_rope_freq_base": 160000.0,
            "hash_layer_count": 0,
            "swiglu_clamp_exp": 10.0,
            "expert_weights_scale": 1.0,
            "expert_weights_norm": True,
            "expert_gating_func": 4,
        },
    ),
    "qwen4exp": Row(
        is_moe=True,
        changes={**_HYPER, **_PER_LAYER, "ssm.inner_size": 64, "attention.indexer.key_length": 16},
    ),
    "glm5-next": Row(
        is_moe=True,
        changes={
            **_HYPER,
            **_PER_LAYER,
            **_latent(),
            "attention.key_length": 64,
            "rope.dimension_count": 0,
            "attention.head_count_kv": [1, 0, 1],
        },
    ),
    "minimax-m3": Row(is_moe=True, changes={"attention.indexer.head_count": 4}),
    "graniteswitch": Row(
        changes={
            "adapters.count": 2,
            "adapters.lora_rank": 8,
            "adapters.token_ids_activate": [300, 301],
            "adapters.token_ids_substitute": [302, 303],
        }
    ),
    "hrm_text": Row(layers=6, changes={"hrm.layers_per_stack": 1, "hrm.h_cycles": 2, "hrm.l_cycles": 2}),
    # llama.cpp's vector code for these takes heads of 64 for granted.
    **dict.fromkeys(("rwkv6", "rwkv7"), Row(width=128, heads=2)),
    "arwkv7": Row(width=128, heads=2, changes={"token_shift_count": 1}),
    "rwkv6qwen2": Row(width=128, heads=2, changes={"token_shift_count": 1}, without=("time_mix_first",)),
    "gemma3n": Row(layers=22),
    "gemma4": Row(
        layers=5,
        changes={
            "embedding_length_per_layer_input": 32,
            "attention.shared_kv_layers": 0,
            "attention.key_length_swa": 16,
            "attention.value_length_swa": 16,
            "rope.freq_base_swa": 10000.0,
            "attention.sliding_window_pattern": [1, 1, 1, 1, 0],
        },
    ),
    "chameleon": Row(vocabulary=10240),
}
"""Of every architecture that continues texts, a tiny model."""

REFUSED = {
    # Its graph blanks the tokens of pictures in the first row of logits, and ends the process where there is none.
    "chameleon": "GGML_ASSERT(ggml_nelements(a) >= ggml_nelements(b)) failed",
}
"""Those of ROWS that llama.cpp cannot run, and its last words, which the refusal has."""

NOT_WRITTEN = {
    "gptj": "llama.cpp has its name alone: it loads no file of this architecture",
}
"""Architectures without a model here, and why."""
