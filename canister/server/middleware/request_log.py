"""One line of log for each request, under its id, and an answer where no door gave one."""

from __future__ import annotations

import asyncio
import functools
import re
import time
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from canister.server import answers
from canister.server.requests import PROBES
from canister.telemetry import logs, metrics

# What clients ask around a call: which canisters there are, who signs, the state of a message.
_LOOKS = re.compile(
    r"/canisters|/proof|/api/v2/status|/api/v\d+/(canister|subnet)/[^/]+/read_state"
    r"|(/canisters/[^/]+)?/(engine|props|apply-template|chats)"
)

_ID = b"x-request-id"

log = logs.get_logger(__name__)


class RequestLog:
    """Gives every request its id, logs it at its end, and answers 500 for errors that a door did not foresee."""

    def __init__(self, app: ASGIApp, rejects: answers.Rejects) -> None:
        """rejects: the forms of the doors for answers to requests that do not reach them."""
        self._app = app
        self._rejects = rejects

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        state: dict[str, Any] = scope.setdefault("state", {})
        given = next((value.decode("latin-1") for name, value in scope["headers"] if name == _ID), None)
        request_id = state["request_id"] = logs.request_id(given)
        state["rejects"] = self._rejects
        started = time.perf_counter()
        status = 0

        async def send_noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                others = [header for header in message["headers"] if header[0] != _ID]
                message["headers"] = [*others, (_ID, request_id.encode("latin-1"))]
            await send(message)

        metrics.REQUESTS_RUNNING.inc()
        with logs.log_fields(request_id=request_id):
            try:
                await self._app(scope, receive, send_noting)
            except ClientDisconnect:
                pass  # while a file was being sent
            except asyncio.CancelledError:
                # uvicorn cancels a request only when the time to drain is over; nothing comes after it.
                if status == 0:
                    await answers.rejected(scope, answers.stopped())(scope, receive, send_noting)
            except Exception:
                log.exception("request failed")
                if status == 0:
                    await answers.rejected(scope, answers.internal_error(request_id))(scope, receive, send_noting)
            finally:
                metrics.REQUESTS_RUNNING.dec()
                path: str = scope["path"]
                # Probes come every few seconds and say nothing. Neither do questions around a call.
                is_look = status < 400 and (state.get("is_look", False) or _LOOKS.fullmatch(path) is not None)
                write = log.debug if path in PROBES or is_look else log.info
                line = functools.partial(
                    write,
                    "request",
                    verb=scope["method"],
                    path=scope["raw_path"].decode("ascii", "replace"),
                    status=status,
                    caller=state.get("caller"),
                    milliseconds=round((time.perf_counter() - started) * 1000, 1),
                )
                asyncio.get_running_loop().call_soon(line)  # behind the answer, which has been handed over just now
