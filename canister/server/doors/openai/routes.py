"""All routes of the door, a 404 for other paths below /v1, and the form of errors by path."""

from __future__ import annotations

import re

from fastapi import Request, Response
from starlette.routing import Route

from canister.errors import Trap
from canister.server.doors.openai import (
    chat,
    completions,
    counting,
    door,
    embeddings,
    errors,
    messages,
    models,
    native,
    ollama,
    responses,
)
from canister.server.doors.openai.encoding import encoded, sse
from canister.server.doors.openai.errors import DoorError, Form, anthropic_form, ollama_form, openai_form
from canister.server.doors.openai.operations import Operation
from canister.server.doors.openai.stream import NDJSON
from canister.server.verbs import ANY_VERB

SHOWN_CHARACTERS = 80

DIALECTS = (chat, counting, models, responses, messages, completions, native, embeddings, ollama)
OPERATIONS: tuple[Operation, ...] = tuple(operation for dialect in DIALECTS for operation in dialect.OPERATIONS)
"""The operations in the documentation, in its order."""

_RESPONSES = re.compile(r"(/canisters/[^/]+)?(/v1)?/responses(/.*)?", re.DOTALL)
_DOUBLED = re.compile(r"/v1(/v1)+(/|$)")
FORMS: tuple[tuple[re.Pattern[str], Form], ...] = (
    (re.compile(r"((/canisters/[^/]+)?/v1)?/messages(/.*)?", re.DOTALL), anthropic_form),
    (re.compile(r"(/canisters/[^/]+)?/api/(?!v\d)[^/]+(/.*)?", re.DOTALL), ollama_form),
    (
        re.compile(
            r"((/canisters/[^/]+)?/(v1|completions?|embedding|infill|(de)?tokenize|slots|rerank(ing)?)"
            r"|/(chat/completions|models|responses|embeddings))(/.*)?",
            re.DOTALL,
        ),
        openai_form,
    ),
)


def routes() -> list[Route]:
    found = [route for dialect in DIALECTS for route in dialect.routes()]
    for prefix in ("", door.PREFIX):
        found += [Route(f"{prefix}/v1{rest}", no_such_route, methods=ANY_VERB) for rest in ("", "/{path:any}")]
    return found


async def no_such_route(request: Request) -> Response:
    """404 for other paths below /v1."""
    path = request.url.path[:SHOWN_CHARACTERS]
    if _DOUBLED.search(path):
        hint = "the base URL of the client is to end in one /v1"
    else:
        hint = "docs/openai.md and GET /docs tell what is supported"
    told = f"there is nothing at {request.method} {path}: {hint}"
    error = DoorError(404, told, code="unknown_url")
    return errors.response(error, form_of(request.url.path) or openai_form, door.request_id(request))


def form_of(path: str) -> Form | None:
    """The form of errors at a path; None: it is not of this door."""
    return next((form for pattern, form in FORMS if pattern.fullmatch(path)), None)


def broken(path: str, media_type: str, trap: Trap) -> bytes:
    """The last piece of a stream of this path that breaks off."""
    form, error = form_of(path) or openai_form, errors.of(trap)
    told = form(error, "")
    if media_type.startswith(NDJSON):
        return encoded(told) + b"\n"
    if _RESPONSES.fullmatch(path):
        told = {"type": "error", "code": error.code or error.type, "message": str(error), "param": None}
    return sse(told, "error" if "type" in told else "")


def rejected(path: str, trap: Trap, request_id: str) -> Response | None:
    """The error for a request that is refused before it comes to its route; None: the path is not of this door."""
    form = form_of(path)
    return None if form is None else errors.response(errors.of(trap), form, request_id)
