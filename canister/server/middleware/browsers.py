"""Which web pages may use this server from inside a browser. It refuses three things with 403:

a Host header that is not ours         the owner of a name can point it at any machine (DNS rebinding)
/api, for pages that are not named     there a page makes a caller of its own, and needs no answer to have it run;
                                       the console, a page of this server under its own name, may call it
preflights of pages that are not named the pages of `browser_origins` get CORS headers and call with an API key
"""

from __future__ import annotations

import ipaddress
from functools import lru_cache
from typing import Protocol

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from canister.config import ServerSettings
from canister.errors import Forbidden
from canister.server import answers
from canister.server.middleware.asked import Asked

SHOWN_CHARACTERS = 100
LONGEST_NAME = 300  # of the DNS, with a port
LOCAL = "localhost"
VERBS = ["GET", "HEAD", "POST", "PUT", "DELETE"]
EXPOSED = [
    *("X-IC-Instructions", "X-IC-Cycles", "X-IC-Limit", "X-IC-Receipt", "X-IC-Receipts", "X-Request-Id"),
    *("Retry-After", "retry-after-ms", "x-should-retry"),
    *("Accept-Ranges", "Content-Range", "ETag"),
]


class Settled(Protocol):
    """What has the settings of a server."""

    @property
    def settings(self) -> ServerSettings: ...


class Browsers:
    """ASGI middleware: 403 for foreign hosts, CORS for the pages of `browser_origins`, 403 for other pages at `/api`
    and for their preflights elsewhere.

    Every page in a browser on the same machine can reach a server that only this machine reaches. To the browser,
    whatever answers under a page's own name is the page's own server, so calls under names that are not ours are
    refused. Without CORS other pages cannot read answers, and REST knows callers by a header that no browser adds.

    A signed envelope of the IC interface names its caller itself, so pages of others are refused there until they are
    named. Other agents send no Origin.
    """

    def __init__(self, app: ASGIApp, behind: Settled) -> None:
        self._app = app
        self._origins = behind.settings.browser_origins
        self._with_cors = CORSMiddleware(
            app, self._origins, allow_methods=VERBS, allow_headers=["*"], expose_headers=EXPOSED
        )
        names = frozenset(name.lower() for name in behind.settings.allowed_hosts)
        # A server that other machines can reach is called by names that it does not know.
        self._looks_at_names = "*" not in names and (bool(names) or _is_local(behind.settings.host))
        self._is_ours = lru_cache(maxsize=256)(lambda header: _is_ours(header, names))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        instead = self.check(Asked(scope, receive)) if scope["type"] == "http" else None
        await (instead or self._app)(scope, receive, send)

    def check(self, asked: Asked) -> ASGIApp | None:
        """The same as a check: what answers instead of the app; None: the app does."""
        name = asked.header(b"host") or ""  # only HTTP/1.0 knows requests without one, and browsers do not
        if self._looks_at_names and name and not self._is_ours(name[:LONGEST_NAME]):
            return answers.rejected(asked.scope, Forbidden(_other_host(name)))
        origin = asked.header(b"origin")
        if origin is None:
            return None
        if "*" in self._origins or origin in self._origins:
            return self._with_cors
        is_api = asked.scope["path"].startswith("/api/")
        if _asks_first(asked) or (is_api and not self._is_own_page(asked, origin, name)):
            return answers.rejected(asked.scope, Forbidden(_other_page(origin)))
        return None

    def _is_own_page(self, asked: Asked, origin: str, name: str) -> bool:
        """Is this the console, which this server has sent under a name that is its own? A name that was rebound to our
        address has an origin of that name, so the name is looked at here whatever the settings say.
        """
        is_same = asked.headers.get(b"sec-fetch-site", b"same-origin") == b"same-origin"
        return is_same and origin.partition("://")[2] == name and bool(name) and self._is_ours(name[:LONGEST_NAME])


def _asks_first(asked: Asked) -> bool:
    """Does a browser ask here whether a page may send a request?"""
    return asked.scope["method"] == "OPTIONS" and b"access-control-request-method" in asked.headers


def _is_ours(header: str, names: frozenset[str]) -> bool:
    """Is this a Host header that only our clients send? Behind an address there is no page but that of what listens
    there.
    """
    name = header.lower()
    name = name[1:].partition("]")[0] if name.startswith("[") else name.partition(":")[0].removesuffix(".")
    return name in names or _is_local_name(name) or _is_address(name)


def _is_local(host: str) -> bool:
    """Is this address of the settings one that only this machine reaches?"""
    return ipaddress.ip_address(host).is_loopback if _is_address(host) else _is_local_name(host)


def _is_local_name(name: str) -> bool:
    return name == LOCAL or name.endswith(f".{LOCAL}")  # browsers look up neither (RFC 6761)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _other_host(name: str) -> str:
    return (
        f"this server is not known as {name[:SHOWN_CHARACTERS]!r}: call it as {LOCAL} or by its address, or let its "
        "operator name it with --allowed-hosts (* for all names)"
    )


def _other_page(origin: str) -> str:
    return (
        f"the web page {origin[:SHOWN_CHARACTERS]!r} may not use this server: its operator can allow it with "
        f"--browser-origins, for this page or * for all"
    )
