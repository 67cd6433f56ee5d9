"""Which family a chat template speaks: seen by the marks that it writes. Pure."""

from __future__ import annotations

from dataclasses import replace

from canister.chat_format.families import (
    deepseek,
    functionary,
    gemma,
    glm,
    harmony,
    hermes,
    invoked,
    json_lists,
    kimi,
    llama,
    mistral,
    others,
    qwen_coder,
)
from canister.chat_format.family import Family, Row, Thoughts
from canister.chat_format.form import Form

_MODULES = (
    harmony,
    mistral,
    kimi,
    invoked,
    deepseek,
    others,
    gemma,
    qwen_coder,
    glm,
    functionary,
    json_lists,
    hermes,
    llama,
)
ROWS: tuple[Row, ...] = tuple(row for module in _MODULES for row in module.ROWS)
"""The first row whose texts a template holds is its family: what is most unlike others comes first."""

_THOUGHTS = (
    Thoughts("<think>", "</think>"),
    Thoughts("<seed:think>", "</seed:think>"),
    Thoughts("[THINK]", "[/THINK]"),
    Thoughts("<thought>", "</thought>"),
    Thoughts("<thinking>", "</thinking>"),
)


def form_of(template: str) -> Form:
    """The form of this template's models; generic where it has no marks of its own."""
    family = next((row.family for row in ROWS if row.speaks(template)), hermes.GENERIC)
    if not family.thoughts:
        family = replace(family, thoughts=tuple(one for one in _THOUGHTS if one.end in template))
    return Form(family)


def families() -> tuple[Family, ...]:
    """All of them, each once."""
    return (*{row.family.name: row.family for row in ROWS}.values(), hermes.GENERIC)
