"""The models of a canister over REST: those in its stable memory, and the loaded one.

    GET    /canisters/{canister}/models             all GGUF files, those in parts as one
    GET    /canisters/{canister}/models/{path}      one of them in detail
    POST   /canisters/{canister}/models             would a file fit that is not here yet, by its header?
    POST   /canisters/{canister}/models/{path}      would it fit, and what would an answer cost?
    DELETE /canisters/{canister}/engine             unload the one that is loaded: see health.py

Loading is a method (`load_model`), and so is removing (`filesystem_remove`).
"""

from __future__ import annotations

from typing import Any

from starlette.routing import Route

from canister.api import rest_only
from canister.server.doors import resources

PATHS: dict[str, resources.Verbs] = {
    "/canisters/{canister}/models": {"GET": rest_only.LIST_MODELS, "POST": rest_only.FIT_HEADER},
    "/canisters/{canister}/models/{path}": {"GET": rest_only.SHOW_MODEL, "POST": rest_only.FIT_MODEL},
}
EXAMPLES: dict[str, Any] = {
    rest_only.FIT_MODEL.name: {"args": ["--ctx-size", "4096"], "answer_tokens": 100},
    rest_only.FIT_HEADER.name: {"header": "R0dVRgMAAAA…", "file_bytes": 26214400, "args": ["--ctx-size", "4096"]},
}


def routes() -> list[Route]:
    return [resources.route(path.replace("{path}", "{path:any}"), verbs, EXAMPLES) for path, verbs in PATHS.items()]
