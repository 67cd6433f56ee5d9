"""Values of given types as JSON, in the form of dfx's `--output json`.

An opt is a list of none or one, numbers that JavaScript cannot hold are texts, a blob is a list of numbers, a variant
has one member. Source: https://github.com/dfinity/idl2json/blob/main/src/idl2json/src/untyped_conversion.rs
"""

from __future__ import annotations

from math import isfinite
from typing import Any

from canister.ic.candid.types import INT, INT64, NAT, NAT64, RESERVED, Opt, Prim, Record, Type, Vec, tag_of


def as_json(of: Type, value: Any) -> Any:
    """What `json.dumps` takes."""
    if isinstance(of, Prim):
        return _primitive(of, value)
    if isinstance(of, Opt):
        return [] if value is None else [as_json(of.of, value)]
    if isinstance(of, Vec):
        return list(value) if isinstance(value, bytes) else [as_json(of.of, item) for item in value]
    if isinstance(of, Record):
        return {str(item.label): as_json(item.type, value.get(item.label)) for item in of.by_hash.values()}
    _, field, payload = tag_of(of, value)
    return {str(field.label): as_json(field.type, payload)}


def _primitive(of: Prim, value: Any) -> Any:
    if of in (NAT, INT, NAT64, INT64):
        return str(value)
    if of is RESERVED:
        return "null : reserved"
    return "NaN" if isinstance(value, float) and not isfinite(value) else value
