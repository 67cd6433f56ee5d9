"""`GET /v1/models` and `/v1/models/{id}`: the canisters with a model loaded, which are the models here."""

from __future__ import annotations

from fastapi import Request, Response
from starlette.routing import Route

from canister.dispatch import ModelView
from canister.server import answers
from canister.server.doors.openai import door
from canister.server.doors.openai.messages import models as anthropic_models
from canister.server.doors.openai.operations import Operation

OWNER = "llama-canister"

OPERATIONS = (
    Operation(
        "GET",
        "/v1/models",
        "list_openai_models",
        "The models that the caller may use: canisters with a model loaded.",
        differs=(
            "`aliases`, `max_model_len`, `capabilities` (`completion` or `embedding`) and `meta` are more than OpenAI "
            "tells; `meta` is as llama.cpp's server has it, and has `pooling` for an embedding model.",
            "With the header `anthropic-version` the models are told in Anthropic's form.",
        ),
    ),
    Operation("GET", "/v1/models/{model}", "show_openai_model", "One of them, by its name or an alias."),
)


def routes() -> list[Route]:
    return [
        *door.route("/v1/models", {"GET": listed}),
        *door.route("/v1/models/{model:any}", {"GET": shown}),
    ]


async def listed(request: Request) -> Response:
    views = [model.view for model in door.models_of(request)]
    if is_anthropic(request):
        return answers.document(anthropic_models.page(views))
    return answers.document({"object": "list", "data": [described(view) for view in views]})


async def shown(request: Request) -> Response:
    view = door.find_model(request, request.path_params["model"]).view
    return answers.document(anthropic_models.described(view) if is_anthropic(request) else described(view))


def is_anthropic(request: Request) -> bool:
    """Does one of Anthropic's clients ask, for whom a model looks otherwise?"""
    return "anthropic-version" in request.headers


def described(view: ModelView) -> dict[str, object]:
    return {
        "id": view.name,
        "object": "model",
        "created": view.created,
        "owned_by": OWNER,
        "aliases": list(view.aliases),
        "max_model_len": view.n_ctx,
        "capabilities": ["embedding" if view.pooling else "completion"],
        "meta": {
            "vocab_type": view.vocab_type,
            "n_vocab": view.n_vocab,
            "n_ctx": view.n_ctx,
            "n_ctx_train": view.n_ctx_train,
            "n_embd": view.n_embd,
            "n_params": view.n_params,
            "size": view.n_bytes,
            **({"pooling": view.pooling} if view.pooling else {}),
        },
    }
