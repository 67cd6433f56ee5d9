"""`/v1/responses`: answers that are stored, may be made without their client, and can be read again event by event."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

from fastapi import Request, Response
from starlette.routing import Route

from canister import dispatch
from canister.dispatch import herd_answers
from canister.errors import NotFound
from canister.server import answers
from canister.server.doors.openai import counting, door, kept, run
from canister.server.doors.openai.encoding import sse
from canister.server.doors.openai.errors import DoorError, invalid
from canister.server.doors.openai.events import Done, Event, Usage
from canister.server.doors.openai.fields import read, shown
from canister.server.doors.openai.kept import Kept
from canister.server.doors.openai.responses import fields, items
from canister.server.doors.openai.responses.converter import Converter, Json, Status, response_of
from canister.server.doors.openai.responses.fields import ResponsesBody
from canister.server.doors.openai.stream import streamed
from canister.server.requests import while_connected

KIND = "responses"
MOST_LISTED = 100
PATH = "/v1/responses"

_NUMBER = re.compile(r"-?[0-9]{1,16}")


def routes() -> list[Route]:
    return [
        *door.route(f"{PATH}/input_tokens", {"POST": count}),
        *door.route(PATH, {"POST": create}),
        *door.route(f"{PATH}/{{id}}", {"GET": retrieve, "DELETE": delete}),
        *door.route(f"{PATH}/{{id}}/cancel", {"POST": cancel}),
        *door.route(f"{PATH}/{{id}}/input_items", {"GET": list_items}),
    ]


async def create(request: Request) -> Response:
    raw = await door.raw_body(request)
    body = await door.aside(len(raw), lambda: read(ResponsesBody, raw))
    fields.check(body)
    model = door.model_of(request, body.model)
    with door.counted(model, KIND):
        response_id = herd_answers.response_id()

        async def make() -> kept.Made:
            said = await _conversation(request, body)
            head = {"id": response_id, "created_at": herd_answers.asked_at()}
            asked = await _asked(model, body, len(raw), said, head)
            told: Json = {"base": asked.base, "items": items.with_ids(said, response_id)}
            return kept.Made(asked.turn, told)

        wish = kept.Wish(KIND, response_id, raw, is_listed=body.store, goes_on=body.background)
        asked = await while_connected(request, kept.ask(request, model, wish, make))
        converter = Converter(asked.about["base"])
        if body.background and not body.stream and herd_answers.current() is None:
            await asked.events.aclose()
            return await _document(asked.kept) if asked.kept is not None else answers.document(converter.response())
        if body.stream or body.background:  # a herd follows what it has made in the background
            return await _streamed(request, asked, converter)
        async with aclosing(asked.events):
            usage = await while_connected(request, _whole(asked.events, converter))
        return answers.document(converter.response(), headers=door.usage_headers(usage))


async def retrieve(request: Request) -> Response:
    found = _found(request, request.path_params["id"])
    if request.query_params.get("stream") not in ("true", "True", "1"):
        return await _document(found)
    after = _number(request, "starting_after", -1, least=-1)
    found.check_goes_on()
    return await _streamed(request, found.asked(), Converter(found.about["base"]), after)


async def delete(request: Request) -> Response:
    found = _found(request, request.path_params["id"])
    try:
        await found.remove()
    except NotFound:  # somebody else was faster
        raise _missing(found.id) from None
    return answers.document({"id": found.id, "object": "response", "deleted": True})


async def cancel(request: Request) -> Response:
    found = _found(request, request.path_params["id"])
    return await _document(await found.cancel())


async def list_items(request: Request) -> Response:
    """The items from which an answer was made, the newest first."""
    found = _found(request, request.path_params["id"])
    listed: list[Json] = found.about["items"]
    order = request.query_params.get("order", "desc")
    if order not in ("asc", "desc"):
        raise invalid(f"order: {shown(order)} is neither asc nor desc", "order")
    listed = [_listed(item) for item in (listed if order == "asc" else listed[::-1])]
    after = request.query_params.get("after")
    if after is not None:
        at = next((n for n, item in enumerate(listed) if item["id"] == after), None)
        if at is None:
            raise invalid(f"after: there is no item {shown(after)}", "after")
        listed = listed[at + 1 :]
    some = listed[: _number(request, "limit", 20, least=1, most=MOST_LISTED)]
    return answers.document(
        {
            "object": "list",
            "data": some,
            "first_id": some[0]["id"] if some else "",
            "last_id": some[-1]["id"] if some else "",
            "has_more": len(some) < len(listed),
        }
    )


async def count(request: Request) -> Response:
    """The number of tokens in a request's prompt."""
    raw = await door.raw_body(request)
    body = await door.aside(len(raw), lambda: read(ResponsesBody, raw))
    fields.check(body)
    model = door.model_of(request, body.model)
    with door.counted(model, "responses_input_tokens"):
        said = await _conversation(request, body)
        asked = await _asked(model, body, len(raw), said, {"id": ""})
        n_tokens = await while_connected(request, counting.n_tokens_of(model, asked.turn))
        return answers.document({"object": "response.input_tokens", "input_tokens": n_tokens})


async def _asked(model: door.Model, body: ResponsesBody, n_bytes: int, said: list[Json], head: Json) -> fields.Asked:
    texts = body.bias_texts()
    tokens = await run.tokens_of(model, texts) if texts else {}
    return await door.aside(n_bytes, lambda: fields.asked_of(body, said, model.view, head, tokens))


# -- what came before


