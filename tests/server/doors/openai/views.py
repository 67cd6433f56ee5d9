"""A model as turns are made for it, without one."""

from __future__ import annotations

from canister.dispatch import ModelView
from canister.flags.parse import parse


def view(*flags: str, **changes: object) -> ModelView:
    """flags: those that it was loaded with."""
    values: dict[str, object] = {
        "name": "llama_cpp",
        "aliases": (),
        "args": parse(["--model", "m.gguf", *flags]),
        "created": 0,
        "description": "made up",
        "n_ctx": 1024,
        "n_ctx_train": 1024,
        "n_slots": 4,
        "n_vocab": 2048,
        "n_embd": 64,
        "n_params": 1,
        "n_bytes": 1,
        "vocab_type": 2,
        "fingerprint": "b0",
    }
    return ModelView(**{**values, **changes})  # type: ignore[arg-type]
