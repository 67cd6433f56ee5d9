"""Requests that a worker answers whole, such as those of OpenAI's clients: passed on to a worker of the caller's.

A caller's requests go to the same worker as long as it is there, since kept answers and their caches lie in its folder.
What makes an answer goes on at another worker when that one is lost (`whole_answers.py`). What asks for a kept one goes
to a worker that has it, or gets it (`kept_answers.py`).
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import quote

from starlette.background import BackgroundTask
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from canister.errors import BadArgument, CanisterBusy, CanisterError, MessageTooLarge, Trap
from canister.herd.asked_answers import Asked, Head, keeping_of
from canister.herd.kept_answers import LOOK_SECONDS, WAIT_SECONDS, KeptAnswers
from canister.herd.whole_answers import WholeAnswers
from canister.herd.worker_client import WorkerLost, WorkerRefused

if TYPE_CHECKING:
    from canister.herd.herd import Herd
    from canister.herd.workers import Worker

T = TypeVar("T")

Failed = Callable[[str, str, Trap], bytes]
"""Makes the last piece of a stream, by its path, its media type, and what went wrong."""

AT_ONCE_BYTES = 64 * 1024  # of a body that is read on the event loop
_ONE = re.compile(r"(?:/canisters/[^/]+)?(?:/v1)?/responses/(resp_[0-9a-f]{48})(?:/.*)?")
_STATE = re.compile(rb"^data: (.*)\n\n", re.MULTILINE)
_SENT = ("accept", "content-type", "idempotency-key", "last-event-id", "anthropic-version", "anthropic-beta")
_NOT_TOLD = frozenset(
    {
        *("connection", "content-length", "date", "keep-alive", "server", "transfer-encoding", "upgrade"),
        "x-ic-receipt",  # of the worker's own chain, which is not the herd's
    }
)


def worker_of(herd: Herd, caller: str) -> Worker:
    """The same for one caller, whichever other workers come and go. CanisterBusy while none is ready."""
    id = herd.host.default.id
    ready = [worker for worker in herd.workers.all if worker.may_run(id, herd.control.rev(id))]
    if not ready:
        raise CanisterBusy("no worker of this herd is ready; try again later")
    return max(ready, key=lambda worker: hashlib.blake2b(f"{worker.id}\n{caller}".encode(), digest_size=8).digest())


async def able_worker_of(herd: Herd, caller: str) -> Worker:
    """As `worker_of`, as soon as one that is ready has run the updates before: they are answered sooner."""
    id, end = herd.host.default.id, time.monotonic() + WAIT_SECONDS
    while True:
        try:
            return worker_of(herd, caller)
        except CanisterBusy:
            if time.monotonic() > end or not any(worker.may_run(id, 0) for worker in herd.workers.all):
                raise
        await asyncio.sleep(LOOK_SECONDS)


async def engine_of(herd: Herd, canister: str, caller: str) -> dict[str, object] | None:
    """How the model runs at the caller's worker, as it tells there; None while no worker can tell."""
    try:
        client = worker_of(herd, caller).client
        async with client.passed_on("GET", f"/canisters/{quote(canister)}/engine", b"", {}, caller) as answer:
            found = json.loads(await answer.read()) if answer.status == 200 else None
    except (CanisterBusy, WorkerLost, ValueError):
        return None
    return found if isinstance(found, dict) else None


class Templates:
    """Prompts of messages, by the chat template of the model, which a worker has."""

    def __init__(self, herd: Herd) -> None:
        self._herd = herd

    async def prompt_of(self, canister: str, caller: str, messages: object) -> str:
        """Raises BadArgument with the worker's reason, CanisterBusy."""
        body = json.dumps({"messages": messages, "add_generation_prompt": True}).encode()
        client = (await able_worker_of(self._herd, caller)).client
        target, headers = f"/canisters/{quote(canister)}/apply-template", {"Content-Type": "application/json"}
        try:
            async with client.passed_on("POST", target, body, headers, caller) as answer:
                found = json.loads(await answer.read())
        except (WorkerLost, ValueError) as error:
            raise CanisterBusy(f"the chat template could not be asked for: {error}; try again") from None
        if answer.status != 200 or not isinstance(found.get("prompt"), str):
            raise BadArgument(f"the messages make no prompt: {str(found)[:500]}")
        return str(found["prompt"])


