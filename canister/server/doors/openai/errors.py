"""Errors as OpenAI's clients get them: a status, a type, a code, and whether to try again.

SDKs repeat 408, 409, 429 and 5xx by themselves, so an error that would only repeat has another status, or says
`x-should-retry: false`. Each dialect has its own body for the same error: a `Form`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

from starlette.responses import Response

from canister.errors import (
    AccessDenied,
    CanisterError,
    CanisterTrapped,
    CanisterUnavailable,
    ContextExceeded,
    InstructionLimit,
    ModelUnloaded,
    StorageFull,
    StoreDamaged,
    Trap,
    Unauthenticated,
)
from canister.server.answers import JSON, RETRY_SECONDS, cost_headers
from canister.server.doors.openai.encoding import encoded, sse

_WAY_IN = (
    "A controller lets everybody with a key chat with 'canister call NAME set_access '{\"level\": 1}'', "
    "where NAME is the model's; 'canister status NAME --short' tells who may"
)
INVALID = "invalid_request_error"
TOO_LONG = "context_length_exceeded"
NO_KEY = (
    "no API key was sent: set the client's api_key to one of this server, 'Authorization: Bearer <API key>'; on its "
    "machine 'canister key' prints one, and 'canister api-key create NAME' makes them"
)

_TYPES = {
    400: INVALID,
    401: "authentication_error",
    402: "insufficient_quota",
    403: "permission_error",
    404: "not_found_error",
    405: INVALID,
    413: "request_too_large",
    415: INVALID,
    422: INVALID,
    429: "rate_limit_error",
    501: "not_supported_error",
    503: "unavailable_error",
    504: "timeout_error",
}
_ANTHROPIC_TYPES = {
    402: "billing_error",
    503: "overloaded_error",
    501: INVALID,
}
_CODES = {401: "invalid_api_key"}


class DoorError(Exception):
    """An answer that is an error. type, code: None: as usual for the status. param: the wrong field.

    extra: further members of the body's error. may_retry: tells SDKs to repeat the request or not; None: they decide by
    the status. charge: what was paid all the same (fees.Charge). words: by dialect, where a message has to be another
    there: `anthropic`.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str | None = None,
        code: str | None = None,
        param: str | None = None,
        extra: Mapping[str, object] | None = None,
        may_retry: bool | None = None,
        charge: object = None,
        words: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.type = type or _TYPES.get(status, "server_error" if status >= 500 else INVALID)
        self.code = code or _CODES.get(status)
        self.param = param
        self.extra = extra or {}
        self.may_retry = may_retry
        self.charge = charge
        self.words = words or {}


Form: TypeAlias = Callable[[DoorError, str], Mapping[str, object]]
"""Makes the body of an error in a dialect. The text is the request's id."""


def openai_form(error: DoorError, _request_id: str) -> Mapping[str, object]:
    told = {"message": str(error), "type": error.type, "param": error.param, "code": error.code}
    return {"error": {**told, **error.extra}}


def openai_failed(error: DoorError) -> bytes:
    """The last event of a stream that fails."""
    return sse(openai_form(error, ""))


def anthropic_form(error: DoorError, request_id: str) -> Mapping[str, object]:
    kind = _ANTHROPIC_TYPES.get(error.status) or _TYPES.get(error.status) or "api_error"
    kind = kind if error.status < 500 or error.status in (501, 503, 504) else "api_error"
    message = error.words.get("anthropic", str(error))
    return {"type": "error", "error": {"type": kind, "message": message}, "request_id": request_id}


def ollama_form(error: DoorError, _request_id: str) -> Mapping[str, object]:
    return {"error": str(error)}


def invalid(message: str, param: str | None = None, code: str | None = None) -> DoorError:
    """400, for a request that can never succeed as it is. param: its field."""
    return DoorError(400, message, param=param, code=code)


def too_long(n_prompt: int, n_ctx: int, param: str = "messages") -> DoorError:
    """400, with the words that frameworks look for. param: the field with the text."""
    return DoorError(
        400,
        f"request ({n_prompt} tokens) exceeds the available context size ({n_ctx} tokens), try increasing it",
        type="exceed_context_size_error",
        code=TOO_LONG,
        param=param,
        extra={"n_prompt_tokens": n_prompt, "n_ctx": n_ctx},
        words={"anthropic": f"prompt is too long: {n_prompt} tokens > {n_ctx} maximum"},
    )


def of(error: Trap | CanisterError) -> DoorError:
    """The error for a failure of a call, or of the middleware."""
    if isinstance(error, ContextExceeded):
        return too_long(error.n_prompt_tokens, error.n_ctx)
    charge = error.charge if isinstance(error, Trap) else None
    status, message = error.http_status, str(error)
    if isinstance(error, AccessDenied):
        return DoorError(403, f"this caller may not use the model: {message}. {_WAY_IN}")
    if isinstance(error, Unauthenticated):
        return DoorError(401, message)
    if isinstance(error, InstructionLimit):
        return DoorError(429, message, code=error.error_code, may_retry=False, charge=charge)
    if isinstance(error, StorageFull):
        return DoorError(429, message, type="insufficient_quota", code="storage_full", may_retry=False)
    if isinstance(error, StoreDamaged | CanisterTrapped | CanisterUnavailable):
        return DoorError(status, message, may_retry=False, charge=charge)
    if isinstance(error, ModelUnloaded):
        return DoorError(503, "the model was unloaded or exchanged meanwhile; try again", charge=charge)
    if status == 409:  # repeating does not change the state
        return DoorError(400, message, charge=charge)
    if isinstance(error, Trap) and status >= 402:
        code = None if status in (404, 413) else error.error_code
        return DoorError(status, message, code="model_not_found" if status == 404 else code, charge=charge)
    return DoorError(status, message, code="model_not_found" if status == 404 else None, charge=charge)


def response(error: DoorError, form: Form, request_id: str = "") -> Response:
    """The whole answer, with the headers that SDKs obey."""
    told = headers(error)
    if form is anthropic_form and request_id:
        told["request-id"] = request_id  # where its clients look for it
    return Response(encoded(form(error, request_id)), error.status, told, JSON)


def headers(error: DoorError) -> dict[str, str]:
    told = cost_headers(error.charge)
    if error.status in (429, 503) and error.may_retry is not False:
        told |= {"Retry-After": str(RETRY_SECONDS), "retry-after-ms": str(1000 * RETRY_SECONDS)}
    may_retry = False if error.status == 501 else error.may_retry
    if may_retry is not None:
        told["x-should-retry"] = "true" if may_retry else "false"
    if error.status == 401:
        told["WWW-Authenticate"] = 'Bearer error="invalid_token"'
    return told
