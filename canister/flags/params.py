"""How the next token is chosen: the sampling settings of one call, as plain values.

Pure data: `parse.py` makes it from command-line flags, `engine/sampling/chain.py` builds a sampler chain from it.
Defaults are those of llama-completion (llama.cpp b10076).
"""

from __future__ import annotations

from dataclasses import dataclass

DEFAULT_SAMPLERS = (
    "penalties",
    "dry",
    "top_n_sigma",
    "top_k",
    "typ_p",
    "top_p",
    "min_p",
    "xtc",
    "temperature",
)


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """Settings of the sampler chain; names follow llama.cpp's flags.

    grammar (GBNF), json_schema, lark: what the answer is bound to; one of them at most. lark: a grammar in llguidance's
    Lark dialect; `%json {…}` embeds a JSON schema, `<name>` is a special token, or its text where the vocabulary has
    no such token.
    grammar_triggers: the grammar binds from the first of these texts in the answer on, which is part of what it
    describes; none: from the answer's first token on. grammar_quiet: (begin, end) of the parts in which they do not
    count, such as thoughts; "" begins with the answer.
    """

    samplers: tuple[str, ...] = DEFAULT_SAMPLERS
    temperature: float = 0.8
    dynatemp_range: float = 0.0
    dynatemp_exponent: float = 1.0
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    top_n_sigma: float = -1.0
    typical_p: float = 1.0
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    min_keep: int = 0
    repeat_last_n: int = 64  # tokens; 0 none, -1 the context
    repeat_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_penalty_last_n: int = -1  # tokens; 0 none, -1 the context
    dry_sequence_breakers: tuple[str, ...] = ("\n", ":", '"', "*")
    adaptive_target: float = -1.0
    adaptive_decay: float = 0.9
    mirostat: int = 0  # 0 off, 1, 2
    mirostat_tau: float = 5.0
    mirostat_eta: float = 0.1
    logit_bias: tuple[tuple[int, float], ...] = ()
    ignore_eos: bool = False
    grammar: str = ""
    json_schema: str = ""  # as text
    lark: str = ""
    grammar_triggers: tuple[str, ...] = ()
    grammar_quiet: tuple[tuple[str, str], ...] = ()
