"""The part of the OpenAPI document that tells of the OpenAI door, made from the rows of its dialects."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic.json_schema import JsonSchemaMode

from canister.server import answers
from canister.server.doors.openai.operations import Operation

TAG = "OpenAI"

Json = dict[str, Any]
SchemaOf = Callable[[Any, JsonSchemaMode], Json]

ERROR: Json = {
    "type": "object",
    "description": "What went wrong, in the form of the interface that the path is of.",
    "required": ["error"],
    "properties": {
        "error": {
            "description": "An object; below /api the message alone.",
            "anyOf": [
                {
                    "type": "object",
                    "required": ["message", "type"],
                    "properties": {
                        "message": {"type": "string", "description": "What happened, with the value, and what to do."},
                        "type": {"type": "string", "examples": ["invalid_request_error"]},
                        "param": {"type": ["string", "null"], "description": "The field that is wrong."},
                        "code": {
                            "type": ["string", "integer", "null"],
                            "description": "Which of the errors of its type.",
                            "examples": ["model_not_found"],
                        },
                    },
                },
                {"type": "string"},
            ],
        }
    },
}
_NAMES = {"{model}": "Name of a model, or an alias.", "{id}": "Id of a response."}


def paths(schema_of: SchemaOf) -> Json:
    """schema_of: gives the schema of a type, as an argument."""
    from canister.server.doors.openai.routes import OPERATIONS

    found: Json = {}
    for operation in OPERATIONS:
        found.setdefault(operation.path, {})[operation.verb.lower()] = _operation(operation, schema_of)
    return found


def _operation(operation: Operation, schema_of: SchemaOf) -> Json:
    done: Json = {answers.JSON: {"schema": {"type": ["object", "array"]}}}
    if operation.streams:
        done[operation.streams] = {"schema": {"type": "string"}}
    error = {answers.JSON: {"schema": {"$ref": "#/components/schemas/OpenAIError"}}}
    told: Json = {
        "operationId": operation.name,
        "tags": [TAG],
        "summary": operation.summary,
        "description": "\n\n".join((operation.summary, *operation.differs)),
        "responses": {
            "200": {"description": "Done", "content": done},
            "default": {"description": "An error", "content": error},
        },
    }
    parameters = [
        {"name": name[1:-1], "in": "path", "required": True, "description": text, "schema": {"type": "string"}}
        for name, text in _NAMES.items()
        if name in operation.path
    ]
    if parameters:
        told["parameters"] = parameters
    if operation.example is not None:
        schema = {"type": "object"} if operation.body is None else schema_of(operation.body, "validation")
        content = {"schema": schema, "example": operation.example}
        told["requestBody"] = {"required": True, "content": {answers.JSON: content}}
    return told
