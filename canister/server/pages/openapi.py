"""The OpenAPI document, made from the interface table. It knows no method by name."""

from __future__ import annotations

import functools
from typing import Any

from fastapi import Request, Response
from pydantic import TypeAdapter
from pydantic.json_schema import JsonSchemaMode
from starlette.routing import Route

from canister.api import codec
from canister.api.examples import EXAMPLES
from canister.api.methods import METHODS, WHO, Method
from canister.defaults import INTERFACE_VERSION
from canister.ic.annotations import result_name
from canister.server import answers
from canister.server.middleware.encodings import compressible
from canister.server.pages import openai_docs, resource_docs
from canister.server.pages.openapi_pages import CANISTER, FILES, KEYS, PAGES, REJECTED, ref
from canister.server.pages.property_texts import describe
from canister.server.verbs import page

Json = dict[str, Any]

_DESCRIPTION = """\
The methods of a canister that runs llama.cpp.

A method is called with `POST /canisters/{canister}/{method}`, or `POST /{method}` for the server's first canister; \
its argument is the body. With `Content-Type: text/candid` that is Candid text, and so is the answer; `Accept` can ask \
for either. With `Accept: application/x-ndjson` a run is answered line by line: its text while it goes on, and at last \
its answer. A query without an argument also answers GET. Blobs are base64; 64-bit numbers may be sent \
as strings; an absent optional field is null.

The answer is `{"Ok": …}` with status 200, `{"Err": …}` with the status of the kind of error (independent of a \
`status_code` inside the record), the bare value for the few methods without errors, or a reject: the call failed as a \
whole and changed nothing.

OpenAI's clients are answered below `/v1`, their tag tells how; `docs/openai.md` has more.

`Authorization: Bearer <API key>` says who calls, or `x-api-key: <API key>`; without it the caller is anonymous \
(`2vxsx-fae`), who may do little.

Bodies may be sent with `Content-Encoding: gzip`. Web pages of other origins are let in by `canister serve \
--browser-origins`. The version is that of the interface, llama_cpp_canister's; `/` tells that of the server."""

_API_KEY = """\
An API key, without `Bearer`. On the machine of the server `canister key` prints the one of its controller, which also \
stands in `controller.key` of its data folder; `canister api-key create NAME` makes one for somebody else."""

TAGS = {
    openai_docs.TAG: "For OpenAI's clients and those who speak like them: their base URL is this server's, with /v1.",
    "chat": "Chats: a prompt is ingested and an answer generated, call by call, each within its limits.",
    "conversations": "For clients that talk in turns: the chat template applied, and chats kept under names.",
    "models": "Models: what is there, what is loaded, and what a call may do with it.",
    "prompt caches": "What is kept of a caller's chats between calls.",
    "files": "Files in the canister's stable memory: as streams of bytes, or in chunks.",
    "cost": "What calls take on the Internet Computer.",
    "access": "Who may call what.",
    "canister": "Health, housekeeping and the cycle balance.",
    "server": "The server itself: its canisters, probes and metrics.",
}
TAG_OF_GROUP = {
    **{name: name for name in ("chat", "cost", "access", "files")},
    "model": "models",
    "prompt cache": "prompt caches",
    "status": "canister",
}
_HEADERS: Json = {
    "X-IC-Instructions": {"description": "Instructions that the call took.", "schema": {"type": "integer"}},
    "X-IC-Cycles": {"description": "Cycles that it was charged.", "schema": {"type": "integer"}},
    "X-IC-Limit": {
        "description": "Instructions that it might have taken, or none: counted, not enforced.",
        "schema": {"type": "string"},
    },
    "X-IC-Receipt": {
        "description": "The id of the call's receipt: of each update, and of a query that is sent this header.",
        "schema": {"type": "string"},
    },
    "X-Request-Id": {"description": "As sent, or made; the server's log has it.", "schema": {"type": "string"}},
}
_HEADER_REFS: Json = {name: {"$ref": f"#/components/headers/{name}"} for name in _HEADERS}

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

