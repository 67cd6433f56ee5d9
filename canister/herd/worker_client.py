"""Talking to one worker's private door, and to its other doors in a caller's name: every request is signed.

What a worker did is known only by its answer. WorkerLost says that there was none.
"""

from __future__ import annotations

import asyncio
import errno
import io
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Self

import aiohttp
from yarl import URL

from canister.api import herd_requests as requests
from canister.api import herd_wire as wire
from canister.api.cbor_fields import WireError
from canister.api.herd_frames import FrameReader, Text
from canister.api.herd_requests import AnswerQuery, AnswerTry, HerdKey, ToldRecord
from canister.api.herd_wire import Conflict, Control, Done, Run, State
from canister.dispatch.auditing import Audited
from canister.errors import CanisterError
from canister.herd.launch.launcher import WorkerRef
from canister.herd.worker_link import LinkAnswer, LinkLost, WorkerLink

CONNECT_SECONDS = 2.0
STATE_SECONDS = 1.0
MAX_TOLD_BYTES = 500
AT_ONCE_BYTES = 256 * 1024  # written to a connection without a look at others

OnText = Callable[[Text], None]


class WorkerLost(Exception):
    """The worker did not answer, or its answer broke off. was_asked: nobody knows what it did; False: nothing."""

    def __init__(self, message: str, *, was_asked: bool = True) -> None:
        super().__init__(message)
        self.was_asked = was_asked


class WorkerRefused(CanisterError):
    """The worker does not take what the herd asks: other versions, secrets or clocks. The message is the worker's."""

    http_status = 503


class WorkerConflict(Exception):
    """The worker has not begun the call."""

    def __init__(self, conflict: Conflict) -> None:
        super().__init__(conflict.why)
        self.conflict = conflict


@dataclass(frozen=True, slots=True)
class ChatCopy:
    """A worker's copy of a chat."""

    head: bytes
    container: bytes


