"""How large a grammar or a JSON schema may be: what llama.cpp's parser and converter survive.

The parser calls itself for each group inside another, and a full stack ends the process. The converter writes out what
a schema counts, `maxLength` as well as `{1000000}` of a pattern, until the memory is full.
"""

from __future__ import annotations

import json
import re

from canister.errors import BadRequest

MAX_GRAMMAR_BYTES = 262_144
MAX_GRAMMAR_GROUPS = 4096
MAX_SCHEMA_PARTS = 500_000  # written out, roughly
MAX_SCHEMA_DEPTH = 200  # lists and objects within each other: the converter calls itself for each
SHOWN_CHARACTERS = 80
_TOO_DEEP = f"it is nested too deeply; at most {MAX_SCHEMA_DEPTH} lists and objects may stand within each other"
_EXAMPLE = '{"type": "object", "properties": {"name": {"type": "string"}}}'

_COUNTS = ("minLength", "maxLength", "minItems", "maxItems")
_REPETITION = re.compile(r"\{(\d*),?(\d*)\}")
_DIGITS = len(str(MAX_SCHEMA_PARTS))


def check_grammar(text: str) -> None:
    """BadRequest for a GBNF grammar that is too large."""
    n_bytes, n_groups = len(text.encode("utf-8", "replace")), text.count("(")
    if n_bytes > MAX_GRAMMAR_BYTES or n_groups > MAX_GRAMMAR_GROUPS:
        raise BadRequest(
            f"The grammar has {n_bytes} bytes and {n_groups} groups, at most {MAX_GRAMMAR_BYTES} and "
            f"{MAX_GRAMMAR_GROUPS} are taken: make it smaller"
        )


def check_schema(text: str) -> None:
    """BadRequest for what is no JSON schema, refers to what it does not hold, or whose grammar would be too large."""
    try:
        schema = json.loads(text)
    except RecursionError:
        raise unusable(_TOO_DEEP) from None
    except ValueError as error:
        raise unusable(str(error)[:200]) from None
    if not isinstance(schema, dict):
        raise unusable(f"it is {_shown(schema)}, not an object such as {_EXAMPLE}")
    waiting: list[tuple[object, int]] = [(schema, 1)]
    n_parts = 0
    while waiting:
        value, depth = waiting.pop()
        if depth > MAX_SCHEMA_DEPTH:
            raise unusable(_TOO_DEEP)
        if isinstance(value, list):
            waiting += ((part, depth + 1) for part in value)
        elif isinstance(value, dict):
            waiting += ((part, depth + 1) for part in value.values())
            if "$ref" in value:
                _check_reference(schema, value["$ref"])
            counts = [value.get(name) for name in _COUNTS]
            n_parts += sum(int(min(count, 1e9)) for count in counts if isinstance(count, int | float) and count > 0)
            if isinstance(value.get("pattern"), str):
                n_parts += _size_of_pattern(value["pattern"])
        if n_parts > MAX_SCHEMA_PARTS:
            raise unusable(
                f"its lengths and repetitions come to more than {MAX_SCHEMA_PARTS}; "
                "lower minLength, maxLength, minItems, maxItems and {n,m} of patterns"
            )


def unusable(why: str) -> BadRequest:
    """The error for a schema that makes no grammar."""
    return BadRequest(f"The JSON schema cannot be used: {why}".encode("utf-8", "replace").decode())


def _check_reference(schema: dict[str, object], reference: object) -> None:
    """A reference leads to a part of the same schema; nothing is ever fetched."""
    told = f"its $ref {_shown(reference)}"
    if not isinstance(reference, str) or not reference.startswith("#/"):
        raise unusable(
            f"{told} is no place in the schema itself, such as #/$defs/name; nothing is fetched from elsewhere"
        )
    seen = {reference}
    while True:
        part: object = schema
        for name in reference.split("/")[1:]:
            if not isinstance(part, dict) or name not in part:
                raise unusable(f"{told} leads nowhere: there is no {_shown(name)}")
            part = part[name]
        if not isinstance(part, dict):
            raise unusable(f"{told} leads to {_shown(part)}, which is no schema")
        if "$ref" not in part:
            return
        reference = part["$ref"]
        if not isinstance(reference, str) or reference in seen:
            raise unusable(f"{told} leads to itself")
        seen.add(reference)


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "…"


def _size_of_pattern(pattern: str) -> int:
    """At most so many characters when all repetitions are written out, each inside the others."""
    size = len(pattern)
    for repetition in _REPETITION.findall(pattern):
        size *= max(1, *(MAX_SCHEMA_PARTS if len(n) > _DIGITS else int(n or 0) for n in repetition))
        if size > MAX_SCHEMA_PARTS:
            break
    return size
