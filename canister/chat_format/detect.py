"""The family of a chat template, found by the marks that it writes. Pure."""

from __future__ import annotations

from collections.abc import Sequence
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
    minimax_m3,
    mistral,
    others,
    qwen_coder,
)
from canister.chat_format.family import Family, Row, Thoughts
from canister.chat_format.form import Form

_MODULES = (
    harmony,
    minimax_m3,
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
"""The first row whose texts a template holds is its family. The most distinctive rows come first."""

_THOUGHTS = (
    Thoughts("<think>", "</think>"),
    Thoughts("<seed:think>", "</seed:think>"),
    Thoughts("[THINK]", "[/THINK]"),
    Thoughts("<thought>", "</thought>"),
    Thoughts("<thinking>", "</thinking>"),
)


_BY_NAME = {family.name: family for family in (hermes.GENERIC, *(row.family for row in ROWS))}


def form_of(template: str) -> Form:
    """The form of this template's models; generic where it has no marks of its own."""
    family = next((row.family for row in ROWS if row.speaks(template)), hermes.GENERIC)
    if not family.thoughts:
        family = replace(family, thoughts=tuple(one for one in _THOUGHTS if one.end in template))
    return Form(family)


def form_named(name: str, thoughts: Sequence[Sequence[str]] = ()) -> Form:
    """The form that was told by its name and marks of thoughts (`Form.told`). KeyError: there is none of this name."""
    family = _BY_NAME[name]
    if not family.thoughts:
        family = replace(family, thoughts=tuple(Thoughts(begin, end) for begin, end in thoughts))
    return Form(family)


def families() -> tuple[Family, ...]:
    """All of them, each once."""
    return tuple(_BY_NAME.values())
