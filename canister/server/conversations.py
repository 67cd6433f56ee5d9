"""What REST offers beside the methods, for clients that hold conversations.

    GET  /canisters/{canister}/props               the loaded model, in the form of llama.cpp's server
    POST /canisters/{canister}/apply-template      messages → prompt, by the model's chat template
    GET  /canisters/{canister}/chats               the caller's named chats
    GET, PUT, DELETE /canisters/{canister}/chats/{name}

`/props` and `/apply-template` are the same for the server's first canister. Answers are plain documents; errors look
as those of methods.
"""

from __future__ import annotations

import functools
from typing import Any

from fastapi import Request, Response
from pydantic import BaseModel
from starlette.routing import Route

from canister import dispatch, telemetry
from canister.dispatch import rest_only
from canister.host import Host
from canister.interface import Method
from canister.server import answers, rest
from canister.server.auth import caller
from canister.server.verbs import ANY_VERB

Verbs = dict[str, Method]

EXAMPLES: dict[str, Any] = {
    "apply_template": {"messages": [{"role": "user", "content": "Who are you?"}], "add_generation_prompt": True},
    "put_chat": {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]},
}

PATHS: dict[str, Verbs] = {
    "/props": {"GET": rest_only.PROPS},
    "/canisters/{canister}/props": {"GET": rest_only.PROPS},
    "/apply-template": {"POST": rest_only.APPLY_TEMPLATE},
    "/canisters/{canister}/apply-template": {"POST": rest_only.APPLY_TEMPLATE},
    "/canisters/{canister}/chats": {"GET": rest_only.LIST_CHATS},
    "/canisters/{canister}/chats/{name}": {
        "GET": rest_only.GET_CHAT,
        "PUT": rest_only.PUT_CHAT,
        "DELETE": rest_only.REMOVE_CHAT,
    },
}


def routes() -> list[Route]:
    return [Route(path, functools.partial(_answer, verbs), methods=ANY_VERB) for path, verbs in PATHS.items()]


async def _answer(verbs: Verbs, request: Request) -> Response:
    """Find canister and row, read the body, execute, answer."""
    host: Host = request.app.state.host
    named = request.path_params.get("canister")
    canister = host.default if named is None else host.find(named)
    verb = "GET" if request.method == "HEAD" else request.method
    if verb not in verbs:
        allowed = [*verbs, *(["HEAD"] if "GET" in verbs else [])]
        told = " or ".join(verbs)
        return answers.wrong_verb(f"{request.url.path} takes {told}, not {request.method}", ", ".join(allowed))
    row = verbs[verb]
    if "name" in request.path_params:
        row = rest_only.for_chat(row, request.path_params["name"])
    with telemetry.counted(canister.name, row.name) as outcome:
        body = b"" if row.arg is None else await rest.read_body(request, host.settings.max_body_bytes)
        decode = functools.partial(rest.decode, row, body, EXAMPLES.get(row.name))
        reply = await rest.while_connected(request, dispatch.execute(canister, row, caller(request), decode))
        outcome.is_ok = reply.error is None
    if reply.error is not None:
        return answers.error(reply)
    content = reply.value.model_dump(exclude_unset=True) if isinstance(reply.value, BaseModel) else {}
    return answers.document(content, headers=answers.cost_headers(reply.charge))