class Proxy:
    """Answers on routes that the workers have too."""

    def __init__(self, herd: Herd, failed: Failed) -> None:
        """failed: the last piece of a stream that breaks off, in the form of its path."""
        self._herd = herd
        self._failed = failed
        self._kept = KeptAnswers(herd, able_worker_of)
        self._answers = WholeAnswers(herd, able_worker_of, self._kept)
        self._answers.take_up(herd.left_answers)

    def routes(self, wanted: Sequence[Route]) -> list[BaseRoute]:
        """Routes in place of these, with the same paths."""
        return [
            Route(
                route.path,
                self.make if "{" not in route.path.replace("{canister}", "") else self.look,
                methods=sorted(route.methods or ("GET",)),
            )
            for route in wanted
        ]

    async def make(self, request: Request) -> Response:
        """A whole answer, by whichever worker is there."""
        if request.method != "POST":
            return await self.look(request)
        path, body = request.url.path, await self._body(request)
        keeping = (
            await asyncio.to_thread(keeping_of, path, body) if len(body) > AT_ONCE_BYTES else keeping_of(path, body)
        )
        caller, key = request.state.caller, request.headers.get("idempotency-key")
        asked = Asked(request.method, path, _target(request), body, _sent(request), caller, key, keeping)
        told = self._answers.told(asked)
        try:
            head = await _while_connected(request, anext(told))
        except BaseException as error:
            await told.aclose()
            if isinstance(error, CanisterError):
                raise CanisterBusy(f"{error}; send the request again") from error
            raise
        assert isinstance(head, Head)
        if asked.is_unheard and head.status == 200 and _is_stream(head.headers):
            return await _first_state(told)

        async def pieces() -> AsyncIterator[bytes]:
            async with aclosing(told):
                try:
                    async for piece in told:
                        if isinstance(piece, bytes):
                            yield piece
                except Trap as trap:
                    yield self._failed(asked.path, head.headers.get("Content-Type", ""), trap)

        headers = _told(head.headers) | ({} if head.length is None else {"Content-Length": str(head.length)})
        return StreamingResponse(pieces(), head.status, headers, background=BackgroundTask(told.aclose))

    async def look(self, request: Request) -> Response:
        """What the caller's worker has, as it comes. CanisterBusy while no worker is ready, or when it is lost."""
        one, body = _ONE.fullmatch(request.url.path), await self._body(request)
        try:
            if one is None:
                return await self._looked(request, body, await able_worker_of(self._herd, request.state.caller))
            return await self._of_kept(request, body, one[1])
        except (WorkerLost, WorkerRefused) as error:
            raise CanisterBusy(f"{error}; send the request again") from None

    async def _of_kept(self, request: Request, body: bytes, id: str) -> Response:
        """What is asked of a kept answer, of whichever worker is there. Raises WorkerLost, WorkerRefused."""
        n_left = self._herd.settings.limits.max_tries
        while True:
            place = await self._kept.place(request.state.caller, id)
            try:
                answer = await self._looked(request, body, place.worker)
                if answer.status_code == 404 and await self._kept.restore(place):
                    answer = await self._looked(request, body, place.worker)
                break
            except WorkerLost:
                n_left -= 1
                if not n_left or request.method == "DELETE":  # it may have been deleted
                    raise
                await self._herd.workers.suspect(place.worker)
        if answer.status_code == 200 and request.method == "DELETE":
            await self._kept.removed(place)
        elif answer.status_code == 200 and request.method == "POST":
            await self._kept.over(place)
        return answer

    async def _looked(self, request: Request, body: bytes, worker: Worker) -> Response:
        caller, held = request.state.caller, AsyncExitStack()
        asked = worker.client.passed_on(request.method, _target(request), body, _sent(request), caller)
        answer = await held.enter_async_context(asked)
        told = _told(answer.headers)
        if request.method != "GET" or answer.status != 200:
            async with held:
                return Response(await answer.read(), answer.status, told)

        async def pieces() -> AsyncIterator[bytes]:
            async with held:
                async for piece in answer.content.iter_any():
                    yield piece

        return StreamingResponse(pieces(), answer.status, told, background=BackgroundTask(held.aclose))

    async def _body(self, request: Request) -> bytes:
        limit, body = self._herd.host.settings.max_body_bytes, bytearray()
        async for piece in request.stream():
            body += piece
            if len(body) > limit:
                raise MessageTooLarge(f"the body has more than {limit} bytes, which is the most that is taken")
        return bytes(body)


def _is_stream(headers: Mapping[str, str]) -> bool:
    return headers.get("Content-Type", "").startswith("text/event-stream")


async def _first_state(told: AsyncGenerator[Head | bytes]) -> Response:
    """The object of an answer in the background, as its first event has it. It goes on without its client."""
    data = bytearray()
    async with aclosing(told):
        async for piece in told:
            data += piece if isinstance(piece, bytes) else b""
            if (found := _STATE.search(data)) is not None:
                state = json.loads(found[1])["response"]
                return Response(json.dumps(state, ensure_ascii=False) + "\n", media_type="application/json")
    raise CanisterBusy("the answer did not begin; send the request again")


def _sent(request: Request) -> dict[str, str]:
    return {name: value for name in _SENT if (value := request.headers.get(name)) is not None}


def _target(request: Request) -> str:
    query = request.scope["query_string"].decode("latin-1")
    return str(request.scope["raw_path"].decode("latin-1")) + (f"?{query}" if query else "")


def _told(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name.lower() not in _NOT_TOLD}


async def _while_connected(request: Request, work: Awaitable[T]) -> T:
    """The result of work, which is cancelled when the client goes away. The body has been read."""

    async def until_gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    gone, task = asyncio.ensure_future(until_gone()), asyncio.ensure_future(work)
    try:
        await asyncio.wait({gone, task}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        for one in (gone, task):
            one.cancel()
        await asyncio.gather(gone, task, return_exceptions=True)