class WorkerClient:
    """One process of a worker. Closed at its end."""

    def __init__(self, ref: WorkerRef, secret: bytes, *, max_connections: int = 0) -> None:
        """max_connections: at once; 0: no limit."""
        self.ref = ref
        self._key = HerdKey(ref.id, ref.generation, secret)
        self._link = WorkerLink(ref.url)
        if ref.url.startswith("unix:"):
            connector: aiohttp.BaseConnector = aiohttp.UnixConnector(
                ref.url.removeprefix("unix:"), limit=max_connections
            )
            self._base = "http://localhost"
        else:
            connector = aiohttp.TCPConnector(limit=max_connections)
            self._base = ref.url.rstrip("/")
        self._session = aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    async def close(self) -> None:
        self._link.close()
        await self._session.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def run(self, message: Run, on_text: OnText | None = None) -> Done:
        """Run a call. Raises WorkerConflict when it was not begun, WorkerLost, WorkerRefused."""
        return await self._framed(requests.RUN, wire.encode(message), on_text)

    async def control(self, message: Control) -> Done:
        """Run an entry of the control log. Raises as `run`."""
        return await self._framed(requests.CONTROL, wire.encode(message), None)

    async def chat(self, canister: str, caller: str, path: str, *, rows: bool = False) -> ChatCopy | None:
        """The worker's copy of a chat; None: it has none. rows: with its KV rows."""
        target = requests.chat_target(canister, caller, path, rows=rows)
        async with self._asked("GET", target) as response:
            if response.status == 404:
                return None
            await self._check(response, 200)
            head = bytes.fromhex(response.headers.get(requests.HEAD_HEADER, ""))
            return ChatCopy(head, await response.read())

    async def put_chat(self, canister: str, caller: str, path: str, copy: ChatCopy) -> None:
        """Make the worker's copy of a chat exactly this; an empty container removes it."""
        target = requests.chat_target(canister, caller, path)
        headers = {requests.HEAD_HEADER: copy.head.hex(), "Content-Type": requests.CONTAINER_TYPE}
        async with self._asked("PUT", target, copy.container, headers) as response:
            await self._check(response, 204)

    async def answer(self, of: AnswerQuery) -> bytes | None:
        """The worker's copy of a kept answer; None: it has none."""
        async with self._asked("GET", of.target) as response:
            if response.status == 404:
                return None
            await self._check(response, 200)
            return await response.read()

    async def put_answer(self, of: AnswerQuery, copy: bytes) -> None:
        """Let the worker have a kept answer as another one has it."""
        async with self._asked("PUT", of.target, copy) as response:
            await self._check(response, 204)

    async def forget_answer(self, of: AnswerQuery) -> None:
        """Let the worker have no such answer any more; one of a version before may have it still."""
        async with self._asked("DELETE", of.target) as response:
            await self._check(response, 204, 404, 405)

    async def audit(self, told: ToldRecord) -> Audited:
        """What comes of a call when the worker decodes it again."""
        async with self._asked("POST", requests.AUDIT, told.encode()) as response:
            await self._check(response, 200)
            return Audited(**json.loads(await response.read()))

    async def state(self) -> State:
        """How the worker is, within a second. Raises WorkerLost, WorkerRefused."""
        try:
            async with asyncio.timeout(STATE_SECONDS):
                answer = await self._exchanged("GET", requests.STATE, b"", None)
        except TimeoutError:
            raise WorkerLost(f"worker {self.ref.id}: it did not answer within {STATE_SECONDS:g} s") from None
        self._check_status(answer.status, answer.body, 200)
        with self._understood():
            return wire.decode(State, answer.body)

    async def drain(self) -> None:
        """Let the worker take no more jobs."""
        async with self._asked("POST", requests.DRAIN) as response:
            await self._check(response, 200, 202, 204)

    @asynccontextmanager
    async def passed_on(
        self,
        method: str,
        target: str,
        body: bytes,
        headers: Mapping[str, str],
        caller: str,
        answer: AnswerTry | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Ask any route of the worker in a caller's name. What it answers is read by whoever asks, as it comes.

        answer: it makes a whole answer; its body comes as frames, from a worker that knows of them.
        """
        own = {**headers, requests.CALLER_HEADER: caller}
        async with self._asked(method, target, body, own, caller=caller, answer=answer) as response:
            yield response

    @asynccontextmanager
    async def _asked(
        self,
        method: str,
        target: str,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        *,
        caller: str = "",
        answer: AnswerTry | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        signed = requests.sign(self._key, method, target, body, now_ns=time.time_ns(), caller=caller)
        sent = {"Content-Type": requests.CBOR_TYPE, **(headers or {}), requests.SIGNATURE_HEADER: signed}
        if answer is not None:
            sent[requests.ANSWER_HEADER] = requests.sign_answer(self._key, signed, answer)
        url = URL(self._base + target, encoded=True)
        data = io.BytesIO(body) if len(body) > AT_ONCE_BYTES else body
        try:
            async with self._session.request(method, url, data=data, headers=sent, allow_redirects=False) as response:
                yield response
        except aiohttp.ClientConnectorError as error:
            raise WorkerLost(f"worker {self.ref.id}: {error}", was_asked=False) from error
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            # With a broken pipe it has not got the whole request, so it cannot have begun.
            is_cut = isinstance(error, OSError) and error.errno == errno.EPIPE
            raise WorkerLost(f"worker {self.ref.id}: {type(error).__name__}: {error}", was_asked=not is_cut) from error

    async def _exchanged(
        self, method: str, target: str, body: bytes, on_body: Callable[[bytes], None] | None
    ) -> LinkAnswer:
        """As `_asked`, for small answers, and for such as are read while they come."""
        signed = requests.sign(self._key, method, target, body, now_ns=time.time_ns())
        headers = {"Content-Type": requests.CBOR_TYPE, requests.SIGNATURE_HEADER: signed}
        try:
            return await self._link.ask(method, target, body, headers, on_body)
        except LinkLost as error:
            raise WorkerLost(f"worker {self.ref.id}: {error}", was_asked=error.was_sent) from error

    async def _framed(self, target: str, body: bytes, on_text: OnText | None) -> Done:
        reader = FrameReader()
        ends: list[Done] = []

        def take(piece: bytes) -> None:
            for frame in reader.feed(piece):
                if isinstance(frame, Done):
                    ends.append(frame)
                elif on_text is not None and isinstance(frame, Text):
                    on_text(frame)

        with self._understood():
            answer = await self._exchanged("POST", target, body, take)
            if answer.status == 409:
                raise WorkerConflict(wire.decode(Conflict, answer.body))
        self._check_status(answer.status, answer.body, 200)
        if not reader.is_at_an_end or not ends:
            raise WorkerLost(f"worker {self.ref.id}: its answer broke off")
        return ends[-1]

    @contextmanager
    def _understood(self) -> Iterator[None]:
        """What is no message means a worker of another kind: it is there, and would say the same again."""
        try:
            yield
        except WireError as error:
            raise WorkerRefused(f"worker {self.ref.id} answered what is no message of this herd: {error}") from error

    async def _check(self, response: aiohttp.ClientResponse, *wanted: int) -> None:
        if response.status not in wanted:
            self._check_status(response.status, await response.read(), *wanted)

    def _check_status(self, status: int, body: bytes, *wanted: int) -> None:
        if status not in wanted:
            told = body[:MAX_TOLD_BYTES].decode(errors="replace").strip()
            raise WorkerRefused(f"worker {self.ref.id} answered {status}: {told}")
