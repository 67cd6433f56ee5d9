"""The command-line flags of llama-completion (llama.cpp b10076), one row each: its value, its effect.

`parse.py` interprets the rows and draws docs/flags.md from them. A flag counts, or has no effect (what it asks for
cannot matter here), or is refused with the way out (it would reach outside the canister, or is not offered). Flags of
later releases stand here too where they have no effect, so that a newer script still runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from canister.flags.values import (
    CONTEXT_SIZE,
    GPU_LAYERS,
    INT32_MAX,
    JSON_OBJECT,
    JSON_SCHEMA,
    KV_TYPE,
    LOGIT_BIAS,
    ON_OFF_AUTO,
    PATH,
    RECIPROCAL,
    ROPE_SCALING,
    SAMPLER_SEQUENCE,
    SAMPLERS,
    SEED,
    SPEC_TYPE,
    SPLIT_MODE,
    TEMPERATURE,
    TENSOR_SPLIT,
    TEXT,
    ValueKind,
    choice,
    number,
    whole,
)


class Effect(Enum):
    COUNTS = "counts"
    IGNORED = "no effect"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Flag:
    """One flag in all its spellings.

    names, off: spellings that set it, and (switches only) that negate it; the last of `names` is canonical.
    kind: the value that follows; None for a switch, which sets `value`.
    field: where it goes: a field of RunArgs; after `sampling.` SamplingParams, after `rope.` RopeParams, …
    appends: values add up instead of the last one winning.
    clears: another field that this flag puts back to its default.
    note: its meaning, or why it has no effect or is refused, and the way out.
    """

    names: tuple[str, ...]
    effect: Effect
    note: str
    kind: ValueKind[object] | None = None
    field: str = ""
    off: tuple[str, ...] = ()
    value: object = True
    appends: bool = False
    clears: str = ""

    @property
    def canonical(self) -> str:
        return self.names[-1]


def _takes(
    names: str, kind: ValueKind[object], field: str, note: str, *, appends: bool = False, clears: str = ""
) -> Flag:
    return Flag(tuple(names.split()), Effect.COUNTS, note, kind, field, appends=appends, clears=clears)


def _switch(names: str, field: str, note: str, *, off: str = "", value: object = True) -> Flag:
    return Flag(tuple(names.split()), Effect.COUNTS, note, None, field, tuple(off.split()), value)


def _ignored(names: str, note: str, kind: ValueKind[object] | None = None, *, off: str = "") -> Flag:
    return Flag(tuple(names.split()), Effect.IGNORED, note, kind, off=tuple(off.split()))


def _refused(names: str, note: str) -> Flag:
    return Flag(tuple(names.split()), Effect.REFUSED, note)


_THREADS = "threads and processors are the server's choice"
_DEVICES = "where the model is computed is the server's choice"
_LOADING = "how the model file is read is the server's choice"
_DIALOGUE = "a call is one turn, never a dialogue at a terminal; the prompt goes in with -p as it is"
_TEMPLATE = "no chat template is applied; the prompt goes in with -p as it is"
_DISPLAY = "only the reply's fields are answered, nothing is displayed"
_NO_TREES = "a draft is one sequence of tokens, without branches"
_REMOVED = "llama.cpp has no such flag any more"
_DOWNLOAD = "nothing is downloaded: upload the file and name it with --model"
_ADAPTER = "adapters are not offered: merge it into the model, upload that and name it with --model"
_SELF_EXTEND = "self-extend is not offered: stretch the context with --rope-scaling yarn"
_PRINTS = "it prints and exits: the flags are listed in docs/flags.md"

BREAKERS = "sampling.dry_sequence_breakers"

# fmt: off
SECTIONS: dict[str, tuple[Flag, ...]] = {
    "Model and context": (
        _takes("-m --model", PATH, "model", "model file, a path in stable memory"),
        _takes("-c --ctx-size", CONTEXT_SIZE, "ctx_size", "context in tokens, 8 or more; 0: the model's"),
        _takes("-b --batch-size", whole(1), "batch_size", "most prompt tokens in one logical batch"),
        _takes("-ub --ubatch-size", whole(1), "ubatch_size", "most tokens computed at once"),
        _takes("-ctk --cache-type-k", KV_TYPE, "cache_type_k", "type of the keys in the KV cache"),
        _takes("-ctv --cache-type-v", KV_TYPE, "cache_type_v", "type of the values in the KV cache"),
        _takes("-fa --flash-attn", ON_OFF_AUTO, "flash_attn", "flash attention; the bare flag means on"),
        _switch("--swa-full", "swa_full", "sliding-window layers keep the whole context"),
        _takes("--rope-scaling", ROPE_SCALING, "rope.scaling", "how RoPE is stretched; else as in the model"),
        _takes("--rope-scale", RECIPROCAL, "rope.freq_scale", "factor by which RoPE stretches the context"),
        _takes("--rope-freq-base", number(0.0), "rope.freq_base", "RoPE base frequency; 0: the model's"),
        _takes("--rope-freq-scale", number(0.0), "rope.freq_scale", "RoPE frequency factor; 0: the model's"),
        _takes("--yarn-orig-ctx", whole(0), "rope.yarn_orig_ctx", "context of training; 0: the model's"),
        _takes("--yarn-ext-factor", number(), "rope.yarn_ext_factor", "YaRN mix; below 0: the model's"),
        _takes("--yarn-attn-factor", number(), "rope.yarn_attn_factor", "YaRN scale; below 0: the model's"),
        _takes("--yarn-beta-slow", number(), "rope.yarn_beta_slow", "YaRN high end; below 0: the model's"),
        _takes("--yarn-beta-fast", number(), "rope.yarn_beta_fast", "YaRN low end; below 0: the model's"),
    ),
    # Of load_model. Where llama.cpp's build can offload to no device they change nothing, and the log says so.
    "Devices (load_model)": (
        _takes("-ngl --gpu-layers --n-gpu-layers", GPU_LAYERS, "placement.n_gpu_layers", "layers that devices compute"),
        _takes("-sm --split-mode", SPLIT_MODE, "placement.split_mode", "how several devices share the model"),
        _takes("-ts --tensor-split", TENSOR_SPLIT, "placement.tensor_split", "parts of the devices, as 3,1"),
        _takes("-mg --main-gpu", whole(0), "placement.main_gpu", "the device, with --split-mode none or row"),
        _switch("-kvo --kv-offload", "placement.kv_offload", "KV rows lie beside layers", off="-nkvo --no-kv-offload"),
    ),
    # Of load_model. They change how fast an answer comes, and no token of it.
    "Speculation (load_model)": (
        _takes("-md --model-draft --spec-draft-model", PATH, "draft.model", "a small model that guesses for it"),
        _takes("--spec-type", SPEC_TYPE, "draft.spec_type", "in place of the server's; several with commas"),
        _takes("--spec-draft-n-max", whole(0), "draft.n_max", "tokens of a draft, at most 15; else the server's"),
        _takes("--spec-draft-n-min", whole(0), "draft.n_min", "fewer guessed tokens are not decoded"),
        _takes("--draft-p-min --spec-draft-p-min", number(0.0), "draft.p_min", "least probability of a guess"),
        _takes("-ctkd --cache-type-k-draft --spec-draft-type-k", KV_TYPE, "draft.type_k", "type of its keys"),
        _takes("-ctvd --cache-type-v-draft --spec-draft-type-v", KV_TYPE, "draft.type_v", "type of its values"),
    ),
    "Prompt and prompt cache": (
        _takes("-p --prompt", TEXT, "prompt", "the prompt; empty: go on where the cache ends"),
        _switch("-e --escape", "escape", r"read \n \r \t \' \" \\ \xHH in texts", off="--no-escape"),
        _takes("--prompt-cache", PATH, "prompt_cache", "name of the caller's prompt cache"),
        _switch("--prompt-cache-all", "prompt_cache_all", "keep generated tokens too (always done here)"),
        _switch("--prompt-cache-ro", "prompt_cache_ro", "read the prompt cache, do not write it"),
        _takes("--keep", whole(-1), "keep", "prompt tokens that a context shift keeps; -1: all"),
        _switch("--context-shift", "context_shift", "a full context drops a part", off="--no-context-shift"),
    ),
    "Generation": (
        _takes("-n --predict --n-predict", whole(-2), "n_predict", "most tokens to sample; -1, -2: no limit"),
        _takes("-r --reverse-prompt", TEXT, "reverse_prompts", "stop after this; may repeat", appends=True),
        _switch("-sp --special", "special", "show special tokens in output and conversation"),
    ),
    "Sampling": (
        _takes("--samplers", SAMPLERS, "sampling.samplers", "the samplers, in their order"),
        _takes("--sampler-seq --sampling-seq", SAMPLER_SEQUENCE, "sampling.samplers", "the same by letters"),
        _takes("-s --seed", SEED, "seed", "seed of the draws; -1: drawn at the chat's first call"),
        _switch("--ignore-eos", "sampling.ignore_eos", "never sample an end-of-generation token"),
        _takes("--temp --temperature", TEMPERATURE, "sampling.temperature", "temperature; 0: greedy"),
        _takes("--top-k", whole(), "sampling.top_k", "among the N likeliest; 0 or less: all"),
        _takes("--top-p", number(), "sampling.top_p", "nucleus sampling; 1: off"),
        _takes("--min-p", number(), "sampling.min_p", "at least this share of the likeliest; 0: off"),
        _takes("--top-nsigma --top-n-sigma", number(), "sampling.top_n_sigma", "within N sigma; -1: off"),
        _takes("--xtc-probability", number(), "sampling.xtc_probability", "chance of XTC; 0: off"),
        _takes("--xtc-threshold", number(), "sampling.xtc_threshold", "XTC threshold; above 0.5: off"),
        _takes("--typical --typical-p", number(), "sampling.typical_p", "locally typical sampling; 1: off"),
        _takes("--repeat-last-n", whole(-1), "sampling.repeat_last_n", "tokens penalties see; -1: all"),
        _takes("--repeat-penalty", number(above=0.0), "sampling.repeat_penalty", "of repeats; 1: off"),
        _takes("--presence-penalty", number(), "sampling.presence_penalty", "for having occurred; 0: off"),
        _takes("--frequency-penalty", number(), "sampling.frequency_penalty", "for each occurrence; 0: off"),
        _takes("--dry-multiplier", number(), "sampling.dry_multiplier", "strength of DRY; 0: off"),
        _takes("--dry-base", number(1.0), "sampling.dry_base", "base of the DRY penalty"),
        _takes("--dry-allowed-length", whole(), "sampling.dry_allowed_length", "repeats up to this are free"),
        _takes("--dry-penalty-last-n", whole(-1), "sampling.dry_penalty_last_n", "tokens it sees; -1: all"),
        _takes("--dry-sequence-breaker", TEXT, BREAKERS, "in place of the defaults, or none", appends=True),
        _takes("--adaptive-target", number(), "sampling.adaptive_target", "adaptive-p target; below 0: off"),
        _takes("--adaptive-decay", number(), "sampling.adaptive_decay", "adaptive-p decay, 0 to 0.99"),
        _takes("--dynatemp-range", number(), "sampling.dynatemp_range", "range of temperatures; 0: off"),
        _takes("--dynatemp-exp", number(), "sampling.dynatemp_exponent", "exponent of the range"),
        _takes("--mirostat", whole(0, 2), "sampling.mirostat", "Mirostat version; 0: off"),
        _takes("--mirostat-lr", number(), "sampling.mirostat_eta", "Mirostat learning rate"),
        _takes("--mirostat-ent", number(), "sampling.mirostat_tau", "Mirostat target entropy"),
        _takes("-l --logit-bias", LOGIT_BIAS, "sampling.logit_bias", "as 15043+1; may repeat", appends=True),
        _takes("--grammar", TEXT, "sampling.grammar", "GBNF of the output", clears="sampling.json_schema"),
        _takes("-j --json-schema", JSON_SCHEMA, "sampling.json_schema", "a JSON schema", clears="sampling.grammar"),
    ),
    # Of load_model: what is so for the chats of the OpenAI door that do not say otherwise.
    "Chats (load_model)": (
        _takes("--chat-template", TEXT, "chat_template", "Jinja, or chatml, in place of the model's own"),
        _takes("--chat-template-kwargs", JSON_OBJECT, "chat_template_kwargs", "variables of the template, as JSON"),
        _takes("-rea --reasoning", ON_OFF_AUTO, "reasoning", "thoughts first; auto: as the template has it"),
        _takes("--reasoning-effort", TEXT, "reasoning_effort", "how much is thought, for the template"),
        _takes("--reasoning-format", TEXT, "reasoning_format", "none: thoughts stay in the answer"),
        _switch(
            "--reasoning-preserve",
            "reasoning_preserve",
            "thoughts of former turns stay, where the template asks",
            off="--no-reasoning-preserve",
        ),
    ),
    "Log": (
        _takes("--log-file", PATH, "log_file", "append the call's log to this stable-memory file"),
        _switch("--log-disable", "log_disable", "write no log for this call"),
        _takes("-lv --verbosity --log-verbosity", whole(), "log_verbosity", "1 errors, 2 warnings, 3 info"),
        _switch("-v --verbose --log-verbose", "log_verbosity", "log everything", value=INT32_MAX),
        _switch("--log-prefix", "log_prefix", "the level in front of each line", off="--no-log-prefix"),
        _switch("--log-timestamps", "log_timestamps", "the time in front", off="--no-log-timestamps"),
        _switch("--verbose-prompt", "verbose_prompt", "log the prompt token by token"),
    ),
    "No effect": (
        _ignored("-t --threads", _THREADS, whole()),
        _ignored("-tb --threads-batch", _THREADS, whole()),
        _ignored("-C --cpu-mask", _THREADS, TEXT),
        _ignored("-Cr --cpu-range", _THREADS, TEXT),
        _ignored("--cpu-strict", _THREADS, whole()),
        _ignored("--prio", _THREADS, whole(-1, 3)),
        _ignored("--poll", _THREADS, whole()),
        _ignored("-Cb --cpu-mask-batch", _THREADS, TEXT),
        _ignored("-Crb --cpu-range-batch", _THREADS, TEXT),
        _ignored("--cpu-strict-batch", _THREADS, whole()),
        _ignored("--prio-batch", _THREADS, whole(0, 3)),
        _ignored("--poll-batch", _THREADS, whole()),
        _ignored("--numa", _THREADS, choice("distribute", "isolate", "numactl", "")),
        _ignored("-np --parallel", "how many conversations run together is the server's choice", whole()),
        _ignored("-dev --device", _DEVICES, TEXT),
        _ignored("-ot --override-tensor", _DEVICES, TEXT),
        _ignored("-cmoe --cpu-moe", _DEVICES),
        _ignored("-ncmoe --n-cpu-moe", _DEVICES, whole(0)),
        _ignored("-ncffn --n-cpu-ffn", _DEVICES, whole(0)),
        _ignored("--op-offload", _DEVICES, off="--no-op-offload"),
        _ignored("--no-host", _DEVICES),
        _ignored("-fit --fit", _DEVICES, ON_OFF_AUTO),
        _ignored("-fitt --fit-target", _DEVICES, TEXT),
        _ignored("-fitc --fit-ctx", _DEVICES, whole()),
        _ignored("-bs --backend-sampling", _DEVICES),
        _ignored("--repack", _LOADING, off="-nr --no-repack"),
        _ignored("--mlock", _LOADING),
        _ignored("--mmap", _LOADING, off="--no-mmap"),
        _ignored("-dio --direct-io", _LOADING, off="-ndio --no-direct-io"),
        _ignored("-lm --load-mode", _LOADING, choice("auto", "none", "mmap", "mlock", "mmap+mlock", "dio")),
        _ignored("-lzm --lazy-mode", _LOADING, choice("on", "auto", "off")),
        _ignored("--check-tensors", "the whole file is checked when it is loaded"),
        _ignored("--warmup", "a call never pays for warming up", off="--no-warmup"),
        _ignored("--offline", "nothing is ever downloaded"),
        _ignored("-dt --defrag-thold", "the KV cache needs no defragmentation", TEXT),
        _ignored("--perf", "timings are in the metrics", off="--no-perf"),
        _ignored("-ptc --print-token-count", _DISPLAY, whole()),
        _ignored("--display-prompt", _DISPLAY, off="--no-display-prompt"),
        _ignored("-co --color", _DISPLAY, ON_OFF_AUTO),
        _ignored("--log-colors", _DISPLAY, ON_OFF_AUTO),
        _ignored("--log-jsonl", _DISPLAY, off="--no-log-jsonl"),
        _ignored("--simple-io", _DISPLAY),
        _ignored("-cnv --conversation", _DIALOGUE, off="-no-cnv --no-conversation"),
        _ignored("-st --single-turn", _DIALOGUE),
        _ignored("-i --interactive", _DIALOGUE),
        _ignored("-if --interactive-first", _DIALOGUE),
        _ignored("-mli --multiline-input", _DIALOGUE),
        _ignored("--in-prefix-bos", _DIALOGUE),
        _ignored("--in-prefix", _DIALOGUE, TEXT),
        _ignored("--in-suffix", _DIALOGUE, TEXT),
        _ignored("-sys --system-prompt", _TEMPLATE, TEXT),
        _ignored("--jinja", _TEMPLATE, off="--no-jinja"),
        _ignored("--skip-chat-parsing", _TEMPLATE, off="--no-skip-chat-parsing"),
        _ignored("--reasoning-budget", _TEMPLATE, whole(-1)),
        _ignored("--reasoning-budget-message", _TEMPLATE, TEXT),
        _ignored("-td --threads-draft --spec-draft-threads", _THREADS, whole()),
        _ignored("-tbd --threads-batch-draft --spec-draft-threads-batch", _THREADS, whole()),
        _ignored("-Cd --cpu-mask-draft --spec-draft-cpu-mask", _THREADS, TEXT),
        _ignored("-Crd --cpu-range-draft --spec-draft-cpu-range", _THREADS, TEXT),
        _ignored("--cpu-strict-draft --spec-draft-cpu-strict", _THREADS, whole()),
        _ignored("--prio-draft --spec-draft-prio", _THREADS, whole(-1, 3)),
        _ignored("--poll-draft --spec-draft-poll", _THREADS, whole()),
        _ignored("-devd --device-draft --spec-draft-device", _DEVICES, TEXT),
        _ignored("-ngld --gpu-layers-draft --n-gpu-layers-draft --spec-draft-ngl", _DEVICES, GPU_LAYERS),
        _ignored("-otd --override-tensor-draft --spec-draft-override-tensor", _DEVICES, TEXT),
        _ignored("-cmoed --cpu-moe-draft --spec-draft-cpu-moe", _DEVICES),
        _ignored("-ncmoed --n-cpu-moe-draft --spec-draft-ncmoe --spec-draft-n-cpu-moe", _DEVICES, whole(0)),
        _ignored("--spec-draft-backend-sampling", _DEVICES, off="--no-spec-draft-backend-sampling"),
        _ignored("--draft-p-split --spec-draft-p-split", _NO_TREES, number()),
    ),
    "Refused": (
        _refused("-f --file", "it reads a file of the host: pass the text with -p"),
        _refused("-bf --binary-file", "it reads a file of the host: pass the text with -p"),
        _refused("-sysf --system-prompt-file", "it reads a file of the host: put the text into -p"),
        _refused("--grammar-file", "it reads a file of the host: pass the grammar with --grammar"),
        _refused("-jf --json-schema-file", "it reads a file of the host: pass the schema with --json-schema"),
        _refused("--chat-template-file", f"it reads a file of the host, and {_TEMPLATE}"),
        _refused("--lora", _ADAPTER),
        _refused("--lora-scaled", _ADAPTER),
        _refused("--control-vector", _ADAPTER),
        _refused("--control-vector-scaled", _ADAPTER),
        _refused("--control-vector-layer-range", _ADAPTER),
        _refused("-mu --model-url", _DOWNLOAD),
        _refused("-dr --docker-repo", _DOWNLOAD),
        _refused("-hf -hfr --hf-repo", _DOWNLOAD),
        _refused("-hff --hf-file", _DOWNLOAD),
        _refused("-hfv -hfrv --hf-repo-v", _DOWNLOAD),
        _refused("-hffv --hf-file-v", _DOWNLOAD),
        _refused("-hfd -hfrd --hf-repo-draft --spec-draft-hf", "upload it and name it with --model-draft"),
        _refused("--draft --draft-n --draft-max", f"{_REMOVED}: give --spec-draft-n-max"),
        _refused("--draft-min --draft-n-min", f"{_REMOVED}: give --spec-draft-n-min"),
        _refused("-hft --hf-token", "nothing is downloaded: never put a token into a call"),
        _refused("-mm --mmproj", "images and sound are not offered: describe them in the prompt"),
        _refused("-mmu --mmproj-url", _DOWNLOAD),
        _refused("--rpc", "no other machine is called: the server computes alone"),
        _refused("--kl-divergence-base --logits-file", "it writes a file of the host: leave it out"),
        _refused("--override-kv", "metadata is not overridden: change it in the file and upload that"),
        _refused("-gan --grp-attn-n", _SELF_EXTEND),
        _refused("-gaw --grp-attn-w", _SELF_EXTEND),
        _refused("-h --usage --help", _PRINTS),
        _refused("--version", _PRINTS),
        _refused("--completion-bash", _PRINTS),
        _refused("-cl --cache-list", _PRINTS),
        _refused("--list-devices", _PRINTS),
    ),
}
# fmt: on

FLAGS: tuple[Flag, ...] = tuple(flag for rows in SECTIONS.values() for flag in rows)
