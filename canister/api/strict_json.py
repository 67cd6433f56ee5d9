"""JSON from strangers, read in one place: RFC 8259 only, and no more values than a bound.

Reading and checking a body costs by its values rather than its bytes, so they are counted first.
"""

from __future__ import annotations

import itertools
import math
import re
from typing import Any

from pydantic_core import from_json

MAX_VALUES = 100_000
LARGE_VALUES = 2_000
LARGE_CHARACTERS = 65_536

# Up to the next bracket or comma outside of texts. It always matches, so no text is read twice.
_NEXT = re.compile(rb'(?:[^"\[{,]++|"(?:[^"\\]++|\\.)*+"?)*+(?:[\[{,]|\Z)', re.DOTALL)


# What numbers that no float can hold have in them; a text may have it too.
_SUSPECT = re.compile(rb"NaN|Infinity|[0-9][eE]\+?[0-9]|[0-9]{300}")
_TOO_MANY = f"the JSON has more than {MAX_VALUES} values; send less at once"


class NotJson(ValueError):
    """Not JSON, or too much of it. The message says which and where."""


def read(text: str | bytes) -> Any:
    """The value of a JSON text. Raises NotJson, also for NaN and for numbers that no float can hold."""
    data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    if not _is_bounded(data):
        raise NotJson(_TOO_MANY)
    try:
        value = from_json(data, allow_inf_nan=False)
    except ValueError as error:
        raise NotJson(f"Invalid JSON: {error}") from None
    if not _is_finite(value):
        raise NotJson("Invalid JSON: a number is larger than a 64-bit float can hold")
    return value


def is_large(*values: object) -> bool:
    """Is it more than some milliseconds' work to go through all of these? Looks at no more than it takes to tell."""
    left = [*values]
    n_values = n_characters = 0
    while left:
        value = left.pop()
        n_values += 1
        if isinstance(value, str):
            n_characters += len(value)
        elif isinstance(value, dict):
            n_values += len(value)  # its keys
            left += value.values() if len(value) <= LARGE_VALUES else ()
        elif isinstance(value, list | tuple):
            if len(value) > LARGE_VALUES:
                return True
            left += value
        if n_values > LARGE_VALUES or n_characters > LARGE_CHARACTERS:
            return True
    return False


def check(text: str | bytes) -> None:
    """Raises NotJson for what `read` refuses and pydantic takes: too many values, NaN, numbers that no float can hold.

    Only a text that may have such numbers is read for that. What is no JSON at all, pydantic tells.
    """
    data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    if _SUSPECT.search(data):
        read(data)
    elif not _is_bounded(data):
        raise NotJson(_TOO_MANY)


def _is_bounded(data: bytes) -> bool:
    """Are there at most MAX_VALUES? Each value but the first comes after a comma or a bracket."""
    if sum(map(data.count, (b",", b"[", b"{"))) < MAX_VALUES:
        return True
    found = itertools.islice(_NEXT.finditer(data), MAX_VALUES)
    return sum(match[0][-1:] in (b",", b"[", b"{") for match in found) < MAX_VALUES


def _is_finite(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, dict):
        return all(map(_is_finite, value.values()))
    return all(map(_is_finite, value)) if isinstance(value, list) else True
