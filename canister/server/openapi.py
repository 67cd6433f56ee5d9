"""The OpenAPI document, made from the interface table. No method is known here by name."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from fastapi import Request, Response
from pydantic import TypeAdapter
from pydantic.json_schema import JsonSchemaMode
from starlette.routing import Route

from canister import wire
from canister.config import INTERFACE_VERSION
from canister.ic.annotations import result_name
from canister.interface import METHODS, Method
from canister.records import FileDownloadRecord, FileUploadRecord
from canister.server import answers, conversation_docs
from canister.server.encodings import compressible
from canister.server.examples import EXAMPLES
from canister.server.verbs import page

Json = dict[str, Any]

_DESCRIPTION = """\
The methods of a canister that runs llama.cpp.

A method is called with `POST /canisters/{canister}/{method}`, or `POST /{method}` for the server's first canister; \
its argument is the body. With `Content-Type: text/candid` that is Candid text, and so is the answer; `Accept` can ask \
for either. A query without an argument also answers GET. Blobs are base64; 64-bit numbers may be sent \
as strings; an absent optional field is null.

The answer is `{"Ok": …}` with status 200, `{"Err": …}` with the status of the kind of error (independent of a \
`status_code` inside the record), the bare value for the few methods without errors, or a reject: the call failed as a \
whole and changed nothing.

