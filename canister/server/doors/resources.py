"""What REST offers beside the methods: a path takes verbs, and each verb is a row like those of the interface table.

Answers are plain documents; errors look as those of methods. Handlers get the names in the path as named arguments.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Mapping
from typing import Any

from fastapi import Request, Response
from pydantic import BaseModel
from starlette.routing import Route

from canister.api.methods import Method
from canister.dispatch import Reply
from canister.server import answers
from canister.server.doors import rest
from canister.server.requests import caller, decoding, dispatcher, read_body, while_connected
from canister.server.verbs import ANY_VERB
from canister.telemetry import metrics

Verbs = Mapping[str, Method]

PAGED = frozenset({"list_chats", "list_caches", "list_folder", "list_models"})
"""Rows whose answers come by pages, by the parameters of PAGE."""
PAGE = ("limit", "after")


def route(path: str, verbs: Verbs, examples: Mapping[str, Any] = {}) -> Route:
    """examples: arguments that decode, by name of the row, for error messages."""
    return Route(path, functools.partial(answer, verbs, examples), methods=ANY_VERB)


async def answer(verbs: Verbs, examples: Mapping[str, Any], request: Request) -> Response:
    """Find canister and row, read the body, execute, answer."""
    behind = dispatcher(request)
    names: dict[str, str] = dict(request.path_params)
    named = names.pop("canister", None)
    canister = behind.default if named is None else behind.find(named)
    verb = "GET" if request.method == "HEAD" else request.method
    if verb not in verbs:
        allowed = [*verbs, *(["HEAD"] if "GET" in verbs else [])]
        told = " or ".join(verbs)
        return answers.wrong_verb(f"{request.url.path} takes {told}, not {request.method}", ", ".join(allowed))
    row = verbs[verb]
    if row.name in PAGED:
        names |= {name: request.query_params[name] for name in PAGE if name in request.query_params}
    with metrics.counted(canister.name, row.name) as outcome:
        body = b"" if row.arg is None else await read_body(request, behind.settings.max_body_bytes)
        read = functools.partial(rest.decode, row, body, examples.get(row.name))
        decode = functools.partial(decoding, body, read)
        work = canister.execute(row, caller(request), decode, named=names)
        reply = await while_connected(request, work)
        outcome.is_ok = reply.error is None
    if reply.error is not None:
        return answers.error(reply)
    return await asyncio.to_thread(_document, reply)  # it may be a long conversation


def _document(reply: Reply) -> Response:
    content = reply.value.model_dump(exclude_unset=True) if isinstance(reply.value, BaseModel) else {}
    return answers.document(content, headers=answers.cost_headers(reply.charge))
