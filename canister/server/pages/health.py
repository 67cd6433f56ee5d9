"""Everything that is no canister's method: the start page, probes, metrics, a proof of who serves, the canisters."""

from __future__ import annotations

from fastapi import Request, Response
from starlette.routing import Route

from canister.api import rest_only
from canister.errors import BadArgument, Forbidden
from canister.metering import fees
from canister.server import answers
from canister.server.doors import resources
from canister.server.pages import console
from canister.server.requests import caller, dispatcher
from canister.server.verbs import ANY_VERB, READ_VERBS, page
from canister.system import distribution, server_proof
from canister.telemetry.metrics import METRICS_CONTENT_TYPE, metrics_text

WITHHELD = "its model is not loaded; its controllers are told why"
METRICS_CLOSED = (
    "metrics are for the controllers: send 'Authorization: Bearer <API key>' of one, such as that in the server's "
    "controller.key, or start the server with --metrics everybody"
)
AO = "/ao"  # where the doors of AO begin, if they are open
ROBOTS = "User-agent: *\nDisallow: /\n"


def routes() -> list[Route]:
    return [
        page("/", root),
        page("/healthz", healthz),
        page("/readyz", readyz),
        page("/metrics", metrics),
        page(server_proof.PATH, proof),
        page("/robots.txt", robots),
        page("/canisters", canisters),
        page("/canisters/{canister}", canister),
        page("/canisters/{canister}/calls", calls),
        Route("/canisters/{canister}/engine", engine, methods=ANY_VERB),
    ]


async def root(request: Request) -> Response:
    """The console for browsers; for others, where to go from here."""
    if console.is_wanted(request):
        return await console.index(request)
    behind = dispatcher(request)
    return answers.document(
        {
            "name": "llama-canister",
            "version": distribution.version(),
            "canisters": [canister.name for canister in behind.targets],
            "docs": "/docs",
            "openapi": "/openapi.json",
        },
        headers={"Vary": "Accept"},
    )


async def healthz(request: Request) -> Response:
    """200 as soon as the process serves."""
    return answers.document({"status": "ok"})


async def readyz(request: Request) -> Response:
    """200 once every model that should be loaded is loaded. Until then 503, with the reason for those who control a
    canister.

    503 also from SIGTERM on: running calls are finished, but nothing new should come here.
    """
    behind = dispatcher(request)
    if behind.is_draining:
        return answers.document({"status": "draining"}, 503, {"Retry-After": str(answers.RETRY_SECONDS)})
    waiting = {
        # The reason names files, so only controllers see it.
        name: reason if caller(request) in behind.find(name).controllers else WITHHELD
        for name, reason in behind.not_ready().items()
    }
    if waiting:
        content = {"status": "not ready", "canisters": waiting}
        return answers.document(content, 503, {"Retry-After": str(answers.RETRY_SECONDS)})
    return answers.document({"status": "ready"})


async def proof(request: Request) -> Response:
    """Proves to a reader of the data folder that this is its server, before that reader sends a key here."""
    behind = dispatcher(request)
    nonce = request.query_params.get("nonce", "")
    if server_proof.NONCE.fullmatch(nonce) is None:
        raise BadArgument("?nonce= takes 64 hex digits in lower case, new ones each time")
    address, port = request.scope["server"]
    return answers.document({"proof": server_proof.prove(behind.root_key.to_bytes(), nonce, address, port)})


async def metrics(request: Request) -> Response:
    """Metrics in Prometheus' text format, for those who control every canister of the server unless set otherwise."""
    behind = dispatcher(request)
    asks = caller(request)
    if behind.settings.metrics != "everybody" and not all(asks in canister.controllers for canister in behind.targets):
        raise Forbidden(METRICS_CLOSED)
    observed = behind.observe()
    return Response(metrics_text(observed), media_type=METRICS_CONTENT_TYPE)


async def robots(request: Request) -> Response:
    """Nothing here is for search engines."""
    return Response(ROBOTS, media_type="text/plain")


async def canisters(request: Request) -> Response:
    """The canisters of this server, what an XDR costs in US dollars, which is 10^12 cycles, and whether AO's doors are
    open.
    """
    found = [canister.summary() for canister in dispatcher(request).targets]
    has_ao = any(getattr(route, "path", "") == AO for route in request.app.routes)
    return answers.document({"canisters": found, "usd_per_xdr": float(fees.USD_PER_XDR), "has_ao": has_ao})


async def canister(request: Request) -> Response:
    """One canister of this server."""
    behind = dispatcher(request)
    return answers.document(behind.find(request.path_params["canister"]).summary())


async def calls(request: Request) -> Response:
    """The calls that a canister works on, and those that wait. For its controllers."""
    behind = dispatcher(request)
    reply = await behind.find(request.path_params["canister"]).inspect_calls(caller(request))
    if reply.error is not None:
        return answers.error(reply)
    assert isinstance(reply.value, dict)
    return answers.document(reply.value)


async def engine(request: Request) -> Response:
    """How a canister's model is run, and what its engine is doing; DELETE unloads it. For controllers and admins."""
    if request.method == "DELETE":
        return await resources.answer({"DELETE": rest_only.UNLOAD_MODEL}, {}, request)
    if request.method not in READ_VERBS:
        told = f"{request.url.path} is read with GET, and DELETE unloads the model, not {request.method}"
        return answers.wrong_verb(told, ", ".join((*READ_VERBS, "DELETE")))
    behind = dispatcher(request)
    reply = await behind.find(request.path_params["canister"]).inspect_engine(caller(request))
    if reply.error is not None:
        return answers.error(reply)
    assert isinstance(reply.value, dict)
    return answers.document(reply.value)