`Authorization: Bearer <API key>` says who calls; without it the caller is anonymous (`2vxsx-fae`)."""

_REJECT: Json = {
    "type": "object",
    "description": "The call failed as a whole and changed nothing.",
    "required": ["reject_code", "error_code", "reject_message"],
    "properties": {
        "reject_code": {"type": "integer", "description": "Of the IC: 3 destination, 4 refused, 5 canister error."},
        "error_code": {"type": "string", "examples": ["IC0503"]},
        "reject_message": {"type": "string"},
    },
}
_CANISTER: Json = {
    "name": "canister",
    "in": "path",
    "required": True,
    "description": "Name or id of the canister.",
    "schema": {"type": "string", "default": "llama_cpp"},
}
_FILE_PATH: Json = {
    "name": "path",
    "in": "path",
    "required": True,
    "description": "Path in the canister's stable memory; may have slashes.",
    "schema": {"type": "string"},
}


def routes() -> list[Route]:
    return [page("/openapi.json", _json)]


async def _json(request: Request) -> Response:
    return await compressible(request, _document_bytes(), {}, answers.JSON)


@functools.cache
def _document_bytes() -> bytes:
    return answers.json_bytes(document())


@functools.cache
def document() -> Json:
    """The whole OpenAPI 3.1 document."""
    schemas = _Schemas()
    # All answers first, since their records keep their names where arguments have the same ones.
    responses = {method.name: schemas.responses(method) for method in METHODS}
    paths: Json = {}
    for method in METHODS:
        for prefix, parameters in (("/canisters/{canister}/", [_CANISTER]), ("/", [])):
            verbs = ("post", "get") if method.mode == "query" and method.arg is None else ("post",)
            paths[f"{prefix}{method.name}"] = {
                verb: _operation(method, schemas, verb, parameters) | {"responses": responses[method.name]}
                for verb in verbs
            }
    return {
        "openapi": "3.1.0",
        "info": {"title": "llama-canister", "version": INTERFACE_VERSION, "description": _DESCRIPTION},
        "paths": paths | conversation_docs.paths(schemas.of) | _FILES | _PAGES,
        "components": {
            "schemas": dict(sorted(schemas.components.items())),
            "securitySchemes": {"api_key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"api_key": []}],
        "tags": [{"name": name} for name in dict.fromkeys(map(group_of, METHODS))]
        + [{"name": conversation_docs.TAG}, {"name": "octet streams"}, {"name": "server"}],
    }


def group_of(method: Method) -> str:
    """What the method is about: the module of its handler."""
    return method.handler.__module__.rpartition(".")[2].replace("_", " ")


def _operation(method: Method, schemas: _Schemas, verb: str, parameters: list[Json]) -> Json:
    role = method.guard.__name__.replace("_", " ")
    where = "canister" if parameters else "first_canister"
    operation: Json = {
        "operationId": f"{verb}_{method.name}_of_{where}",
        "tags": [group_of(method)],
        "summary": method.doc.splitlines()[0] if method.doc else method.name,
        "description": f"{method.doc}\n\nA {method.mode}. Who may call it: {role}.",
    }
    if parameters:
        operation["parameters"] = parameters
    if method.arg is not None:
        content = {"schema": schemas.of(method.arg, "validation"), "example": EXAMPLES[method.name]}
        value = TypeAdapter(method.arg).validate_python(EXAMPLES[method.name])
        as_text = {"schema": {"type": "string"}, "example": wire.args_to_text(method, value)}
        operation["requestBody"] = {
            "required": True,
            "content": {answers.JSON: content, answers.CANDID_TEXT: as_text},
        }
    return operation


class _Schemas:
    """JSON schemas of the types that it is asked for; the named ones are collected as components."""

    def __init__(self) -> None:
        self.components: Json = {"Reject": _REJECT}

    def of(self, annotation: Any, mode: JsonSchemaMode) -> Json:
        schema = TypeAdapter(annotation).json_schema(mode=mode, ref_template="#/components/schemas/{model}")
        for name, component in schema.pop("$defs", {}).items():
            self._add(name, component)
        name = schema.get("title")
        if "properties" not in schema or name is None:
            return schema
        # What may be sent is more than what is answered: numbers as digits.
        if mode == "validation" and self.components.get(name, schema) != schema:
            name = f"{name}Input"
        return self._add(name, schema)

    def responses(self, method: Method) -> Json:
        ok = self.of(method.ok, "serialization")
        if method.err is None:
            return {"200": {"description": "The value", "content": _content(ok)}, "default": _REJECTED}
        name = result_name(method.ok) or f"{method.name}Result"
        good = self._add(f"{name}Ok", _tagged("Ok", ok))
        bad = self._add(f"{name}Err", _tagged("Err", self.of(method.err, "serialization")))
        return {
            "200": {"description": "Ok", "content": _content(good)},
            "default": {"description": "Err, or a reject", "content": _content({"anyOf": [bad, _ref("Reject")]})},
        }

    def _add(self, name: str, component: Json) -> Json:
        if self.components.setdefault(name, component) != component:
            raise TypeError(f"two different schemas are named {name}")
        return _ref(name)


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _content(schema: Json) -> Json:
    """JSON, or the same as Candid text to who asks for it."""
    return {answers.JSON: {"schema": schema}, answers.CANDID_TEXT: {"schema": {"type": "string"}}}


def _json_content(schema: Json) -> Json:
    return {answers.JSON: {"schema": schema}}


# A reject has no Candid form.
_REJECTED: Json = {"description": "Reject", "content": _json_content(_ref("Reject"))}


def _tagged(tag: str, schema: Json) -> Json:
    return {"type": "object", "required": [tag], "properties": {tag: schema}}


# -- paths that are no methods

_BYTES: Json = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
_OBJECTS: Json = {"type": "array", "items": {"type": "object"}}
_NAMES: Json = {"type": "array", "items": {"type": "string"}}


def _page_operation(tag: str, summary: str, responses: Mapping[str, tuple[str, Json]]) -> Json:
    """responses: what it is and its content, by status; any other is a reject."""
    described = {
        status: {"description": text} | ({"content": content} if content else {})
        for status, (text, content) in responses.items()
    }
    return {"tags": [tag], "summary": summary, "responses": {"default": _REJECTED} | described}


def _object(**properties: Json) -> Json:
    return _json_content({"type": "object", "required": list(properties), "properties": properties})


def _text(*values: str) -> Json:
    return {"type": "string", "enum": list(values)} if values else {"type": "string"}


def _err_or_reject(record: str) -> tuple[str, Json]:
    return "Err, or a reject", _json_content({"anyOf": [_ref(f"{record}ResultErr"), _ref("Reject")]})


_FILES: Json = {
    "/canisters/{canister}/files/{path}": {
        "parameters": [_CANISTER, _FILE_PATH],
        "get": _page_operation(
            "octet streams",
            "Read a file, or one range of it.",
            {
                "200": ("The file", _BYTES),
                "206": ("The range", _BYTES),
                "304": ("Not changed", {}),
                "default": _err_or_reject(FileDownloadRecord.__name__),
            },
        )
        | {"parameters": [{"name": "Range", "in": "header", "schema": {"type": "string"}}]},
        "put": _page_operation(
            "octet streams",
            "Write a file, at the offset where it ends.",
            {
                "200": (
                    "Ok: name, size and SHA-256 so far",
                    _json_content(_ref(f"{FileUploadRecord.__name__}ResultOk")),
                ),
                "default": _err_or_reject(FileUploadRecord.__name__),
            },
        )
        | {
            "parameters": [
                {"name": "offset", "in": "query", "schema": {"type": "integer", "minimum": 0, "default": 0}},
                {"name": "Content-Range", "in": "header", "schema": {"type": "string"}},
            ],
            "requestBody": {"required": True, "content": _BYTES},
        },
    }
}

_PAGES: Json = {
    path: {"get": _page_operation("server", summary, responses)}
    for path, summary, responses in (
        (
            "/",
            "Where to go from here.",
            {
                "200": (
                    "Names of the canisters, and of this document",
                    _object(name=_text(), version=_text(), canisters=_NAMES, docs=_text(), openapi=_text()),
                )
            },
        ),
        (
            "/canisters",
            "The canisters of this server.",
            {
                "200": (
                    "Id, name and state of each",
                    _object(
                        canisters={
                            "type": "array",
                            "items": {
                                "type": "object",
                                "required": ["id", "name"],
                                "properties": {"id": _text(), "name": _text()},
                            },
                        }
                    ),
                )
            },
        ),
        ("/healthz", "Does the process serve?", {"200": ("Yes", _object(status=_text("ok")))}),
        (
            "/readyz",
            "Are the models that should be loaded loaded?",
            {
                "200": ("Yes", _object(status=_text("ready"))),
                "503": ("Not yet, with reasons", _object(status=_text("not ready", "draining"))),
            },
        ),
        (
            "/metrics",
            "Metrics for Prometheus.",
            {
                "200": ("Text format", {"text/plain": {"schema": _text()}}),
                "403": ("Not a controller", _object(error=_text())),
            },
        ),
    )
} | {
    "/canisters/{canister}/calls": {
        "get": _page_operation(
            "server",
            "The calls that a canister works on, and those that wait; for its controllers.",
            {
                "200": (
                    "Caller, method, phase and tokens so far of each; how many wait, by caller",
                    _object(running=_OBJECTS, waiting=_OBJECTS),
                ),
                "401": ("Err: access denied", _object(Err=_ref("ApiError"))),
            },
        )
        | {"parameters": [_CANISTER]}
    },
    "/canisters/{canister}/engine": {
        "get": _page_operation(
            "server",
            "How a canister's model is run, and what its engine is doing; for controllers and admins.",
            {
                "200": ("Exact mode, threads, memory, counters", _object()),
                "401": ("Err: access denied", _object(Err=_ref("ApiError"))),
            },
        )
        | {"parameters": [_CANISTER]}
    },
}