_TEXT: Json = {
    "type": "object",
    "description": "A line of a stream: a piece of the output, provisional until the last line, which is the answer.",
    "required": ["text"],
    "properties": {
        "text": {"type": "string", "description": "What goes on where the line before ended."},
        "echo": {"const": True, "description": "The piece is of the prompt; only ever the first one."},
    },
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
    """The whole OpenAPI 3.1 document. Each method is in it once, and the most used ones come first."""
    schemas = _Schemas()
    # All answers first, since their records keep their names where arguments have the same ones.
    responses = {method.name: schemas.responses(method) for method in METHODS}
    by_tag: dict[str, Json] = {tag: {} for tag in TAGS}
    for method in METHODS:
        operation = _operation(method, schemas) | {"responses": responses[method.name]}
        by_tag[TAG_OF_GROUP[method.group]][f"/canisters/{{canister}}/{method.name}"] = {"post": operation}
    for tag, resources in resource_docs.paths(schemas.of, _who).items():
        by_tag[tag] |= resources
    by_tag[openai_docs.TAG] |= openai_docs.paths(schemas.of)
    paths: Json = {}
    for told in (*by_tag.values(), FILES, PAGES, KEYS):
        for path, operations in told.items():
            paths[path] = paths.get(path, {}) | operations
    components = dict(sorted(schemas.components.items()))
    for name, schema in components.items():
        describe(schema, name)
    describe(paths)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "llama-canister",
            "version": INTERFACE_VERSION,
            "description": _DESCRIPTION,
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": ".", "description": "The server that this document comes from."}],
        "paths": paths,
        "components": {
            "schemas": components,
            "headers": _HEADERS,
            "securitySchemes": {"api_key": {"type": "http", "scheme": "bearer", "description": _API_KEY}},
        },
        "security": [{}, {"api_key": []}],
        "tags": [{"name": tag, "description": text} for tag, text in TAGS.items()],
    }


def _who(method: Method) -> str:
    """Who may call a method and what becomes of it, for readers who know neither access levels nor the IC."""
    kept = "What it changes is kept." if method.mode == "update" else "It changes nothing."
    return f"Who may call it: {WHO[method.access]} {kept}"


def _operation(method: Method, schemas: _Schemas) -> Json:
    also = " It also answers GET." if method.mode == "query" and method.arg is None else ""
    operation: Json = {
        "operationId": method.name,
        "tags": [TAG_OF_GROUP[method.group]],
        "summary": method.doc.splitlines()[0] if method.doc else method.name,
        "description": f"{method.doc}\n\n{_who(method)}{also}",
        "parameters": [CANISTER],
    }
    if method.arg is not None:
        content = {"schema": schemas.of(method.arg, "validation"), "example": EXAMPLES[method.name]}
        value = TypeAdapter(method.arg).validate_python(EXAMPLES[method.name])
        as_text = {"schema": {"type": "string"}, "example": codec.args_to_text(method, value)}
        operation["requestBody"] = {
            "required": True,
            "content": {answers.JSON: content, answers.CANDID_TEXT: as_text},
        }
    return operation


class _Schemas:
    """JSON schemas of the types that it is asked for; the named ones are collected as components."""

    def __init__(self) -> None:
        self.components: Json = {"Reject": _REJECT, "RunText": _TEXT, "OpenAIError": openai_docs.ERROR}

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
            value = {"description": "The value", "content": _content(ok), "headers": _HEADER_REFS}
            return {"200": value, "default": REJECTED}
        name = result_name(method.ok) or f"{method.name}Result"
        good = self._add(f"{name}Ok", _tagged("Ok", ok))
        bad = self._add(f"{name}Err", _tagged("Err", self.of(method.err, "serialization")))
        lines = {answers.LINES: {"schema": {"anyOf": [ref("RunText"), good, bad, ref("Reject")]}}}
        answered = _content(good) | (lines if method.is_streamed else {})
        return {
            "200": {"description": "Ok", "content": answered, "headers": _HEADER_REFS},
            "default": {"description": "Err, or a reject", "content": _content({"anyOf": [bad, ref("Reject")]})},
        }

    def _add(self, name: str, component: Json) -> Json:
        if self.components.setdefault(name, component) != component:
            raise TypeError(f"two different schemas are named {name}")
        return ref(name)


def _content(schema: Json) -> Json:
    """JSON, or the same as Candid text for those who ask for it."""
    return {answers.JSON: {"schema": schema}, answers.CANDID_TEXT: {"schema": {"type": "string"}}}


def _tagged(tag: str, schema: Json) -> Json:
    return {"type": "object", "required": [tag], "properties": {tag: schema}}
