"""Values of arguments written without quotes, as in XML-like formats: read by their schema, and bound by it.

<parameter=city>Zürich</parameter>      "city": "Zürich"     if it may be a text
<parameter=n>3</parameter>              "n": 3               if it may be a number
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from canister.chat_format import literals, strict_json
from canister.chat_format.lark import ANY_TEXT, Lark
from canister.chat_format.schemas import Schema
from canister.errors import BadRequest

ALL_TYPES = frozenset(("string", "integer", "number", "boolean", "null", "array", "object"))
_MAX_REFERENCES = 32
_UNKNOWN: Schema = {}
NO_BRACKET = r"(?s:([^\[{\s].*)?)"
"""Texts that no list and no object begins like."""


def of_property(schema: Schema, name: str) -> Schema:
    """The schema of one argument; {} where nothing is said about it."""
    for one in _branches(schema, schema):
        properties = one.get("properties")
        said = properties.get(name) if isinstance(properties, Mapping) else None
        if isinstance(said, Mapping):
            return {**said, **definitions(schema)}
        if isinstance(one.get("additionalProperties"), Mapping):
            said = one["additionalProperties"]
            if isinstance(said, Mapping) and said:
                return {**said, **definitions(schema)}
    return _UNKNOWN


def definitions(schema: Schema) -> dict[str, object]:
    """The parts that references lead to."""
    return {key: schema[key] for key in ("$defs", "definitions") if key in schema}


def types_of(schema: Schema, root: Schema | None = None) -> frozenset[str]:
    """The JSON types that a value may have; all of them where the schema has none."""
    root = root or schema
    told = schema.get("type")
    if isinstance(told, str):
        types = {told}
    elif isinstance(told, Sequence):
        types = {one for one in told if isinstance(one, str)}
    else:
        types = set(ALL_TYPES)
    told_values = listed(schema)
    if told_values is not None:
        kinds = {_type(one) for one in told_values}
        types &= kinds | ({"number"} if "integer" in kinds else set())
    branches = [one for one in _branches(schema, root) if one is not schema]
    if branches:
        types &= {one for branch in branches for one in types_of(branch, root)}
    if schema.get("nullable") is True:
        types.add("null")
    return frozenset(types)


def listed(schema: Schema) -> list[object] | None:
    """The values that it lists, if it lists them."""
    told = schema.get("enum")
    return told if isinstance(told, list) else [schema["const"]] if "const" in schema else None


def is_text(schema: Schema) -> bool:
    """Must it be a text?"""
    return types_of(schema) == {"string"}


def as_json(text: str, schema: Schema) -> str:
    """The JSON text of a value that is written as `text`, by its types; a text where nothing else fits."""
    types = types_of(schema)
    if types == {"string"}:
        return quoted(text)
    written = literals.as_json(text)
    if written is None:
        return quoted(text)
    value = strict_json.loads(written)
    kind = _type(value)
    fits = (
        kind in types
        or (kind == "integer" and "number" in types)
        or (isinstance(value, float) and _is_whole(value, types))
    )
    if not fits and "string" in types:
        return quoted(text)
    if types == ALL_TYPES and kind == "string":
        return quoted(text)
    return written


def _is_whole(value: float, types: frozenset[str]) -> bool:
    return "integer" in types and value.is_integer()


def escaped(text: str) -> str:
    """A piece of a text as it stands within a JSON string."""
    return json.dumps(text, ensure_ascii=False)[1:-1]


def quoted(text: str) -> str:
    """A text as a JSON string."""
    return json.dumps(text, ensure_ascii=False)


def _type(value: object) -> str:
    if value is None:
        return "null"
    for kind, name in ((bool, "boolean"), (int, "integer"), (float, "number"), (str, "string"), (list, "array")):
        if isinstance(value, kind):
            return name
    return "object"


def _branches(schema: Schema, root: Schema, n_left: int = _MAX_REFERENCES) -> list[Schema]:
    """The schema itself, or those that it chooses from or leads to."""
    if n_left == 0:
        return []
    for key in ("anyOf", "oneOf"):
        choices = schema.get(key)
        if isinstance(choices, list) and choices:
            return [
                branch
                for choice in choices
                if isinstance(choice, Mapping)
                for branch in _branches(choice, root, n_left - 1)
            ]
    reference = schema.get("$ref")
    if isinstance(reference, str):
        led = led_to(reference, root)
        return _branches(led, root, n_left - 1) if led is not None else [_UNKNOWN]
    return [schema]


def led_to(reference: str, root: Schema) -> Schema | None:
    """What a reference within the schema leads to."""
    part: object = root
    for name in reference.removeprefix("#").strip("/").split("/"):
        if not name:
            continue
        part = part.get(name.replace("~1", "/").replace("~0", "~")) if isinstance(part, Mapping) else None
    return part if isinstance(part, Mapping) else None


# -- grammar


class Way(NamedTuple):
    """One way to write a value. listed: the texts it may be, None: any that the regex takes. schema: of JSON."""

    is_text: bool
    schema: Schema
    listed: tuple[str, ...] | None = None
    regex: str = ANY_TEXT


def ways_of(schema: Schema) -> list[Way]:
    """The ways to write a value of this schema without quotes. Raises BadRequest for what cannot be bound so."""
    all_types = types_of(schema)
    unlike_json = NO_BRACKET if all_types & {"array", "object"} and all_types != ALL_TYPES else ANY_TEXT
    ways: list[Way] = []
    for branch in _branches(schema, schema):
        types = types_of(branch, schema)
        if (told := listed(branch)) is not None:
            texts = tuple(one for one in told if isinstance(one, str))
            others = tuple(json.dumps(one, ensure_ascii=False) for one in told if not isinstance(one, str))
            ways += [Way(kind, branch, some) for kind, some in ((True, texts), (False, others)) if some]
            continue
        if "string" in types:
            regex = regex_of_text(branch)
            ways.append(Way(True, branch, regex=unlike_json if regex == ANY_TEXT else regex))
        if types != ALL_TYPES and (rest := types - {"string"}):
            ways.append(Way(False, {**branch, "type": sorted(rest), **definitions(schema)}))
    return ways


def write_value(lark: Lark, schema: Schema, end: str, pad: str = "") -> str:
    """The body for a value of this schema, written without quotes, and the mark after it.

    pad: stands between the value and its marks.
    """
    return f"{lark.text(pad)} {lark.either(write_way(lark, way, pad + end) for way in ways_of(schema))}"


def write_way(lark: Lark, way: Way, end: str) -> str:
    if way.listed is not None:
        return lark.either(lark.text(one + end) for one in way.listed)
    return lark.until(end, way.regex) if way.is_text else f"{lark.json(dict(way.schema))} {lark.text(end)}"


def regex_of_text(schema: Schema) -> str:
    """The regular expression of a text of this schema."""
    shortest, longest, pattern = schema.get("minLength", 0), schema.get("maxLength", ""), schema.get("pattern")
    if isinstance(pattern, str):
        if shortest or longest != "":
            raise BadRequest(f"pattern {pattern!r} together with minLength or maxLength cannot be bound; leave one out")
        begin = "" if pattern.startswith("^") else ANY_TEXT
        end = "" if pattern.endswith("$") and not pattern.endswith("\\$") else ANY_TEXT
        inner = pattern.removeprefix("^").removesuffix("$" if not end else "")
        return f"{begin}({inner.replace('/', chr(92) + '/')}){end}"
    if shortest or longest != "":
        return f"(?s:.{{{shortest},{longest}}})"
    return ANY_TEXT


# -- the arguments of a call, one after the other


def parameters(schema: Schema) -> list[tuple[dict[str, Schema], frozenset[str], Schema | None]]:
    """The ways in which arguments can be written down in order: (name -> schema, those required, schema of others).

    Others: None where no other is allowed. Raises BadRequest for what cannot be written so.
    """
    ways = []
    for branch in _branches(schema, schema):
        base = (
            {key: said for key, said in schema.items() if key not in ("anyOf", "oneOf", "$ref")}
            if branch is not schema
            else {}
        )
        ways.append(_way(base, branch, schema))
    return ways


_DESCRIBING = frozenset(
    [
        "type",
        "properties",
        "required",
        "additionalProperties",
        "$defs",
        "definitions",
        "title",
        "description",
        "default",
        "examples",
        "$schema",
        "$id",
        "$comment",
        "deprecated",
        "readOnly",
        "writeOnly",
        "strict",
        "nullable",
        "id",
    ]
)


def _check_references(schema: object) -> None:
    """An argument is bound by itself, so it can refer to the definitions only, which go along with it."""
    waiting = [schema]
    while waiting:
        part = waiting.pop()
        if isinstance(part, Mapping):
            reference = part.get("$ref")
            if isinstance(reference, str) and not reference.startswith(("#/$defs/", "#/definitions/")):
                raise BadRequest(
                    f"$ref {reference!r} cannot be bound in this model's format; put what it leads to below $defs"
                )
            waiting += part.values()
        elif isinstance(part, list):
            waiting += part


def _way(base: Schema, branch: Schema, root: Schema) -> tuple[dict[str, Schema], frozenset[str], Schema | None]:
    strange = [key for one in (base, branch) for key in one if key not in _DESCRIBING and not key.startswith("x-")]
    if strange:
        raise BadRequest(f"{strange[0]!r} on the arguments themselves cannot be bound in this model's format")
    properties: dict[str, Schema] = {}
    required: set[str] = set()
    _check_references([one.get(key) for one in (base, branch) for key in ("properties", "additionalProperties")])
    _check_references(definitions(root))
    others: Schema | None = None
    for one in (base, branch):
        told = one.get("properties")
        for name, said in told.items() if isinstance(told, Mapping) else ():
            properties[name] = {**said, **definitions(root)} if isinstance(said, Mapping) else _UNKNOWN
        must = one.get("required")
        required.update(name for name in must if isinstance(name, str)) if isinstance(must, list) else None
        more = one.get("additionalProperties", not told and one is branch and not properties)
        if more is True or isinstance(more, Mapping):
            others = {**more, **definitions(root)} if isinstance(more, Mapping) else _UNKNOWN
    for name in sorted(required - set(properties)):
        properties[name] = others if others is not None else _UNKNOWN
    return properties, frozenset(required), others
