"""Schemas of tools' arguments as they are meant: what servers send that says nothing is left out. Pure.

Titles and descriptions bind nothing, nor do formats that nobody checks. Where `{"not": {}}` stands in a union or
for an optional argument, which is how generators of schemas write what may be left out, it is left out; else anything.
Objects with named properties have no others, unless they say so: a model would make some up.
"""

from __future__ import annotations

from collections.abc import Mapping

Schema = Mapping[str, object]

NO_ARGUMENTS: Schema = {"type": "object", "properties": {}, "additionalProperties": False}

_CHECKED_FORMATS = frozenset(
    ("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri", "unknown")
)
_MAPS_OF_SCHEMAS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_LISTS_OF_SCHEMAS = ("anyOf", "oneOf", "allOf", "prefixItems")
_SCHEMAS = ("items", "additionalProperties", "contains", "propertyNames", "not", "if", "then", "else")
_NOTES = frozenset(("title", "description", "default", "examples", "$comment", "$schema", "$id", "deprecated"))
_COMBINED = ("allOf", "$ref", "patternProperties", "additionalProperties", "unevaluatedProperties", "anyOf", "oneOf")


def meant(schema: object, is_part: bool = False) -> object:
    """The schema without what says nothing. is_part: of an `allOf`, so that it does not tell all the properties."""
    if not isinstance(schema, Mapping):
        return schema
    clean: dict[str, object] = {}
    for key, said in schema.items():
        if key == "properties" and isinstance(said, Mapping):
            required = schema.get("required")
            must = required if isinstance(required, list) else []
            clean[key] = {name: meant(part) for name, part in said.items() if name in must or not _is_never(part)}
        elif key in _MAPS_OF_SCHEMAS and isinstance(said, Mapping):
            clean[key] = {name: meant(part) for name, part in said.items()}
        elif key in ("anyOf", "oneOf") and isinstance(said, list):
            clean[key] = [meant(part, is_part) for part in said if not _is_never(part)] or [{}]
        elif key in _LISTS_OF_SCHEMAS and isinstance(said, list):
            clean[key] = [meant(part, is_part or key == "allOf") for part in said]
        elif key in _NOTES or (key == "not" and (said is False or said == {} or said is True)):
            continue
        elif key == "items" and isinstance(said, list):
            clean[key] = [meant(part) for part in said]
        elif key == "additionalProperties" and _is_never(said):
            clean[key] = False
        elif key in _SCHEMAS:
            clean[key] = meant(said)
        elif (key == "format" and said not in _CHECKED_FORMATS) or (
            key == "propertyNames" and said == {"type": "string"}
        ):
            continue
        else:
            clean[key] = said
    if "properties" in clean and not is_part and not any(key in clean for key in _COMBINED):
        clean["additionalProperties"] = False
    return clean


def _is_never(schema: object) -> bool:
    return isinstance(schema, Mapping) and schema.get("not") in ({}, True) and "not" in schema


def arguments_of(parameters: object) -> Schema:
    """The schema of a tool's arguments: an object. None, {}: a tool without arguments."""
    if not isinstance(parameters, Mapping) or not parameters:
        return NO_ARGUMENTS
    clean = meant(parameters)
    if not isinstance(clean, Mapping):
        return NO_ARGUMENTS
    if "type" not in clean and not any(key in clean for key in ("anyOf", "oneOf", "allOf", "$ref")):
        return {"type": "object", **clean}
    return clean
