"""`.did` text → types, read by ic-candid-parser, a Rust parser that others made: nothing of ours reads here."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from _ic_candid_core import parse_did

from canister.ic.candid.types import NULL, PRIMITIVES, PRINCIPAL, Field, Opt, Record, Type, Variant, Vec


@dataclass(frozen=True)
class Signature:
    args: tuple[Type, ...]
    results: tuple[Type, ...]
    is_query: bool


def read_did(text: str) -> dict[str, Signature]:
    """The methods of a service. Raises ValueError for what the parser does not accept."""
    document = json.loads(parse_did(text))
    definitions = {item["name"]: item["datatype"] for item in document["env"]}

    def type_of(node: Any) -> Type:
        if node is None:
            return NULL
        value = node.get("value")
        match node["type"]:
            case "Prim":
                return PRIMITIVES[value]
            case "Principal":
                return PRINCIPAL
            case "Id":
                return type_of(definitions[value])
            case "Opt":
                return Opt(type_of(value))
            case "Vec":
                return Vec(type_of(value))
            case "Record":
                return Record(tuple(Field(label, type_of(item)) for label, item in value))
            case "Variant":
                return Variant(tuple(Field(label, type_of(item)) for label, item in value))
        raise ValueError(f"no such type here: {node}")

    return {
        method["name"]: Signature(
            tuple(map(type_of, method["args"])), tuple(map(type_of, method["rets"])), "query" in method["modes"]
        )
        for method in document["actor"]["methods"]
    }
