"""The OpenAI door at `/~inference@1.0`, which is the base URL of Apus' clients, with `/v1` behind it or without."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

PREFIX = "/~inference@1.0/"


class Inference:
    """ASGI app around the whole app: such a path becomes one below `/v1`, before anything looks at it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].startswith(PREFIX):
            rest = scope["path"].removeprefix(PREFIX)
            path = f"/{rest}" if rest.startswith("v1/") else f"/v1/{rest}"
            scope = {**scope, "path": path, "raw_path": path.encode("utf-8")}
        await self._app(scope, receive, send)
