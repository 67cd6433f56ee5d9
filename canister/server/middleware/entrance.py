"""What every request passes between the request log and its door.

    browsers → slashes → encodings → bounds → authentication

One coroutine has all of them: each step of a call resumes every coroutine around it, so what only looks at a request
once is a function.
"""

from __future__ import annotations

from collections.abc import Sequence

from starlette.types import ASGIApp, Receive, Scope, Send

from canister.dispatch import Dispatcher
from canister.server.middleware.asked import Asked, Check
from canister.server.middleware.auth import Authentication
from canister.server.middleware.bounds import Bounds
from canister.server.middleware.browsers import Browsers
from canister.server.middleware.encodings import decode_body
from canister.server.middleware.slashes import cut_slashes


class Checks:
    """ASGI middleware: the app behind it sees requests that all checks let pass."""

    def __init__(self, app: ASGIApp, checks: Sequence[Check]) -> None:
        self._app = app
        self._checks = checks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        asked = Asked(scope, receive)
        app = self._app
        for check in self._checks:
            instead = check(asked)
            if instead is not None:
                app = instead
                break
        try:
            await app(asked.scope, asked.receive, send)
        finally:
            if asked.over is not None:
                asked.over()


def entrance(app: ASGIApp, behind: Dispatcher) -> Checks:
    """An app behind all checks of this server."""
    checks: list[Check] = [cut_slashes, decode_body, Bounds(behind), Authentication(behind)]
    return Checks(app, [Browsers(Checks(app, checks), behind).check, *checks])
