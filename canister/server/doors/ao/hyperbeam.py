"""HyperBEAM's wire: paths of devices. A process is written `P` or `P~process@1.0`, and steps may be percent-encoded.

    GET  /~meta@1.0/info/address              the node's address
    POST /push                                a new process           -> headers process, slot, id
    POST /P~process@1.0/push                  a message               -> {slot, id, process, raw}
    any  /P/slot/current                      the last slot
    any  /P/compute/results=S, /P/compute=S   S: a slot or a message  -> {raw}
    any  /P/as=execution/compute&Name=Value…  a dry run               -> {raw}
    GET  /P/compute/a/b, /P/now/a/b           what the process has published

A message is an item, or the request itself where that is signed. Its path is never signed, so the target must be.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from urllib.parse import unquote_to_bytes

from fastapi import Request, Response
from starlette.convertors import Convertor, register_url_convertor
from starlette.routing import Route

from canister.ao.encoding import Malformed
from canister.ao.lua.values import Value
from canister.ao.processes.messages import Incoming, Place, Result
from canister.ao.signing import items
from canister.errors import BadRequest, NotFound
from canister.server import answers
from canister.server.doors.ao.delivery import NOBODY, Delivery
from canister.server.doors.ao.incoming import ITEM_CODEC, MAX_MESSAGE_BYTES, of_http, of_item, verified
from canister.server.doors.ao.routing import NO_STORE, document, route, text
from canister.server.requests import read_body, while_connected

DEVICE = "~process@1.0"
_ID = "[A-Za-z0-9_-]{43}"
_SLOT = re.compile(r"[0-9]{1,15}")
_ENDINGS = ("serialize~json@1.0", "format~json@1.0", "json")  # how the answer is wanted, which is as JSON anyway


class _Process(Convertor[str]):
    """An id with a device or without; percent-encoding is gone from a path when it is compared."""

    regex = rf"{_ID}(?:~process@1\.0)?"

    def convert(self, value: str) -> str:
        return value.removesuffix(DEVICE)

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("ao_process", _Process())


class HyperBeam:
    def __init__(self, delivery: Delivery) -> None:
        self._delivery = delivery
        self._units = delivery.units

    def routes(self) -> list[Route]:
        return [
            route("/~meta@1.0/info", {"GET": self.info}),
            route("/~meta@1.0/info/address", {"GET": self.address}),
            route("/push", {"POST": self.push}),
            route("/~process@1.0/push", {"POST": self.push}),
            route("/{process:ao_process}/{rest:path}", {"GET": self.at_process, "POST": self.at_process}),
        ]

    async def info(self, request: Request) -> Response:
        return document({"address": self._units.node})

    async def address(self, request: Request) -> Response:
        return text(self._units.node)

    async def at_process(self, request: Request) -> Response:
        """By the steps of the path behind the process."""
        process = request.path_params["process"]
        steps = _steps(request)
        while len(steps) > 1 and steps[-1] in _ENDINGS:
            steps = steps[:-1]
        match steps:
            case ["push" | "schedule"] if request.method == "POST":
                return await self.push(request)
            case ["slot", "current"] | ["slot"]:
                return text(str(await self._units.current_slot(process)))
            case ["as=execution", first, *more] if first.startswith("compute"):
                return await self._dry_run(request, process, "/".join([first, *more]))
            case ["compute", last] if last.startswith("results="):
                return await self._result(request, process, last.removeprefix("results="))
            case [only] if only.startswith("compute="):
                return await self._result(request, process, only.removeprefix("compute="))
            case [first, "results", *_] if first.startswith(("compute&slot=", "compute&slot+integer=")):
                return await self._result(request, process, first.partition("=")[2])
            case [only] if only.startswith(("compute&slot=", "compute&slot+integer=")):
                return await self._result(request, process, only.partition("=")[2])
            case ["compute" | "now", *path] if path:
                return await self._published(request, process, path)
        raise NotFound(
            f"there is nothing at {request.url.path[:120]!r} of a process: push, compute, now and slot are there"
        )

    async def push(self, request: Request) -> Response:
        process = request.path_params.get("process")
        body = await read_body(request, MAX_MESSAGE_BYTES)
        signed = await of_http(request, body)
        if signed is not None:
            place = await self._delivery.message(_for(process, signed))
        elif body:
            item = await verified(body)
            _for(process, of_item(item))
            place = await self._delivery.item(item)
        else:
            raise Malformed(f"the request has neither a signature nor an item ({ITEM_CODEC}) as its body")
        return await self._pushed(request, place)

    async def _pushed(self, request: Request, place: Place) -> Response:
        done = await self._delivery.result(request, place.process, place.slot)
        told: dict[str, object] = {"slot": place.slot, "id": place.message, "process": place.process}
        if done is not None:
            told |= _told(done.result)
            if _steps(request)[-1:] == [_ENDINGS[0]]:
                told["json"] = {"body": json.dumps(done.result.to_json())}  # where versions of the command aos look
        return document(told, 200, {"slot": str(place.slot), "id": place.message, "process": place.process})

    async def _result(self, request: Request, process: str, which: str) -> Response:
        named: int | str = int(which) if _SLOT.fullmatch(which) else which
        done = await self._delivery.result(request, process, named)
        if done is None:
            return document({"message": f"{which[:80]} is not done yet; ask again"}, 202)
        return document({**_told(done.result), "slot": done.place.slot, "process": process})

    async def _dry_run(self, request: Request, process: str, asked: str) -> Response:
        fields = [part.partition("=") for part in asked.split("&")[1:]]
        tags = tuple((name.encode(), value.encode()) for name, _, value in fields if name)
        body = await read_body(request, MAX_MESSAGE_BYTES) if request.method == "POST" else b""
        data = _data_of(body)
        message = Incoming(NOBODY, NOBODY, process, data, tags)
        result = await while_connected(request, self._delivery.dry_run(process, message, None))
        return document(_told(result))

    async def _published(self, request: Request, process: str, path: Sequence[str]) -> Response:
        found = await self._units.published(process, path)
        wants_json = "json" in request.headers.get("accept", "")
        if isinstance(found, bytes) and not wants_json:
            return Response(found, 200, {**NO_STORE, "X-Content-Type-Options": "nosniff"}, "text/plain")
        shown = _shown(found)
        if isinstance(shown, int | float) and not wants_json:
            return text(json.dumps(shown))
        return Response(json.dumps(shown, ensure_ascii=False), 200, dict(NO_STORE), answers.JSON)


def _told(result: Result) -> dict[str, object]:
    """Where clients look for it: those up to 0.0.93 at `results.raw`, later ones at `raw`."""
    shown = result.to_json()
    return {"raw": shown, "results": {"raw": shown}}


def _for(process: str | None, message: Incoming) -> Incoming:
    """The message, if it is for the process in the path. Raises BadRequest."""
    if process is not None and message.tag("Type") == "Process":
        raise BadRequest("a new process is pushed to /push, not to another process")
    if process is not None and message.target != process:
        raise BadRequest(f"the message's target is {message.target[:80]!r}, and its path names {process}")
    return message


def _steps(request: Request) -> list[str]:
    """Of the path behind the process, each decoded by itself."""
    raw: bytes = request.scope["raw_path"].partition(b"?")[0]
    steps = raw.lstrip(b"/").split(b"/")[1:]
    return [unquote_to_bytes(step).decode("utf-8", "replace") for step in steps if step]


def _data_of(body: bytes) -> bytes:
    """Of an item, which need not be signed here: nothing comes of it."""
    if not body:
        return b""
    try:
        return items.read_item(body).data
    except Malformed:
        return body


def _shown(value: Value) -> object:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, Mapping):
        return {str(_shown(key)): _shown(each) for key, each in value.items()}
    if isinstance(value, Sequence):
        return [_shown(each) for each in value]
    return value
