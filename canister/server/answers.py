"""Answers of the REST door: replies and rejects as JSON, each with its HTTP status. Each ends in a newline.

- Ok, 200: `{"Ok": …}`, or the bare value for methods without errors
- Err, http_status of the kind of error: `{"Err": …}`, whatever status stands in the record
- reject, http_status of the trap: `{"reject_code", "error_code", "reject_message"}`

A caller who asks for Candid text gets replies as such, with the same statuses. Rejects have no Candid form.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from typing import Any

from fastapi import Response
from pydantic import TypeAdapter
from starlette.types import Scope

from canister.api import codec
from canister.api.methods import Method
from canister.api.record_types import Record, Variant
from canister.api.records import FileUploadRecord
from canister.dispatch import Reply
from canister.errors import Cancelled, CanisterStopping, Trap, Unauthenticated
from canister.metering.fees import Charge

_to_json = json.JSONEncoder(ensure_ascii=False).encode  # made once: json.dumps makes one for each call
JSON = "application/json"
CANDID_TEXT = "text/candid"
LINES = "application/x-ndjson"
RECEIPT_HEADER = "X-IC-Receipt"
RECEIPTS_HEADER = "X-IC-Receipts"  # of a whole answer, with commas
RETRY_SECONDS = 2  # after which a client should try again

Rejects = Callable[[str, Trap, str], Response | None]
"""A path, an error, the request's id → the error as this path's door tells it; None: as all others do."""


def answer(method: Method, reply: Reply) -> Response:
    """The answer of a method of the interface table."""
    if reply.error is not None:
        return error(reply)
    value = _adapter(method.ok).dump_json(reply.value, by_alias=True)
    content = value + b"\n" if method.err is None else b'{"Ok":' + value + b"}\n"
    return Response(content, headers=cost_headers(reply.charge), media_type=JSON)


def candid(method: Method, reply: Reply) -> Response:
    """The answer of a method as Candid text."""
    status = 200 if reply.error is None else reply.error.http_status
    text = codec.reply_to_text(method, reply.value, is_err=reply.error is not None)
    return Response(f"{text}\n", status, {**_retry(status), **cost_headers(reply.charge)}, CANDID_TEXT)


def uploaded(reply: Reply) -> Response:
    """The answer to an octet-stream upload: that of `file_upload_chunk`."""
    if reply.error is not None:
        return error(reply)
    value = _adapter(FileUploadRecord).dump_json(reply.value)
    return Response(b'{"Ok":' + value + b"}\n", headers=cost_headers(reply.charge), media_type=JSON)


def error(reply: Reply) -> Response:
    """`{"Err": …}` with the status of the kind of error, whatever status stands in the record."""
    value = reply.value
    assert isinstance(value, Record)
    assert reply.error is not None
    # A variant has one tag, so the others are left out; a record has all its fields, absent ones as null.
    content = value.model_dump_json(by_alias=True, exclude_none=isinstance(value, Variant))
    status = reply.error.http_status
    return Response(f'{{"Err":{content}}}\n', status, {**_retry(status), **cost_headers(reply.charge)}, JSON)


def cost_headers(charge: object) -> dict[str, str]:
    """A call's costs: instructions, cycles, and the instructions that it might have taken (`none`: not enforced)."""
    if not isinstance(charge, Charge):
        return {}
    limit = "none" if charge.limit is None else str(charge.limit)
    told = {**work_headers(charge.instructions, charge.cycles), "X-IC-Limit": limit}
    return {**told, RECEIPT_HEADER: charge.receipt} if charge.receipt else told


def work_headers(instructions: int, cycles: int) -> dict[str, str]:
    """The costs of any number of calls together."""
    return {"X-IC-Instructions": str(instructions), "X-IC-Cycles": str(cycles)}


def reject(trap: Trap) -> Response:
    """A call that failed as a whole."""
    headers = {**_retry(trap.http_status), **cost_headers(trap.charge)}
    if isinstance(trap, Unauthenticated):
        headers["WWW-Authenticate"] = 'Bearer error="invalid_token"'
    return _reject(trap.http_status, trap.reject_code, trap.error_code, str(trap), headers)


def rejected(scope: Scope, trap: Trap) -> Response:
    """As `reject`, in the form of the path's door, which the request's state has as `rejects`."""
    state = scope.get("state", {})
    rejects: Rejects | None = state.get("rejects")
    found = None if rejects is None else rejects(scope["path"], trap, state.get("request_id", ""))
    return reject(trap) if found is None else found


def stopped() -> CanisterStopping:
    """The answer to a call that the end of the server has cut short."""
    return CanisterStopping("the server is stopping and has rolled this call back; call again")


def wrong_verb(message: str, allowed: str) -> Response:
    """405: the path is right, the HTTP method is not. allowed: verbs with commas, for the Allow header."""
    return _reject(405, Cancelled.reject_code, "method_not_allowed", message, {"Allow": allowed})


def internal_error(request_id: str) -> Trap:
    """500, for a fault in the door itself. The log has it under the request's id."""
    return Trap(f"internal error; the server's log has the details under request id {request_id}")


def document(content: Mapping[str, object], status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """JSON that is no reply of a canister."""
    return Response(json_bytes(content), status, headers, JSON)


def json_bytes(content: Mapping[str, object]) -> bytes:
    return _to_json(content).encode("utf-8", "replace") + b"\n"


def json_text(text: str) -> bytes:
    """A text in JSON, with its quotes."""
    return _to_json(text).encode("utf-8", "replace")


def _retry(status: int) -> dict[str, str]:
    return {"Retry-After": str(RETRY_SECONDS)} if status in (429, 503) else {}


def _reject(status: int, reject_code: int, error_code: str, message: str, headers: Mapping[str, str]) -> Response:
    content = {"reject_code": reject_code, "error_code": error_code, "reject_message": message}
    return document(content, status, headers)


@functools.cache
def _adapter(of: Any) -> TypeAdapter[Any]:
    return TypeAdapter(of)
