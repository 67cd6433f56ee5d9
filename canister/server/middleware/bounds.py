"""Bounds of the whole server: bodies held in memory at once, and nothing new while it drains."""

from __future__ import annotations

from starlette.types import ASGIApp, Message

from canister.dispatch import Dispatcher
from canister.errors import CanisterBusy, CanisterStopping
from canister.server import answers
from canister.server.middleware.asked import Asked
from canister.server.requests import PROBES, is_stream
from canister.system import server_proof
from canister.telemetry import metrics


class Bounds:
    """A check before all doors."""

    def __init__(self, behind: Dispatcher) -> None:
        self._behind = behind
        self._n_held = 0

    def __call__(self, asked: Asked) -> ASGIApp | None:
        scope, receive = asked.scope, asked.receive
        if self._behind.is_draining and not _is_told_while_draining(scope["path"]):
            trap = CanisterStopping("the server is stopping and takes no new calls; try again later")
            response = answers.rejected(scope, trap)
            response.headers["Connection"] = "close"
            return response
        if is_stream(scope):  # it is not held: see server/doors/files.py
            return None
        n_own = 0

        async def receive_counted() -> Message:
            nonlocal n_own
            message = await receive()
            n_bytes = len(message.get("body", b""))
            if n_bytes:
                self._check(n_bytes)
                n_own += n_bytes
                self._n_held += n_bytes
            return message

        def over() -> None:
            self._n_held -= n_own

        asked.receive, asked.over = receive_counted, over
        return None

    def _check(self, n_bytes: int) -> None:
        limit = self._behind.settings.max_held_bytes
        if self._n_held + n_bytes > limit:
            metrics.refused("server")
            raise CanisterBusy(
                f"the server holds {self._n_held} bytes of requests, near its limit (max_held_bytes = {limit}); "
                "try again later"
            )


def _is_told_while_draining(path: str) -> bool:
    """Is this a probe, or a question about an earlier call?"""
    return path in PROBES or path.endswith("/read_state") or path in ("/api/v2/status", server_proof.PATH)
