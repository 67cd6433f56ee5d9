"""The part of the OpenAPI document that tells of `conversations.py`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic.json_schema import JsonSchemaMode

from canister.interface import Method
from canister.server import answers
from canister.server.conversations import EXAMPLES, PATHS

TAG = "conversations"

Json = dict[str, Any]
SchemaOf = Callable[[Any, JsonSchemaMode], Json]

_PARAMETERS: dict[str, Json] = {
    "{canister}": {
        "name": "canister",
        "in": "path",
        "required": True,
        "description": "Name or id of the canister.",
        "schema": {"type": "string", "default": "llama_cpp"},
    },
    "{name}": {
        "name": "name",
        "in": "path",
        "required": True,
        "description": "Name of a chat of the caller's: letters, digits and _ . - inside, at most 60.",
        "schema": {"type": "string", "examples": ["who-are-you"]},
    },
}


def paths(schema_of: SchemaOf) -> Json:
    """schema_of: gives the schema of a type, as an argument or as an answer."""
    return {
        path: {verb.lower(): _operation(path, verb, row, schema_of) for verb, row in verbs.items()}
        for path, verbs in PATHS.items()
    }


def _operation(path: str, verb: str, row: Method, schema_of: SchemaOf) -> Json:
    where = "canister" if "{canister}" in path else "first_canister"
    role = row.guard.__name__.replace("_", " ")
    done = {} if row.ok is type(None) or row.ok is None else _content(schema_of(row.ok, "serialization"))
    failed = {"anyOf": [_tagged(schema_of(row.err, "serialization")), {"$ref": "#/components/schemas/Reject"}]}
    operation: Json = {
        "operationId": f"{verb.lower()}_{row.name}_of_{where}",
        "tags": [TAG],
        "summary": row.doc.splitlines()[0],
        "description": f"{row.doc}\n\nWho may call it: {role}.",
        "responses": {
            "200": {"description": "Done", "content": done or _content({"type": "object"})},
            "default": {"description": "Err, or a reject", "content": _content(failed)},
        },
    }
    parameters = [told for name, told in _PARAMETERS.items() if name in path]
    if parameters:
        operation["parameters"] = parameters
    if row.arg is not None:
        content = {"schema": schema_of(row.arg, "validation"), "example": EXAMPLES[row.name]}
        operation["requestBody"] = {"required": True, "content": {answers.JSON: content}}
    return operation


def _tagged(schema: Json) -> Json:
    return {"type": "object", "required": ["Err"], "properties": {"Err": schema}}


def _content(schema: Json) -> Json:
    return {answers.JSON: {"schema": schema}}
