"""A door that does not lead: it passes all requests on to the leader, and waits until it may lead itself.

The leader's lock ends with its process, or with its connection to the database. Requests that found nobody wait a
little for whoever comes next; one whose answer broke off is not sent twice, since nobody here knows what became of it.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

import aiohttp
from starlette.types import ASGIApp, Receive, Scope, Send
from yarl import URL

from canister.errors import CanisterStopping, CanisterUnavailable
from canister.herd import shared_keys
from canister.herd.journal.records import Door, Leader
from canister.system import server_proof
from canister.system.data_dir import ROOT_KEY
from canister.telemetry.logs import get_logger

if TYPE_CHECKING:
    from canister.herd.journal.journal import Journal

POLL_SECONDS = 0.25  # how often it tries to lead
SEEN_SECONDS = 5.0  # how often it notes that it is there
KEPT_SEEN_SECONDS = 20.0  # for so long a door that was there counts as being there
CONNECT_SECONDS = 2.0
WAIT_SECONDS = 15.0  # that a request waits for somebody who leads
RETRY_SECONDS = 0.1
DOOR_HEADER = "X-Herd-Door"  # in what a door passes on, and in its answers: "standby"

Header = tuple[bytes, bytes]
_OF_ONE_HOP = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade")
)

log = get_logger(__name__)


class Standby:
    """One process that stands by. `app` answers meanwhile; `wait` ends when it leads."""

    def __init__(self, journal: Journal, holder: str, address: str, folder: Path) -> None:
        """holder, address: of this process; see `Journal.lead`. folder: its data folder."""
        self.leader: Leader | None = None
        self._journal = journal
        self._own = Leader(holder, address, 0)
        self._folder = folder
        self._is_over = asyncio.Event()
        self._sessions: dict[str, aiohttp.ClientSession] = {}

    @property
    def app(self) -> ASGIApp:
        return self._answer

    async def wait(self, told: Callable[[Leader], None] = lambda leader: None) -> int:
        """Wait until this process leads; its epoch. told: called when another leader is found."""
        noted = 0.0
        while True:
            try:
                epoch = await self._journal.lead(self._own.holder, self._own.address)
                if epoch is not None:
                    return epoch
                await self._look(told)
                if time.monotonic() - noted > SEEN_SECONDS:
                    await self._journal.stand_by(Door(self._own.holder, self._own.address, time.time_ns()))
                    noted = time.monotonic()
            except CanisterUnavailable as error:
                log.warning("the journal does not answer", reason=str(error))
            await asyncio.sleep(POLL_SECONDS)

    def leave(self) -> None:
        """Let requests that wait for a leader wait no more."""
        self._is_over.set()

    async def close(self) -> None:
        self.leave()
        await asyncio.gather(*(session.close() for session in self._sessions.values()))

    def session(self, address: str) -> aiohttp.ClientSession:
        """Connections to a leader."""
        if address not in self._sessions:
            self._sessions[address] = _session(address)
        return self._sessions[address]

    async def _look(self, told: Callable[[Leader], None]) -> None:
        found = await self._journal.leader()
        if found is not None and found != self.leader:
            log.info("standing by", leader=found.holder, address=found.address, epoch=found.epoch)
            await asyncio.to_thread(shared_keys.take, self._folder, await self._journal.shared())
            told(found)
        self.leader = found

    # -- requests

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        if scope["path"] == "/healthz":
            await _send(send, 200, {"status": "ok", "door": "standby"})
        elif scope["path"] == server_proof.PATH:
            await self._prove(scope, send)
        else:
            await _Passing(self, scope, receive, send).run()

    async def _prove(self, scope: Scope, send: Send) -> None:
        """As the leader does, but for the address, which is this door's."""
        nonce = parse_qs(scope["query_string"].decode("latin-1")).get("nonce", [""])[0]
        secret = await asyncio.to_thread(server_proof.secret_of, self._folder / ROOT_KEY)
        if secret is None or server_proof.NONCE.fullmatch(nonce) is None:
            await _refuse(send, "?nonce= takes 64 hex digits in lower case, new ones each time", 400)
            return
        host, port = scope["server"]
        await _send(send, 200, {"proof": server_proof.prove(secret, nonce, host, port)})

    async def found(self) -> AsyncIterator[str]:
        """The leader's address, again and again, as long as somebody may wait for it."""
        end = time.monotonic() + WAIT_SECONDS
        while not self._is_over.is_set() and time.monotonic() < end:
            if self.leader is not None and self.leader.address != self._own.address:
                yield self.leader.address
            with suppress(TimeoutError):
                await asyncio.wait_for(self._is_over.wait(), RETRY_SECONDS)


