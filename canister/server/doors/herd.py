"""The private door: the leader of a herd gives this server its calls, and moves chats in and out.

    POST /herd/1/run        frames: texts as they come, then the end; 409 when the call must not run here now
    POST /herd/1/control    the same, for the next entry of the control log
    GET, PUT /herd/1/chats  the container of a chat
    GET, PUT, DELETE /herd/1/answers  a kept answer
    POST /herd/1/audit      decodes a call of the journal again
    GET /herd/1/state       what this server is and does
    POST /herd/1/drain      begin no new jobs

It stands before all other doors. The herd signs its requests (`api/herd_requests.py`); they pass neither API keys nor
the rules for browsers. With X-Herd-Caller it calls other doors as a caller that it vouches for, and with X-Herd-Answer
it is told of the calls that this takes.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import asdict

from fastapi import Request, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from canister.api import herd_frames, herd_requests, herd_wire
from canister.api.herd_frames import Frame
from canister.api.herd_requests import AnswerQuery, HerdKey, NotSigned, Signed
from canister.api.herd_wire import Conflict, Control, Run, State, Why, WireError
from canister.dispatch import Dispatcher, Target
from canister.dispatch.herd_answers import HerdAnswer, making
from canister.errors import BadArgument, Cancelled, Forbidden, MethodNotFound, NotBegun, Trap
from canister.server import answers
from canister.server.doors.answer_frames import AnswerFrames
from canister.server.requests import VOUCHED, read_body, while_connected
from canister.system import distribution

MAX_BODY_BYTES = 16 << 20  # of all but containers
MAX_HASHED_AT_ONCE = 1 << 20  # bytes, on the event loop
MAX_SEEN = 100_000  # signatures
_PREFIX = "/herd/"
_NO_STORE = {"Cache-Control": "no-store"}

Endpoint = Callable[["HerdDoor", Request, bytes], Awaitable[Response]]


class HerdDoor:
    """ASGI middleware in front of all doors of a worker."""

    def __init__(self, app: ASGIApp, behind: Dispatcher, key: HerdKey) -> None:
        self._app = app
        self._behind = behind
        self._key = key
        self._seen: OrderedDict[str, int] = OrderedDict()  # MACs that have changed something, and when
        self._is_draining = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        is_own = scope["path"].startswith(_PREFIX)
        if not is_own and herd_requests.CALLER_HEADER not in request.headers:
            await self._app(scope, receive, send)
            return
        try:
            if not is_own:
                await self._pass_on(request, send)
                return
            response = await self._answer(request)
        except NotSigned as error:
            response = answers.reject(Forbidden(str(error)))
        except WireError as error:
            response = answers.reject(BadArgument(str(error)))
        except Trap as trap:
            response = answers.reject(trap)
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        endpoints = _ENDPOINTS.get(request.scope["path"])
        if endpoints is None:
            return answers.reject(MethodNotFound(f"the private door has no {request.scope['path'][:80]}"))
        endpoint = endpoints.get(request.method)
        if endpoint is None:
            verbs = ", ".join(endpoints)
            return answers.wrong_verb(f"{request.url.path} is called with {verbs}, not {request.method}", verbs)
        is_container = request.method == "PUT"
        body = await self._signed_body(request, herd_requests.MAX_CHAT_BYTES if is_container else MAX_BODY_BYTES)
        return await endpoint(self, request, body)

    async def _pass_on(self, request: Request, send: Send) -> None:
        """To the other doors, in the name of the caller that the herd vouches for."""
        header = request.headers.get(herd_requests.ANSWER_HEADER)
        signature = request.headers.get(herd_requests.SIGNATURE_HEADER, "")
        receive = await self._vouched(request)
        if header is None:
            await self._app(request.scope, receive, send)
            return
        answer = HerdAnswer(herd_requests.read_answer(self._key, signature, header))
        framed = AnswerFrames(send, answer)
        if self._drains:
            answer.broken = "it begins nothing any more"
            await Response(status_code=503)(request.scope, receive, framed)
            return
        with making(answer):
            await self._app(request.scope, receive, framed)

    async def _vouched(self, request: Request) -> Receive:
        """The request's caller is that which the herd names; returns what receives the body, which is read already."""
        caller = request.headers[herd_requests.CALLER_HEADER]
        body = await self._signed_body(request, self._behind.settings.max_body_bytes, caller)
        request.state.caller = caller
        setattr(request.state, VOUCHED, True)
        read = request.receive
        messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> Message:
            return messages.pop() if messages else await read()

        return receive

    async def _signed_body(self, request: Request, limit_bytes: int, caller: str = "") -> bytes:
        """The body of a request that the herd has signed. Raises NotSigned."""
        signed = self._check(request, caller)
        body = await read_body(request, limit_bytes)
        if len(body) > MAX_HASHED_AT_ONCE:
            digest = await asyncio.to_thread(lambda: hashlib.sha256(body).digest())
        else:
            digest = hashlib.sha256(body).digest()
        signed.check_body(digest)
        return body

    def _check(self, request: Request, caller: str) -> Signed:
        scope = request.scope
        target, query = scope["raw_path"].decode("ascii", "replace"), scope["query_string"].decode("ascii", "replace")
        now_ns = time.time_ns()
        header = request.headers.get(herd_requests.SIGNATURE_HEADER)
        target += f"?{query}" if query else ""
        signed = herd_requests.check(self._key, header, request.method, target, now_ns=now_ns, caller=caller)
        if request.method != "GET":
            self._see(signed.mac, now_ns)
        return signed

    def _see(self, mac: str, now_ns: int) -> None:
        """Raise NotSigned for a request that came before: what was overheard cannot be sent again."""
        if mac in self._seen:
            raise NotSigned("this request came before; the herd signs each one anew")
        self._seen[mac] = now_ns
        while self._seen and next(iter(self._seen.values())) < now_ns - 2 * herd_requests.MAX_CLOCK_NS:
            self._seen.popitem(last=False)
        while len(self._seen) > MAX_SEEN:
            self._seen.popitem(last=False)

    # -- what the leader asks for

    async def run(self, request: Request, body: bytes) -> Response:
        run = herd_wire.decode(Run, body)
        target = self._behind.find(run.canister)
        if await self._takes(target, run.job):
            return FrameStream(request, target, target.worker.run_job(run))
        return _conflict(target, "draining")

    async def control(self, request: Request, body: bytes) -> Response:
        control = herd_wire.decode(Control, body)
        target = self._behind.find(control.canister)

        async def frames() -> AsyncGenerator[Frame]:
            yield await target.worker.run_control(control)

        if await self._takes(target, herd_requests.job_of_control(target.id, control.rev)):
            return FrameStream(request, target, frames())
        return _conflict(target, "draining")

    async def get_chat(self, request: Request, body: bytes) -> Response:
        asked = herd_requests.chat_query(request.scope["query_string"].decode("ascii", "replace"))
        worker = self._behind.find(asked.canister).worker
        reply, head = await worker.get_chat(asked.caller, asked.path, rows=asked.rows)
        if reply.error is not None:
            return answers.error(reply)
        assert isinstance(reply.value, bytes)
        return Response(reply.value, 200, {herd_requests.HEAD_HEADER: head.hex()}, herd_requests.CONTAINER_TYPE)

    async def put_chat(self, request: Request, body: bytes) -> Response:
        asked = herd_requests.chat_query(request.scope["query_string"].decode("ascii", "replace"))
        promised = request.headers.get(herd_requests.HEAD_HEADER)
        try:
            wanted = None if promised is None else bytes.fromhex(promised)
        except ValueError:
            raise WireError(f"{herd_requests.HEAD_HEADER} is not hex") from None
        worker = self._behind.find(asked.canister).worker
        reply, head = await worker.put_chat(asked.caller, asked.path, body, wanted)
        if reply.error is not None:
            return answers.error(reply)
        return Response(None, 204, {herd_requests.HEAD_HEADER: head.hex()})

    async def get_answer(self, request: Request, body: bytes) -> Response:
        asked = _answer_query(request)
        found = await self._behind.find(asked.canister).worker.get_answer(asked.caller, asked.id or "")
        if found is None:
            return Response(None, 404)
        return Response(found, media_type=herd_requests.CBOR_TYPE)

    async def put_answer(self, request: Request, body: bytes) -> Response:
        await self._behind.find(_answer_query(request).canister).worker.put_answer(body)
        return Response(None, 204)

    async def forget_answer(self, request: Request, body: bytes) -> Response:
        asked = _answer_query(request)
        await self._behind.find(asked.canister).worker.forget_answer(asked.caller, asked.id, asked.key)
        return Response(None, 204)

    async def audit(self, request: Request, body: bytes) -> Response:
        told = herd_requests.ToldRecord.decode(body)
        found = await while_connected(request, self._behind.find(told.canister).worker.audit(told))
        return answers.document(asdict(found))

    async def state(self, request: Request, body: bytes) -> Response:
        request.state.is_look = True  # it is asked for every second
        workers = [target.worker for target in self._behind.targets]
        states = tuple(worker.state() for worker in workers)
        n_calls = sum(state.running + state.waiting for state in states) + sum(worker.n_jobs for worker in workers)
        state = State(
            self._key.worker,
            self._key.generation,
            distribution.version(),
            os.getpid(),
            max((worker.epoch for worker in workers), default=0),
            self._drains,
            n_calls == 0,
            states,
        )
        return Response(herd_wire.encode(state), media_type=herd_requests.CBOR_TYPE)

    async def drain(self, request: Request, body: bytes) -> Response:
        self._is_draining = True
        return Response(None, 204)

    @property
    def _drains(self) -> bool:
        return self._is_draining or self._behind.is_draining

    async def _takes(self, target: Target, job: bytes) -> bool:
        """While it drains, a worker answers only what it has begun."""
        return not self._drains or await target.find_message(job) is not None


