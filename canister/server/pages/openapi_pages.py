"""The part of the OpenAPI document about paths that are no methods: files as streams, and pages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from canister.api.records import FileDownloadRecord, FilesystemRemoveRecord, FileUploadRecord
from canister.api.rest_records import MOST_OF_PAGE
from canister.server import answers

Json = dict[str, Any]

CANISTER: Json = {
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
    "description": "Path in the canister's stable memory; may have slashes. With one at its end it is a folder.",
    "schema": {"type": "string", "examples": ["models/model.gguf"]},
}


PAGE_PARAMETERS: list[Json] = [
    {
        "name": "limit",
        "in": "query",
        "description": "At most so many entries; without it all.",
        "schema": {"type": "integer", "minimum": 1, "maximum": MOST_OF_PAGE},
    },
    {
        "name": "after",
        "in": "query",
        "description": "Entries behind that place: `next` of the page before.",
        "schema": {"type": "string"},
    },
]


def ref(name: str) -> Json:
    """A reference to a component."""
    return {"$ref": f"#/components/schemas/{name}"}


def json_content(schema: Json) -> Json:
    return {answers.JSON: {"schema": schema}}


# A reject has no Candid form.
REJECTED: Json = {"description": "Reject", "content": json_content(ref("Reject"))}

_BYTES: Json = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
_OBJECTS: Json = {"type": "array", "items": {"type": "object"}}
_NAMES: Json = {"type": "array", "items": {"type": "string"}}


def _page_operation(name: str, tag: str, summary: str, responses: Mapping[str, tuple[str, Json]]) -> Json:
    """responses: meaning and content, by status. Every other status is a reject."""
    described = {
        status: {"description": text} | ({"content": content} if content else {})
        for status, (text, content) in responses.items()
    }
    return {"operationId": name, "tags": [tag], "summary": summary, "responses": {"default": REJECTED} | described}


def _header(name: str, text: str) -> Json:
    return {"name": name, "in": "header", "description": text, "schema": {"type": "string"}}


def _object(**properties: Json) -> Json:
    return json_content({"type": "object", "required": list(properties), "properties": properties})


def _text(*values: str) -> Json:
    return {"type": "string", "enum": list(values)} if values else {"type": "string"}


def _err_or_reject(record: str) -> tuple[str, Json]:
    return "Err, or a reject", json_content({"anyOf": [ref(f"{record}ResultErr"), ref("Reject")]})


FILES: Json = {
    "/canisters/{canister}/files/{path}": {
        "parameters": [CANISTER, _FILE_PATH],
        "get": _page_operation(
            "read_file",
            "files",
            "Read a file as bytes, or one range of it; list a folder.",
            {
                "200": ("The file, or what is in the folder", _BYTES | json_content(ref("Folder"))),
                "206": ("The range", _BYTES),
                "304": ("Not changed", {}),
                "default": _err_or_reject(FileDownloadRecord.__name__),
            },
        )
        | {"parameters": [_header("Range", "bytes=FIRST-LAST")]},
        "put": _page_operation(
            "write_file",
            "files",
            "Write a file as bytes, at the offset where it ends.",
            {
                "200": (
                    "Ok: name, size and SHA-256 so far",
                    json_content(ref(f"{FileUploadRecord.__name__}ResultOk")),
                ),
                "default": _err_or_reject(FileUploadRecord.__name__),
            },
        )
        | {
            "parameters": [
                {"name": "offset", "in": "query", "schema": {"type": "integer", "minimum": 0, "default": 0}},
                _header("Content-Range", "In place of offset."),
                _header("Content-Digest", "sha-256 or sha-512 of the body, which is stored only if they agree."),
            ],
            "requestBody": {"required": True, "content": _BYTES},
        },
        "delete": _page_operation(
            "remove_file",
            "files",
            "Remove a file or an empty folder.",
            {
                "200": ("What was removed", json_content(ref(FilesystemRemoveRecord.__name__))),
                "default": _err_or_reject(FileUploadRecord.__name__),
            },
        ),
    }
}

_NONCE: Json = {
    "name": "nonce",
    "in": "query",
    "required": True,
    "description": "64 hex digits in lower case, new ones each time.",
    "schema": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
}

_EVENT: Json = {
    "type": "object",
    "properties": {
        "at": {"type": "integer", "description": "Id of the last logged call."},
        "calls": {"type": "array", "items": ref("CallLogEntry")},
        "missed": {"type": "integer", "description": "Calls that were too many for a line."},
        "engine": {"type": "object", "description": "What it does now, as GET …/engine tells it."},
        "work": {"type": "object", "description": "Calls that run and wait."},
        "end": {"type": "boolean", "description": "The server ends."},
    },
}


def _since(description: str) -> Json:
    return {"name": "since", "in": "query", "description": description, "schema": {"type": "integer", "minimum": 0}}


PAGES: Json = {
    path: {"get": _page_operation(name, "server", summary, responses)}
    for name, path, summary, responses in (
        (
            "start",
            "/",
            "Where to go from here; browsers get the console.",
            {
                "200": (
                    "Names of the canisters, and of this document",
                    _object(name=_text(), version=_text(), canisters=_NAMES, docs=_text(), openapi=_text()),
                )
            },
        ),
        (
            "list_canisters",
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
                        },
                        usd_per_xdr={"type": "number", "description": "US dollars of 1 XDR, or 10^12 cycles."},
                        has_ao={"type": "boolean", "description": "Do the doors of AO stand open?"},
                    ),
                )
            },
        ),
        ("healthz", "/healthz", "Does the process serve?", {"200": ("Yes", _object(status=_text("ok")))}),
        (
            "readyz",
            "/readyz",
            "Are the models that should be loaded loaded?",
            {
                "200": ("Yes", _object(status=_text("ready"))),
                "503": ("Not yet, with reasons", _object(status=_text("not ready", "draining"))),
            },
        ),
        (
            "metrics",
            "/metrics",
            "Metrics for Prometheus.",
            {
                "200": ("Text format", {"text/plain": {"schema": _text()}}),
            },
        ),
    )
} | {
    "/proof": {
        "get": _page_operation(
            "prove_server",
            "server",
            "A proof for who can read the data folder: this is its server, and the connection leads straight to it.",
            {"200": ("HMAC-SHA256 of the nonce and the server's address, in hex", _object(proof=_text()))},
        )
        | {"parameters": [_NONCE]}
    },
    "/canisters/{canister}": {
        "get": _page_operation(
            "show_canister",
            "server",
            "One canister of this server.",
            {"200": ("Id, name and state", _object(id=_text(), name=_text(), status=_text()))},
        )
        | {"parameters": [CANISTER]}
    },
    "/canisters/{canister}/calls": {
        "get": _page_operation(
            "running_calls",
            "server",
            "The calls that a canister works on, and those that wait; for its controllers.",
            {
                "200": (
                    "Caller, method, phase and tokens so far of each; how many wait, by caller",
                    _object(running=_OBJECTS, waiting=_OBJECTS),
                ),
                "401": ("Err: access denied", _object(Err=ref("ApiError"))),
            },
        )
        | {"parameters": [CANISTER]}
    },
    "/canisters/{canister}/events": {
        "get": _page_operation(
            "watch_canister",
            "server",
            "What happens at a canister, line by line: logged calls, and for admins the engine.",
            {
                "200": (
                    "Lines of JSON, or one document",
                    {answers.LINES: {"schema": _EVENT}, **json_content(_EVENT)},
                ),
                "401": ("Err: access denied", _object(Err=ref("ApiError"))),
            },
        )
        | {
            "parameters": [
                CANISTER,
                _since("Calls behind this id; the last line's `at`."),
                {
                    "name": "stream",
                    "in": "query",
                    "description": "false: one line alone, for who cannot have streams.",
                    "schema": {"type": "boolean", "default": True},
                },
            ]
        }
    },
    "/canisters/{canister}/logs": {
        "get": _page_operation(
            "show_log",
            "server",
            "The last lines of a canister's log; for its controllers, and for everybody while its log is public.",
            {"200": ("Index, time and text of each", _object(lines=_OBJECTS))},
        )
        | {"parameters": [CANISTER, _since("Lines behind this index.")]}
    },
    "/canisters/{canister}/engine": {
        "get": _page_operation(
            "show_engine",
            "models",
            "How a canister's model is run, and what its engine is doing; for controllers and admins.",
            {
                "200": ("Exact mode, threads, memory, counters", _object()),
                "401": ("Err: access denied", _object(Err=ref("ApiError"))),
            },
        )
        | {"parameters": [CANISTER]}
    },
}

_ERR: Json = {"type": "object", "required": ["Err"], "properties": {"Err": ref("ApiError")}}
_TOLD = ("Err, or a reject", json_content({"anyOf": [_ERR, ref("Reject")]}))
_MADE = _object(name=_text(), key=_text(), principal=_text(), expires_ns={"type": ["integer", "null"]})
_KEYS = json_content(
    {"type": "object", "required": ["keys"], "properties": {"keys": _OBJECTS, "next": {"type": ["string", "null"]}}}
)
_KEY_NAME: Json = {"name": "name", "in": "path", "required": True, "description": "Of a key.", "schema": _text()}


def _fields(example: Json, needed: tuple[str, ...], optional: tuple[str, ...] = ()) -> Json:
    """The body of an operation: an object of texts."""
    properties: Json = {name: _text() for name in needed} | {name: {"type": ["string", "null"]} for name in optional}
    schema: Json = {
        "type": "object",
        "required": list(needed),
        "properties": properties,
        "additionalProperties": False,
    }
    return {"requestBody": {"required": True, "content": {answers.JSON: {"schema": schema, "example": example}}}}


KEYS: Json = {
    "/session": {
        "post": _page_operation(
            "sign_in",
            "access",
            "Exchange a code for a browser's API key, for eight hours.",
            {"default": _TOLD, "200": ("The key", _MADE)},
        )
        | _fields({"code": "the code of the link"}, ("code",)),
        "delete": _page_operation(
            "sign_out",
            "access",
            "Revoke the browser's API key that this request has.",
            {"default": _TOLD, "200": ("Done", _object())},
        ),
    },
    "/session/codes": {
        "post": _page_operation(
            "make_sign_in_code",
            "access",
            "A code that signs a browser in as the caller: it counts once, for ten minutes.",
            {"default": _TOLD, "200": ("The code", _object(code=_text(), seconds={"type": "integer"}))},
        )
    },
    "/keys": {
        "get": _page_operation(
            "list_api_keys",
            "access",
            "All API keys, without their secrets; for those who control every canister of the server.",
            {"default": _TOLD, "200": ("Name, principal and times of each", _KEYS)},
        )
        | {"parameters": PAGE_PARAMETERS},
        "post": _page_operation(
            "make_api_key",
            "access",
            "Make an API key, which is shown this once; for those who control every canister of the server.",
            {"default": _TOLD, "200": ("The key", _MADE)},
        )
        | _fields({"name": "notebook", "expires": "30d"}, ("name",), ("principal", "expires")),
    },
    "/keys/{name}": {
        "delete": _page_operation(
            "revoke_api_key",
            "access",
            "Revoke an API key; for those who control every canister of the server.",
            {"default": _TOLD, "200": ("Done", _object())},
        )
        | {"parameters": [_KEY_NAME]}
    },
}