class _Passing:
    """One request on its way to the leader, and the answer on its way back."""

    def __init__(self, standby: Standby, scope: Scope, receive: Receive, send: Send) -> None:
        self._standby = standby
        self._scope = scope
        self._receive = receive
        self._send = send
        self._is_read = asyncio.Event()
        self._is_answered = False

    async def run(self) -> None:
        """Raises CanisterStopping for what could not be passed on."""
        if any(name == DOOR_HEADER.lower().encode() for name, _ in self._scope["headers"]):
            raise CanisterStopping(
                "this door does not lead, and neither does the one that the call came from; call again"
            )
        passing = asyncio.ensure_future(self._pass())
        gone = asyncio.ensure_future(self._until_gone())
        try:
            await asyncio.wait({passing, gone}, return_when=asyncio.FIRST_COMPLETED)
            if passing.done():
                passing.result()
        finally:
            for task in (passing, gone):
                task.cancel()
            await asyncio.gather(passing, gone, return_exceptions=True)

    async def _until_gone(self) -> None:
        """Whoever asked has gone, which the leader is to know."""
        await self._is_read.wait()
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def _pass(self) -> None:
        reason = "nobody leads this herd just now"
        async for address in self._standby.found():
            try:
                await self._pass_to(address)
                return
            except aiohttp.ClientConnectorError as error:
                reason = f"the leader does not answer: {error}"
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                if self._is_answered:
                    return  # what has come is all there is: the connection is cut, as the leader's was
                raise CanisterStopping(
                    f"the leader was lost with this call ({type(error).__name__}): call again, with the same id or key "
                    "if it had one"
                ) from error
        raise CanisterStopping(f"{reason}; call again")

    async def _pass_to(self, address: str) -> None:
        scope = self._scope
        query = scope["query_string"].decode("latin-1")
        target = scope["raw_path"].decode("latin-1") + (f"?{query}" if query else "")
        base = "http://localhost" if address.startswith("unix:") else address.rstrip("/")
        has_body = _has_body(scope["headers"])
        if not has_body and not self._is_read.is_set():
            await self._receive()
            self._is_read.set()
        async with self._standby.session(address).request(
            scope["method"],
            URL(base + target, encoded=True),
            headers=[*_text(_passed(scope["headers"])), (DOOR_HEADER, "standby")],
            data=self._body() if has_body else None,
            skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
            allow_redirects=False,
        ) as answer:
            headers = [*_passed(answer.raw_headers), (DOOR_HEADER.lower().encode(), b"standby")]
            self._is_answered = True
            await self._send({"type": "http.response.start", "status": answer.status, "headers": headers})
            async for piece in answer.content.iter_any():
                await self._send({"type": "http.response.body", "body": piece, "more_body": True})
        await self._send({"type": "http.response.body", "body": b""})

    async def _body(self) -> AsyncIterator[bytes]:
        more = True
        while more:
            message = await self._receive()
            if message["type"] != "http.request":
                raise ConnectionResetError("whoever asked has gone")
            more = message.get("more_body", False)
            if message.get("body"):
                yield message["body"]
        self._is_read.set()


def _session(address: str) -> aiohttp.ClientSession:
    if address.startswith("unix:"):
        connector: aiohttp.BaseConnector = aiohttp.UnixConnector(address.removeprefix("unix:"))
    else:
        connector = aiohttp.TCPConnector()
    return aiohttp.ClientSession(
        connector=connector,
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
    )


def _passed(headers: Iterable[Header]) -> list[Header]:
    """Those that are not of one connection alone."""
    given = [(name.lower(), value) for name, value in headers]
    named = {word.strip().lower() for name, value in given if name == b"connection" for word in value.split(b",")}
    return [(name, value) for name, value in given if name not in _OF_ONE_HOP and name not in named]


def _text(headers: Iterable[Header]) -> list[tuple[str, str]]:
    return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers]


def _has_body(headers: Iterable[Header]) -> bool:
    given = {name.lower(): value for name, value in headers}
    return b"transfer-encoding" in given or given.get(b"content-length", b"0") != b"0"


async def _refuse(send: Send, reason: str, status: int) -> None:
    await _send(send, status, {"reject_code": 4, "error_code": "bad_argument", "reject_message": reason})


async def _send(send: Send, status: int, content: object) -> None:
    body = json.dumps(content).encode() + b"\n"
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
