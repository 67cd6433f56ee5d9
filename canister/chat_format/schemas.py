"""Schemas of tools' arguments as they bind. Pure.

`canister.json_schema` puts a schema so that it can be bound, or refuses it. What may be nothing, which servers of tools
write as {"not": {}}, is left out: a branch of a union, an optional argument. A required one may be anything.
"""

from __future__ import annotations

from collections.abc import Mapping

from canister import json_schema

Schema = Mapping[str, object]

NO_ARGUMENTS: Schema = {"type": "object", "properties": {}, "additionalProperties": False}

_NOTES = frozenset(("title", "description", "default", "examples", "$comment", "$schema", "deprecated", "x-guidance"))
_MAPS = ("properties", "patternProperties", "$defs", "definitions")
_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
_NOTHING: list[object] = []


def arguments_of(parameters: object) -> Schema:
    """The schema of a tool's arguments: an object. None, {}: a tool without arguments. BadRequest."""
    if not isinstance(parameters, Mapping) or not parameters:
        return NO_ARGUMENTS
    told = dict(parameters)
    if not told.keys() & {"type", "anyOf", "oneOf", "allOf", "$ref"}:
        told["type"] = "object"
    bound = _without_nothing(json_schema.bindable(told))
    return bound if isinstance(bound, Mapping) else NO_ARGUMENTS


def answer_of(schema: Mapping[str, object] | bool) -> object:
    """The schema of an answer, as it binds. BadRequest."""
    bound = json_schema.bindable(schema)
    return {key: said for key, said in bound.items() if key != "x-guidance"} if isinstance(bound, dict) else bound


def _without_nothing(schema: object) -> object:
    if not isinstance(schema, Mapping):
        return schema
    told = schema.get("required")
    required = told if isinstance(told, list) else []
    clean: dict[str, object] = {}
    for key, said in schema.items():
        if key == "properties" and isinstance(said, Mapping):
            clean[key] = {
                name: {} if _is_nothing(part) else _without_nothing(part)
                for name, part in said.items()
                if name in required or not _is_nothing(part)
            }
        elif key in _MAPS and isinstance(said, Mapping):
            clean[key] = {name: _without_nothing(part) for name, part in said.items()}
        elif key in _LISTS and isinstance(said, list):
            clean[key] = [_without_nothing(part) for part in said if not _is_nothing(part)] or [{}]
        elif key == "items" and isinstance(said, list):
            clean[key] = [_without_nothing(part) for part in said]
        elif key in ("items", "additionalProperties"):
            clean[key] = False if _is_nothing(said) and key != "items" else _without_nothing(said)
        elif key not in _NOTES:
            clean[key] = said
    return clean


def _is_nothing(schema: object) -> bool:
    return isinstance(schema, Mapping) and schema.get("enum") == _NOTHING
