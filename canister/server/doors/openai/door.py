"""What each route of the OpenAI door needs: the requested model, the parsed body, and errors in its dialect.

A model is a canister with a model loaded. `/canisters/{name}/v1/…` means that canister, whatever the body says.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from fastapi import Request, Response
from pydantic import BaseModel
from starlette.routing import Route

from canister.dispatch import ModelView, herd_answers
from canister.errors import AccessDenied, CanisterError, Trap
from canister.ic.principal import ANONYMOUS
from canister.server.answers import RECEIPTS_HEADER, work_headers
from canister.server.doors.openai import errors, fields
from canister.server.doors.openai.errors import DoorError, Form, openai_form
from canister.server.doors.openai.events import Usage
from canister.server.requests import MAX_BYTES_AT_ONCE, caller, dispatcher, read_body
from canister.server.verbs import ANY_VERB
from canister.telemetry import metrics

if TYPE_CHECKING:
    from canister.dispatch import Dispatcher, Target

PREFIX = "/canisters/{canister}"

MOST_RECEIPTS = 40  # in a header, of which many clients take 8 KiB; `usage` has all

B = TypeVar("B", bound=BaseModel)
T = TypeVar("T")

Handler = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Model:
    """The requested model and its caller."""

    canister: Target
    caller: str
    view: ModelView


def route(path: str, verbs: Mapping[str, Handler], form: Form = openai_form) -> list[Route]:
    """A path below /v1, there and without it, and below each canister. form: of errors."""
    bare = path.removeprefix("/v1")
    return [at(where, verbs, form) for where in dict.fromkeys((path, bare, PREFIX + path))]


def at(path: str, verbs: Mapping[str, Handler], form: Form = openai_form) -> Route:
    """One path. Any failure of its handlers becomes an error in this form."""

    async def answer(request: Request) -> Response:
        verb = "GET" if request.method == "HEAD" else request.method
        try:
            if verb not in verbs:
                raise DoorError(405, f"{request.url.path} takes {' or '.join(verbs)}, not {request.method}")
            return await verbs[verb](request)
        except (DoorError, CanisterError, Trap) as error:
            told = failure(error, caller(request))
            response = errors.response(told, form, request_id(request))
            if told.status == 405:
                response.headers["Allow"] = ", ".join([*verbs, *(["HEAD"] if "GET" in verbs else [])])
            return response

    return Route(path, answer, methods=ANY_VERB)


def failure(error: DoorError | CanisterError | Trap, who: str) -> DoorError:
    """who: the caller; one without a key is told to send one."""
    herd_answers.failed(error)
    if isinstance(error, DoorError):
        return error
    if isinstance(error, AccessDenied) and who == ANONYMOUS:
        return DoorError(401, errors.NO_KEY)
    return errors.of(error)


def request_id(request: Request) -> str:
    """As the answer's X-Request-Id has it."""
    found: str = getattr(request.state, "request_id", "")
    return found


def usage_headers(usage: Usage) -> dict[str, str]:
    """The costs of a whole answer, in REST's headers, and the ids of the receipts of its calls, if they are few."""
    told = work_headers(usage.instructions, usage.cycles)
    if 0 < len(usage.receipts) <= MOST_RECEIPTS:
        told[RECEIPTS_HEADER] = ", ".join(usage.receipts)
    return told


# -- bodies


async def body_of(request: Request, of: type[B]) -> B:
    """The JSON body, parsed and checked. A large body is parsed beside the event loop."""
    body = await raw_body(request)
    return await aside(len(body), lambda: fields.read(of, body))


async def raw_body(request: Request) -> bytes:
    return await read_body(request, dispatcher(request).settings.max_body_bytes)


async def aside(n_bytes: int, work: Callable[[], T]) -> T:
    """Run slow work for large requests in a worker thread. n_bytes: of the request."""
    return await beside_loop(n_bytes > MAX_BYTES_AT_ONCE, work)


async def beside_loop(is_large: bool, work: Callable[[], T]) -> T:
    """Work that may take more than some milliseconds. A worker thread does it where it is large."""
    return await asyncio.to_thread(work) if is_large else work()


# -- models


def model_of(request: Request, name: str | None) -> Model:
    """The requested model. name: from the body; None: the first one.

    An unknown name means the only canister, where there is only one, since many clients know only gpt-4o. Raises
    DoorError 404, AccessDenied, and CanisterBusy while it loads.
    """
    behind = dispatcher(request)
    who = caller(request)
    named = request.path_params.get("canister")
    canister = _chosen(behind, name) if named is None else behind.find(named)
    return Model(canister, who, canister.inspect_model(who))


def models_of(request: Request) -> list[Model]:
    """All models that the caller may use. AccessDenied: there are none. CanisterBusy: the only one is being loaded."""
    behind = dispatcher(request)
    who = caller(request)
    named = request.path_params.get("canister")
    canisters = behind.targets if named is None else [behind.find(named)]
    found: list[Model] = []
    refused: AccessDenied | None = None
    for canister in canisters:
        try:
            found.append(Model(canister, who, canister.inspect_model(who)))
        except AccessDenied as error:
            refused = error
        except (CanisterError, Trap):
            pass  # it has none, or none yet
    if not found and refused is not None:
        raise refused
    return found


def find_model(request: Request, name: str) -> Model:
    """The model with just this name or alias; DoorError 404 names those that there are."""
    models = models_of(request)
    for model in models:
        if name in (model.view.name, *model.view.aliases):
            return model
    raise _unknown(name, [model.view.name for model in models])


def _chosen(behind: Dispatcher, name: str | None) -> Target:
    canisters = behind.targets
    names = [(canister, canister.model_names()) for canister in canisters]
    with_model = [canister for canister, known in names if known]
    if name is None:
        return with_model[0] if with_model else behind.default
    wanted = name.removesuffix(":latest")
    for canister, known in names:
        if wanted in (canister.name, canister.id, *known):
            return canister
    if len(canisters) == 1:
        return canisters[0]
    raise _unknown(name, [canister.name for canister in with_model])


def _unknown(name: str, known: list[str]) -> DoorError:
    there = f"there are {', '.join(known[:20])}" if known else "none is loaded"
    return DoorError(
        404, f"the model {fields.shown(name)} does not exist: {there}", code="model_not_found", param="model"
    )


@contextmanager
def counted(model: Model, what: str) -> Iterator[None]:
    """Count requests of this kind in the metrics, with their times and failures."""
    with metrics.counted(model.canister.name, what) as outcome:
        yield
        outcome.is_ok = True
