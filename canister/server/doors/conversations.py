"""What REST offers beside the methods, for clients that hold conversations.

    GET  /canisters/{canister}/props               the loaded model, in the form of llama.cpp's server
    POST /canisters/{canister}/apply-template      messages → prompt, by the model's chat template
    GET  /canisters/{canister}/chats               the caller's named chats
    GET, PUT, DELETE /canisters/{canister}/chats/{name}
    GET  /canisters/{canister}/caches              the caller's prompt caches

`/props` and `/apply-template` are the same for the server's first canister. Answers are plain documents; errors look
as those of methods.
"""

from __future__ import annotations

from typing import Any

from starlette.routing import Route

from canister.api import rest_only
from canister.server.doors import resources

EXAMPLES: dict[str, Any] = {
    "apply_template": {"messages": [{"role": "user", "content": "Who are you?"}], "add_generation_prompt": True},
    "put_chat": {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]},
}

PATHS: dict[str, resources.Verbs] = {
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
    "/canisters/{canister}/caches": {"GET": rest_only.LIST_CACHES},
}


def worker_routes() -> list[Route]:
    """Of these, what only a server can answer that has the model."""
    return [resources.route(path, verbs, EXAMPLES) for path, verbs in PATHS.items() if "chats" not in path]


def routes() -> list[Route]:
    return [resources.route(path, verbs, EXAMPLES) for path, verbs in PATHS.items()]