async def _conversation(request: Request, body: ResponsesBody) -> list[Json]:
    """All items: the former answer with its history, then the input's, where references are replaced by their items."""
    given = items.items_of(body.input) if body.has("input") else None
    if given is None:
        raise invalid("input is missing", "input")
    before: list[Json] = []
    if body.previous_response_id is not None:
        before = await _before(request, body.previous_response_id)
    known = {item["id"]: item for item in before if "id" in item}
    for response_id in {response_of(id) for id in items.references(given) if id not in known}:
        await asyncio.sleep(0)  # a look into the database each, and there may be thousands
        found = None if response_id is None else _find(request, response_id)
        if found is not None:
            converter = await _read(found)
            known |= {item["id"]: item for item in converter.response()["output"]}
    return before + [known.get(item["id"], item) if item["type"] == items.REFERENCE else item for item in given]


async def _before(request: Request, id: str) -> list[Json]:
    found = _find(request, id)
    if found is None:
        raise invalid(
            f"previous_response_id: there is no answer {shown(id)}: it was not stored, is too old, or is another's",
            "previous_response_id",
            "previous_response_not_found",
        )
    if found.is_running:
        raise invalid(f"previous_response_id: the answer {shown(id)} is not finished yet", "previous_response_id")
    converter = await _read(found)
    earlier: list[Json] = found.about["items"]
    return earlier + list(converter.response()["output"])


# -- reading again


def _find(request: Request, id: str) -> Kept | None:
    return kept.find(request, id, KIND)


def _found(request: Request, id: str) -> Kept:
    found = _find(request, id)
    if found is None:
        raise _missing(id)
    return found


def _missing(id: str) -> DoorError:
    return DoorError(404, f"there is no answer {shown(id)}: it was not stored, is too old, or is another's")


async def _document(found: Kept) -> Response:
    """The object of a kept answer, as it stands."""
    converter = await _read(found)
    return answers.document(converter.response(found.ended_at))


async def _read(found: Kept) -> Converter:
    """All events so far, converted."""
    converter = Converter(found.about["base"])
    is_whole = False
    async for event in found.events_so_far():
        converter.feed(event)
        is_whole = isinstance(event, Done)
    if found.failure is not None:
        _fail(converter, found.failure)
    elif not is_whole and not found.is_running:
        converter.stop(_ended(found))
    return converter


def _ended(found: Kept) -> Status:
    return "cancelled" if found.is_cancelled else "incomplete"


async def _whole(events: AsyncIterator[Event], converter: Converter) -> Usage:
    usage = Usage(0, 0, 0)
    async for event in events:
        converter.feed(event)
        if isinstance(event, Done):
            usage = event.usage
    return usage


# -- streams


async def _streamed(request: Request, asked: kept.Asked, converter: Converter, after: int = -1) -> Response:
    return await streamed(
        request,
        _frames(asked, converter, after),
        lambda error: (
            # The server ends: what is stored can be gone on with.
            (_interrupted(asked, converter, after, error) if error.status == 503 else None)
            or b"".join(map(_frame, _fail(converter, error)))
        ),
    )


async def _frames(asked: kept.Asked, converter: Converter, after: int) -> AsyncGenerator[bytes]:
    """Events with numbers above `after`. An answer that is interrupted can be continued by its id and number."""
    is_whole = False
    async with aclosing(asked.events):
        if after >= 0:
            yield b""  # the first event of interest may be far away
        try:
            async for event in asked.events:
                is_whole = isinstance(event, Done)
                for made in converter.feed(event):
                    if made["sequence_number"] > after:
                        yield _frame(made)
        except dispatch.PASSING as error:
            herd_answers.failed(error)
            told = _interrupted(asked, converter, after, error)
            if told is None:
                raise
            yield told
            return
    if asked.kept is not None and not is_whole:
        for made in converter.stop(_ended(asked.kept.now())):
            if made["sequence_number"] > after:
                yield _frame(made)


def _interrupted(asked: kept.Asked, converter: Converter, after: int, error: Exception) -> bytes | None:
    """Tells that a stored answer can be gone on with later; None: it cannot.

    No event of the answer, which is told again by whoever goes on with it: so it takes no number.
    """
    if asked.kept is None or not converter.n_events or not asked.kept.is_there:
        return None
    number = max(after, converter.n_events - 1)
    told = {"type": "error", "sequence_number": number, "code": "server_error", "message": str(error)}
    return _frame({**told, "param": None})


def _frame(event: Json) -> bytes:
    return sse(event, event["type"])


def _fail(converter: Converter, error: DoorError) -> list[Json]:
    code = "rate_limit_exceeded" if error.status == 429 else "invalid_prompt" if error.status < 429 else "server_error"
    return converter.fail(code, str(error), error.param)


def _number(request: Request, name: str, default: int, *, least: int, most: int = 2**53) -> int:
    text = request.query_params.get(name)
    if text is None:
        return default
    number = int(text) if _NUMBER.fullmatch(text) else None
    if number is None or not least <= number <= most:
        raise invalid(f"{name}: a whole number from {least} is wanted (given: {shown(text)})", name)
    return number


def _listed(item: Json) -> Json:
    """An item in the form of the SDK's types, where a text is a part."""
    if item["type"] == "message" and isinstance(item.get("content"), str):
        kind = "output_text" if item["role"] == "assistant" else "input_text"
        part = {"type": kind, "text": item["content"]}
        return {
            "status": "completed",
            **item,
            "content": [part | ({"annotations": []} if kind == "output_text" else {})],
        }
    return {"status": "completed", **item}
