"""Routes about llama.cpp's server itself: `/health`, `/slots`, and the refusal of `/rerank`."""

from __future__ import annotations

import json

from fastapi import Request, Response
from starlette.routing import Route

from canister.api.rest_only import SLOTS
from canister.api.rest_records import Slots
from canister.server import answers
from canister.server.doors import rest
from canister.server.doors.openai import door
from canister.server.doors.openai.errors import DoorError
from canister.server.doors.openai.operations import Operation
from canister.server.requests import dispatcher
from canister.server.verbs import ANY_VERB, READ_VERBS

LOADING = "Loading model"

OPERATIONS = (
    Operation(
        "GET",
        "/v1/health",
        "model_health",
        "Is a model loaded: 200, else 503. For everybody.",
        differs=(
            '`GET /health` is the method of this name, with `"status": "ok"` beside its `Ok`: is the canister alive.',
        ),
    ),
    Operation("GET", "/slots", "list_slots", "The places in which conversations are decoded together."),
)


def routes() -> list[Route]:
    rerank = ("/v1/rerank", "/v1/reranking", "/rerank", "/reranking")
    return [
        Route("/health", health, methods=ANY_VERB),
        door.at("/v1/health", {"GET": model_health}),
        door.at(f"{door.PREFIX}/v1/health", {"GET": model_health}),
        *(door.at(prefix + "/slots", {"GET": slots}) for prefix in ("", door.PREFIX)),
        *(door.at(prefix + "/slots/{slot}", {"POST": no_slot_files}) for prefix in ("", door.PREFIX)),
        *(door.at(prefix + path, {"POST": rank}) for prefix in ("", door.PREFIX) for path in rerank),
    ]


async def health(request: Request) -> Response:
    """The method of this name, as everywhere; what is only read has `"status": "ok"` beside `Ok`, for llama.cpp's
    clients. Whether a model is loaded is told by /v1/health and /readyz.
    """
    request.scope["path_params"] = {"method": "health"}
    response = await rest.call_method(request)
    if request.method in READ_VERBS and response.status_code == 200 and response.media_type == answers.JSON:
        headers = {name: value for name, value in response.headers.items() if name.startswith("x-ic-")}
        return answers.document({**json.loads(bytes(response.body)), "status": "ok"}, headers=headers)
    return response


async def model_health(request: Request) -> Response:
    """As llama.cpp's: 200 once a model is loaded. For everybody."""
    behind, named = dispatcher(request), request.path_params.get("canister")
    targets = behind.targets if named is None else [behind.find(named)]
    if not any(target.summary()["ready"] for target in targets):
        raise DoorError(503, LOADING, extra={"code": 503})
    return answers.document({"status": "ok"})


async def slots(request: Request) -> Response:
    """How many conversations are decoded together, and which of these slots are busy."""
    model = door.model_of(request, None)
    reply = await model.canister.execute(SLOTS, model.caller, lambda: None)
    if reply.error is not None:
        raise reply.error
    assert isinstance(reply.value, Slots)
    told = [slot.model_dump() for slot in reply.value.slots]
    if request.query_params.get("fail_on_no_slot") and all(slot["is_processing"] for slot in told):
        raise DoorError(503, "no slot available")
    return Response(json.dumps(told), media_type=answers.JSON)


async def no_slot_files(request: Request) -> Response:
    raise DoorError(501, "slots are not saved by hand: each conversation's prompt cache is kept, and found by itself")


async def rank(request: Request) -> Response:
    raise DoorError(501, "ranking is not supported: there are no models for it here")
