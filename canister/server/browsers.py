"""Which web pages may use the IC interface from inside a browser.

A signed envelope has all that makes its caller, so the IC answers every page. This server may be one that only its own
machine reaches, and a browser there would carry any page to it: a page can make an identity of its own, which is a
named caller, and needs no answer to have its updates run. So pages are refused until they are named, also those that
say to be of this server: it has none that use the interface, and names can be rebound to any address. Agents outside of
browsers send no Origin. The other doors know callers by a header that browsers never add by themselves.
"""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from canister.host import Host
from canister.server import answers

SHOWN_CHARACTERS = 100


class Browsers:
    """ASGI middleware: CORS for `/api` and the pages of `browser_origins`, 403 for those of others."""

    def __init__(self, app: ASGIApp, host: Host) -> None:
        self._app = app
        self._origins = host.settings.browser_origins
        self._with_cors = CORSMiddleware(app, self._origins, allow_methods=["GET", "POST"], allow_headers=["*"])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._app
        if scope["type"] == "http" and scope["path"].startswith("/api/"):
            origin = Headers(scope=scope).get("origin")
            if origin is not None:
                is_named = "*" in self._origins or origin in self._origins
                app = self._with_cors if is_named else answers.document({"error": _refusal(origin)}, 403)
        await app(scope, receive, send)


def _refusal(origin: str) -> str:
    return (
        f"the web page {origin[:SHOWN_CHARACTERS]!r} may not use this server: its operator can allow it with "
        f"--browser-origins, for this page or * for all"
    )
