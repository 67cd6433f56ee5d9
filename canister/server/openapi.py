"""The OpenAPI document, made from the interface table, and the page that shows it. No method is known here by name."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from fastapi import Request, Response
from fastapi.openapi.docs import get_swagger_ui_html
from pydantic import TypeAdapter
from pydantic.json_schema import JsonSchemaMode
from starlette.routing import Route

from canister import wire
from canister.ic.annotations import result_name
from canister.interface import METHODS, Method
from canister.records import FileUploadRecord
from canister.server import answers
from canister.server.examples import EXAMPLES
from canister.server.verbs import page

INTERFACE_VERSION = "0.16"  # of llama_cpp_canister, whose interface this is

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
    return [page("/openapi.json", _json), page("/docs", _page)]


async def _json(_request: Request) -> Response:
    return answers.document(document())


async def _page(request: Request) -> Response:
    return get_swagger_ui_html(openapi_url=f"{request.scope.get('root_path', '')}/openapi.json", title="llama-canister")


@functools.cache
def document() -> Json:
    """The whole OpenAPI 3.1 document."""
    schemas = _Schemas()
    paths: Json = {}
    for method in METHODS:
        for prefix, parameters in (("/canisters/{canister}/", [_CANISTER]), ("/", [])):
            verbs = ("post", "get") if method.mode == "query" and method.arg is None else ("post",)
            paths[f"{prefix}{method.name}"] = {verb: _operation(method, schemas, verb, parameters) for verb in verbs}
    return {
        "openapi": "3.1.0",
        "info": {"title": "llama-canister", "version": INTERFACE_VERSION, "description": _DESCRIPTION},
        "paths": paths | _FILES | _PAGES,
        "components": {
            "schemas": dict(sorted(schemas.components.items())),
            "securitySchemes": {"api_key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"api_key": []}],
        "tags": [{"name": name} for name in dict.fromkeys(map(group_of, METHODS))]
        + [{"name": "octet streams"}, {"name": "server"}],
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
        "responses": schemas.responses(method),
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
        return self._add(name, schema)

    def responses(self, method: Method) -> Json:
        reject = {"description": "Reject", "content": _content(_ref("Reject"))}
        ok = self.of(method.ok, "serialization")
        if method.err is None:
            return {"200": {"description": "The value", "content": _content(ok)}, "default": reject}
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
    return {answers.JSON: {"schema": schema}}


def _tagged(tag: str, schema: Json) -> Json:
    return {"type": "object", "required": [tag], "properties": {tag: schema}}


# -- paths that are no methods

_BYTES: Json = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}


def _simple(tag: str, summary: str, responses: Mapping[str, str]) -> Json:
    described = {status: {"description": text} for status, text in responses.items()}
    return {"tags": [tag], "summary": summary, "responses": described}


_FILES: Json = {
    "/canisters/{canister}/files/{path}": {
        "parameters": [_CANISTER, _FILE_PATH],
        "get": _simple(
            "octet streams",
            "Read a file, or one range of it.",
            {"200": "The file", "206": "The range", "304": "Not changed", "404": "No such file", "416": "Outside"},
        )
        | {"parameters": [{"name": "Range", "in": "header", "schema": {"type": "string"}}]},
        "put": _simple(
            "octet streams",
            f"Write a file, at the offset where it ends; answers as {FileUploadRecord.__name__}.",
            {"200": "Ok: name, size and SHA-256 so far", "default": "Err, or a reject"},
        )
        | {
            "parameters": [
                {"name": "offset", "in": "query", "schema": {"type": "integer", "default": 0}},
                {"name": "Content-Range", "in": "header", "schema": {"type": "string"}},
            ],
            "requestBody": {"required": True, "content": _BYTES},
        },
    }
}

_PAGES: Json = {
    path: {"get": _simple("server", summary, responses)}
    for path, summary, responses in (
        ("/", "Where to go from here.", {"200": "Names of the canisters, and of this document"}),
        ("/canisters", "The canisters of this server.", {"200": "Id, name and state of each"}),
        ("/healthz", "Does the process serve?", {"200": "Yes"}),
        ("/readyz", "Are the models that should be loaded loaded?", {"200": "Yes", "503": "Not yet, with reasons"}),
        ("/metrics", "Metrics for Prometheus.", {"200": "Text format", "403": "Not a controller"}),
    )
} | {
    "/canisters/{canister}/engine": {
        "get": _simple(
            "server",
            "How a canister's model is run, and what its engine is doing; for controllers and admins.",
            {"200": "Exact mode, threads, memory, counters", "401": "Err: access denied"},
        )
        | {"parameters": [_CANISTER]}
    }
}
