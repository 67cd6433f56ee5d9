"""Sampling settings as llama.cpp's server tells them: in `/props`, and with answers of `/completion`."""

from __future__ import annotations

import math
from dataclasses import fields

from pydantic import JsonValue

from canister.flags.params import SamplingParams
from canister.flags.values import UINT32_MAX

# Grammars are told as they were asked for, and biases in a form of their own.
_TOLD_APART = frozenset({"samplers", "dry_sequence_breakers", "logit_bias", "grammar", "json_schema"})


def generation_settings(sampling: SamplingParams, seed: int | None, max_tokens: int | None) -> dict[str, JsonValue]:
    """The settings as a JSON object. seed None: drawn. max_tokens None: until the context is full."""
    plain = {
        field.name: getattr(sampling, field.name) for field in fields(SamplingParams) if field.name not in _TOLD_APART
    }
    n_predict = -1 if max_tokens is None else max_tokens
    return {
        "seed": UINT32_MAX if seed is None else seed,  # llama.cpp's way to say that it is drawn
        **{name: value for name, value in plain.items() if isinstance(value, bool | int | float)},
        "dry_sequence_breakers": list(sampling.dry_sequence_breakers),
        "samplers": list(sampling.samplers),
        "logit_bias": [
            {"token": token, "bias": bias if math.isfinite(bias) else False} for token, bias in sampling.logit_bias
        ],
        "grammar": sampling.grammar,
        "max_tokens": n_predict,
        "n_predict": n_predict,
    }
