"""The way into the OpenAI door: its code is loaded at the first request for one of its paths.

Most servers never see one, and the door has a third of the server's modules.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence

from starlette.responses import Response
from starlette.routing import BaseRoute, Route, Router
from starlette.types import Receive, Scope, Send

from canister.errors import Trap

_PATHS = re.compile(
    r"^(/canisters/[^/]+)?/"
    r"(v1|chat|models|responses|messages|completions?|embeddings?|infill|(de)?tokenize|health|slots|rerank(ing)?"
    r"|api(?!/v\d))(/.*)?$",
    re.DOTALL,
)


def is_of_door(path: str) -> bool:
    """May there be a route of the door at a path?"""
    return _PATHS.fullmatch(path) is not None


def route(others: Callable[[], Sequence[BaseRoute]]) -> Route:
    """All routes of the door. others: gives the routes for paths that the door does not know after all."""
    found = Route("/", _Door(others))
    found.path_regex = _PATHS
    return found


class _Door:
    """ASGI app."""

    def __init__(self, others: Callable[[], Sequence[BaseRoute]]) -> None:
        self._others = others
        self._router: Router | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._router is None:
            self._router = await asyncio.to_thread(self._loaded)
        await self._router(scope, receive, send)

    def _loaded(self) -> Router:
        from canister.server.doors.openai.routes import routes

        return Router([*routes(), *self._others()])


def rejected(path: str, trap: Trap, request_id: str) -> Response | None:
    """The error for a request that is refused before it comes to its route; None: the path is not of this door."""
    if not is_of_door(path):
        return None
    from canister.server.doors.openai import routes

    return routes.rejected(path, trap, request_id)
