"""A model as turns are made for it, without one."""

from __future__ import annotations

import dataclasses
from typing import get_type_hints

from canister.dispatch import ModelView
from canister.flags.parse import parse


def view(*flags: str, **changes: object) -> ModelView:
    """flags: those that it was loaded with. What no turn depends on is empty."""
    kinds = get_type_hints(ModelView)
    plain = [name for field in dataclasses.fields(ModelView) if kinds[name := field.name] in (str, int, bool)]
    values: dict[str, object] = {name: kinds[name]() for name in plain}
    values |= {"name": "llama_cpp", "aliases": (), "args": parse(["--model", "m.gguf", *flags])}
    values |= {"n_ctx": 1024, "n_slots": 4, "n_vocab": 2048}
    return ModelView(**{**values, **changes})  # type: ignore[arg-type]
