"""What a mistyped name may have been meant as."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

ALIKE = 0.7  # of difflib's ratio: one letter off in four is a slip, one half in common is another word
_COMPARED_CHARACTERS = 100  # what comes from outside may be of any length


def nearest(name: str, names: Iterable[str], alike: float = ALIKE) -> str | None:
    """The most similar of the names; None if nothing resembles it. alike: 0 takes any, 1 only the name itself."""
    near = difflib.get_close_matches(name[:_COMPARED_CHARACTERS], names, n=1, cutoff=alike)
    return near[0] if near else None
