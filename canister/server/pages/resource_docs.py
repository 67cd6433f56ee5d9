"""The part of the OpenAPI document that tells of `conversations.py` and `models.py`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pydantic.json_schema import JsonSchemaMode

from canister.api import rest_only
from canister.api.methods import Method
from canister.server import answers
from canister.server.doors import conversations, models, resources
from canister.server.pages.openapi_pages import PAGE_PARAMETERS

TABLES: dict[str, tuple[Mapping[str, resources.Verbs], Mapping[str, Any]]] = {
    "conversations": (conversations.PATHS, conversations.EXAMPLES),
    "models": (models.PATHS | {"/canisters/{canister}/engine": {"DELETE": rest_only.UNLOAD_MODEL}}, models.EXAMPLES),
    "files": ({"/canisters/{canister}/files": {"GET": rest_only.LIST_FOLDER}}, {}),
}
"""By tag: rows by path and verb, and examples of arguments."""

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
    "{path}": {
        "name": "path",
        "in": "path",
        "required": True,
        "description": "Path in the canister's stable memory; may have slashes.",
        "schema": {"type": "string", "examples": ["models/model.gguf"]},
    },
}


def paths(schema_of: SchemaOf, who: Callable[[Method], str]) -> dict[str, Json]:
    """By tag. schema_of: gives the schema of a type, as an argument or as an answer. who: may call a row, in words."""
    return {
        tag: {
            path: {
                verb.lower(): _operation(tag, path, row, examples, schema_of, who(row)) for verb, row in verbs.items()
            }
            for path, verbs in table.items()
            if path.startswith("/canisters/")  # what also answers below / is told once
        }
        for tag, (table, examples) in TABLES.items()
    }


def _operation(tag: str, path: str, row: Method, examples: Mapping[str, Any], schema_of: SchemaOf, who: str) -> Json:
    done = {} if row.ok is type(None) or row.ok is None else _content(schema_of(row.ok, "serialization"))
    failed = {"anyOf": [_tagged(schema_of(row.err, "serialization")), {"$ref": "#/components/schemas/Reject"}]}
    operation: Json = {
        "operationId": row.name,
        "tags": [tag],
        "summary": row.doc.splitlines()[0],
        "description": f"{row.doc}\n\n{who}",
        "responses": {
            "200": {"description": "Done", "content": done or _content({"type": "object"})},
            "default": {"description": "Err, or a reject", "content": _content(failed)},
        },
    }
    parameters = [told for name, told in _PARAMETERS.items() if name in path]
    if row.name in resources.PAGED:
        parameters += PAGE_PARAMETERS
    if parameters:
        operation["parameters"] = parameters
    if row.arg is not None:
        content = {"schema": schema_of(row.arg, "validation"), "example": examples[row.name]}
        operation["requestBody"] = {"required": True, "content": {answers.JSON: content}}
    return operation


def _tagged(schema: Json) -> Json:
    return {"type": "object", "required": ["Err"], "properties": {"Err": schema}}


def _content(schema: Json) -> Json:
    return {answers.JSON: {"schema": schema}}
