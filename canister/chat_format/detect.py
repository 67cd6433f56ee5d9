"""Which family a chat template speaks: seen by the marks that it writes. Pure."""

from __future__ import annotations

from dataclasses import replace

from canister.chat_format.families import hermes
from canister.chat_format.family import Family, Thoughts
from canister.chat_format.form import Form

_THOUGHTS = (
    Thoughts("<think>", "</think>"),
    Thoughts("<seed:think>", "</seed:think>"),
    Thoughts("[THINK]", "[/THINK]"),
)


def form_of(template: str) -> Form:
    """The form of this template's models; generic where it has no marks of its own."""
    family = _family(template)
    if not family.thoughts:
        family = replace(family, thoughts=tuple(one for one in _THOUGHTS if one.end in template))
    return Form(family)


def _family(template: str) -> Family:
    if hermes.BEGIN in template and "tools" in template:
        return hermes.HERMES
    return hermes.GENERIC