class FrameStream(Response):
    """Frames as they come, or 409 for a call that is not begun. Whoever stops listening ends the generator of them."""

    media_type = herd_requests.FRAMES_TYPE

    def __init__(self, request: Request, target: Target, frames: AsyncGenerator[Frame]) -> None:
        super().__init__(headers=_NO_STORE)
        del self.headers["content-length"]
        self._request = request
        self._target = target
        self._frames = frames
        self._has_begun = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await while_connected(self._request, self._forward(send))
        except Cancelled:
            return  # nobody is there any more
        except Trap as trap:
            if not self._has_begun:
                await self._refusal(trap)(scope, receive, send)
                return
        if self._has_begun:
            await send({"type": "http.response.body", "body": b""})

    def _refusal(self, trap: Trap) -> Response:
        return _conflict(self._target, trap.why, trap) if isinstance(trap, NotBegun) else answers.reject(trap)

    async def _forward(self, send: Send) -> None:
        async with aclosing(self._frames) as frames:
            async for frame in frames:
                if not self._has_begun:
                    self._has_begun = True
                    await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                body = herd_frames.encode_frame(frame)
                await send({"type": "http.response.body", "body": body, "more_body": True})


def _answer_query(request: Request) -> AnswerQuery:
    return herd_requests.answer_query(request.scope["query_string"].decode("ascii", "replace"))


def _conflict(target: Target, why: Why, trap: NotBegun | None = None) -> Response:
    worker = target.worker
    path, head = (None, None) if trap is None else (trap.path, trap.head)
    content = Conflict(why, path, head, worker.epoch, worker.rev)
    return Response(herd_wire.encode(content), 409, media_type=herd_requests.CBOR_TYPE)


_ENDPOINTS: dict[str, dict[str, Endpoint]] = {
    herd_requests.RUN: {"POST": HerdDoor.run},
    herd_requests.CONTROL: {"POST": HerdDoor.control},
    herd_requests.CHATS: {"GET": HerdDoor.get_chat, "PUT": HerdDoor.put_chat},
    herd_requests.ANSWERS: {"GET": HerdDoor.get_answer, "PUT": HerdDoor.put_answer, "DELETE": HerdDoor.forget_answer},
    herd_requests.AUDIT: {"POST": HerdDoor.audit},
    herd_requests.STATE: {"GET": HerdDoor.state},
    herd_requests.DRAIN: {"POST": HerdDoor.drain},
}
