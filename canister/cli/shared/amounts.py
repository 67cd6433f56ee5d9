"""Numbers as a person writes them: `20t` cycles, `3.75 GiB`. Raises typer.BadParameter, which names the option."""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from types import MappingProxyType

import typer

_NUMBER = re.compile(r"([0-9][0-9_]*(?:\.[0-9]+)?)\s*([a-z]*)", re.IGNORECASE)

_CYCLES = MappingProxyType({"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "t": 10**12})
_BYTES = MappingProxyType(
    {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
)
_SECONDS = MappingProxyType({"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400})


def cycles(text: str, option: str) -> int:
    """`20000000000000`, `20_000_000_000_000` or `20t`."""
    return _amount(text, option, _CYCLES, "cycles")


def n_bytes(text: str, option: str) -> int:
    """`4026531840`, `3.75gib` or `500 MB`."""
    return _amount(text, option, _BYTES, "bytes")


def seconds(text: str, option: str) -> int:
    """`2592000` or `30d`."""
    return _amount(text, option, _SECONDS, "seconds")


def _amount(text: str, option: str, units: Mapping[str, int], what: str) -> int:
    match = _NUMBER.fullmatch(text.strip())
    unit = None if match is None else units.get(match[2].lower())
    amount = None if match is None or unit is None else Decimal(match[1].replace("_", "")) * unit
    if amount is None or amount != int(amount):
        known = ", ".join(filter(None, units))
        raise typer.BadParameter(f"{option} is a whole number of {what}, or one with {known} behind it, not {text!r}")
    return int(amount)
