"""The legacy units: `/mu` takes messages, `/cu` tells results.

POST /mu                             an item                -> 202 {message, id}
POST /mu?process-id=P&assign=M       nothing                -> 202 {message, id}
POST, DELETE /mu/monitor/P           an item                -> 200
GET  /cu/result/M?process-id=P                              -> the result; 202 while it is made
GET  /cu/results/P?from&to&sort&limit                       -> {pageInfo, edges: [{node, cursor}]}
POST /cu/dry-run?process-id=P        {Id, Owner, Target, …} -> a result, of which nothing stays
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping, Sequence

from fastapi import Request, Response
from starlette.routing import Route

from canister.ao.encoding import Malformed
from canister.ao.processes.messages import Done, Incoming
from canister.ao.signing.tags import MAX_TAG_BYTES, MAX_TAGS, Tag
from canister.errors import BadRequest, NotFound
from canister.server.doors.ao.delivery import NOBODY, Delivery
from canister.server.doors.ao.incoming import checked_id, of_item, read_item
from canister.server.doors.ao.routing import document, json_body, route, text
from canister.server.requests import while_connected

MAX_DRY_RUN_BYTES = 4 << 20
DEFAULT_LIMIT, MAX_LIMIT = 25, 1000
_NUMBER = re.compile(r"[0-9]{1,15}")


class LegacyUnits:
    def __init__(self, delivery: Delivery) -> None:
        self._delivery = delivery
        self._units = delivery.units

    def routes(self) -> list[Route]:
        return [
            route("/mu", {"GET": self.about, "POST": self.post}),
            route("/mu/monitor/{process}", {"POST": self.monitor, "DELETE": self.monitor}),
            route("/cu", {"GET": self.about}),
            route("/cu/result/{message}", {"GET": self.result}),
            route("/cu/results/{process}", {"GET": self.results}),
            route("/cu/dry-run", {"POST": self.dry_run}),
            route("/cu/state/{process}", {"GET": self.state}),
        ]

    async def about(self, request: Request) -> Response:
        return document({"address": self._units.node})

    async def post(self, request: Request) -> Response:
        asked = request.query_params
        process, message = asked.get("process-id"), asked.get("assign")
        if process is None and message is None:
            place = await self._delivery.item(await read_item(request))
            return document({"message": "Processing DataItem", "id": place.message}, 202)
        if process is None or message is None:
            raise BadRequest("an assignment needs both: process-id, who is to get it, and assign, the id of a message")
        place = await self._units.assign(checked_id(process, "process-id"), checked_id(message, "assign"))
        return document({"message": "Processing Assignment", "id": place.message}, 202)

    async def monitor(self, request: Request) -> Response:
        item = await read_item(request)
        process = checked_id(request.path_params["process"], "the process")
        message = of_item(item)
        if message.target not in ("", process) or message.tag("Action") is not None:  # which anybody may have seen
            raise BadRequest(f"the item is a message, and none to turn the timer of {process} on or off")
        await self._units.monitor(process, request.method == "POST", message.owner)
        done = "monitored" if request.method == "POST" else "no longer monitored"
        return text(f"{process} is {done}")

    async def result(self, request: Request) -> Response:
        message = checked_id(request.path_params["message"], "the message")
        process = checked_id(request.query_params.get("process-id"), "process-id")
        done = await self._delivery.result(request, process, message)
        if done is None:
            return document({"message": f"{message} is not done yet; ask again"}, 202)
        return document(done.result.to_json())

    async def results(self, request: Request) -> Response:
        asked = request.query_params
        sort = asked.get("sort", "ASC").upper()
        if sort not in ("ASC", "DESC"):
            raise BadRequest(f"sort is {sort[:20]!r}; it must be ASC or DESC")
        limit = asked.get("limit") or str(DEFAULT_LIMIT)
        if not _NUMBER.fullmatch(limit) or not 1 <= int(limit) <= MAX_LIMIT:
            raise BadRequest(f"limit is {limit[:40]!r}; it must be a whole number from 1 to {MAX_LIMIT}")
        start, end = _slot(asked.get("from")), _slot(asked.get("to"))
        is_falling = sort == "DESC"
        beyond = None if end is None else end - 1 if is_falling else end + 1
        process = checked_id(request.path_params["process"], "the process")
        page = await self._units.results(process, after=start, before=beyond, newest_first=is_falling, limit=int(limit))
        edges = [{"node": done.result.to_json(), "cursor": _cursor(done, sort)} for done in page.done]
        return document({"pageInfo": {"hasNextPage": page.has_next}, "edges": edges})

    async def state(self, request: Request) -> Response:
        """The memory of a WebAssembly module, elsewhere."""
        process = checked_id(request.path_params["process"], "the process")
        await self._units.info(process)
        raise NotFound(
            f"{process} is a Lua program, whose memory is no file: what it has answered is at /cu/results/{process}, "
            f"and what it publishes below /{process}/now"
        )

    async def dry_run(self, request: Request) -> Response:
        process = checked_id(request.query_params.get("process-id"), "process-id")
        given = await json_body(request, MAX_DRY_RUN_BYTES)
        if not isinstance(given, Mapping):
            raise Malformed("the body is no JSON object with Id, Owner, Target, Data, Tags and Anchor")
        data, owner = given.get("Data", ""), given.get("Owner")
        message = Incoming(
            id=NOBODY,
            owner=NOBODY,
            target=process,
            data=(data if isinstance(data, str) else json.dumps(data)).encode("utf-8", "replace"),
            tags=_tags(given.get("Tags")),
            anchor=str(given.get("Anchor") or "").encode("utf-8", "replace"),
        )
        work = self._delivery.dry_run(process, message, owner if isinstance(owner, str) else None)
        return document((await while_connected(request, work)).to_json())


def _tags(given: object) -> tuple[Tag, ...]:
    if given is None:
        return ()
    found: list[Tag] = []
    for each in given if isinstance(given, Sequence) and not isinstance(given, str) else [None]:
        if (
            not isinstance(each, Mapping)
            or not isinstance(each.get("name"), str)
            or not isinstance(each.get("value"), str)
        ):
            raise Malformed("Tags is no list of {name, value}, both texts")
        found.append((each["name"].encode("utf-8", "replace"), each["value"].encode("utf-8", "replace")))
    n_bytes = sum(len(name) + len(value) for name, value in found)
    if len(found) > MAX_TAGS or n_bytes > MAX_TAG_BYTES:
        raise Malformed(
            f"there are {len(found)} tags of {n_bytes} bytes; at most {MAX_TAGS} of {MAX_TAG_BYTES} are taken"
        )
    return tuple(found)


def _cursor(done: Done, sort: str) -> str:
    told = {"timestamp": done.timestamp_ms, "ordinate": str(done.place.slot), "sort": sort}
    return base64.b64encode(json.dumps(told).encode()).decode()


def _slot(cursor: str | None) -> int | None:
    """Of a cursor; a plain number counts as one too. Raises BadRequest."""
    if not cursor:
        return None
    if _NUMBER.fullmatch(cursor):
        return int(cursor)
    try:
        told = json.loads(base64.b64decode(cursor + "=" * (-len(cursor) % 4)))
        ordinate = str(told["ordinate"])
    except (ValueError, KeyError, TypeError):
        ordinate = ""
    if not _NUMBER.fullmatch(ordinate):
        raise BadRequest(f"the cursor {cursor[:60]!r} is none of this unit")
    return int(ordinate)
