"""httpx as this package uses it: what it imports and loads, and the meaning of its errors for a person.

It is imported without its own command line, which would import rich and pygments where these are installed and take a
third of a second. Where httpx was imported before, it stays as it is.
"""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Mapping
from typing import TypedDict
from urllib.parse import urlsplit

from canister.client.errors import NotConnected, ProtocolError, Unreachable
from canister.defaults import socket_path
from canister.lean_imports import without

with without("httpx._main"):
    import httpx as httpx

CONNECT_SECONDS = 10.0
_OVER_SOCKET = "http://localhost"  # what a server on a socket file is called


class Trust(TypedDict):
    """Arguments of httpx: whether the environment's proxies are used, and whose certificates hold."""

    trust_env: bool
    verify: ssl.SSLContext | bool


def trust(url: str) -> Trust:
    """What a client of this URL trusts.

    There is no proxy between a machine and itself. Without TLS no certificates are loaded, which would take as long as
    a call, and none is trusted.
    """
    is_here = is_loopback(url)
    is_plain = is_here and urlsplit(url).scheme != "https"
    return Trust(trust_env=not is_here, verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if is_plain else True)


def open_client(url: str, timeout_seconds: float) -> httpx.Client:
    """A client of this server, over TCP or a socket file (`unix:PATH`)."""
    path = socket_path(url)
    transport = None if path is None else httpx.HTTPTransport(uds=path, verify=trust(url)["verify"])
    return httpx.Client(base_url=base_url(url), timeout=timeout_seconds, transport=transport, **trust(url))


def async_transport(url: str) -> httpx.AsyncBaseTransport | None:
    """What carries requests to this server; None: httpx's own."""
    path = socket_path(url)
    return None if path is None else httpx.AsyncHTTPTransport(uds=path, verify=trust(url)["verify"])


def base_url(url: str) -> str:
    """The URL that requests to this server begin with."""
    return url if socket_path(url) is None else _OVER_SOCKET


def is_loopback(url: str) -> bool:
    """True when nothing sent to this URL leaves the machine."""
    if socket_path(url) is not None:
        return True
    host = urlsplit(url).hostname or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


NEVER_CONNECTED = (httpx.ConnectError, httpx.ConnectTimeout, httpx.UnsupportedProtocol)


def no_answer(url: str, error: httpx.TransportError | httpx.InvalidURL) -> Unreachable:
    """Why a request to this URL failed, and what to do about it."""
    if isinstance(error, httpx.InvalidURL):
        return NotConnected(f"{url} is not a usable URL: {error}")
    if not isinstance(error, NEVER_CONNECTED):
        return Unreachable(f"No answer from {url}: {reason(error)}")
    if url.startswith("https://") and "WRONG_VERSION_NUMBER" in str(error).upper().replace(" ", "_"):
        plain = "http://" + url.removeprefix("https://")
        return NotConnected(f"No answer from {url}: what listens there speaks http, not https. Try --network {plain}")
    return NotConnected(
        f"No answer from {url}: {reason(error)}. Is a server running there? `canister serve` starts one, "
        "--network URL or CANISTER_URL names another."
    )


def not_ours(url: str, http_status: int, headers: Mapping[str, str]) -> ProtocolError:
    """An answer of another kind of server. Its text, perhaps a whole web page, is not shown."""
    kind = headers.get("content-type", "").partition(";")[0] or "nothing"
    path = urlsplit(url).path.rstrip("/")
    way_out = "the first line of `canister serve` tells the URL of a server"
    if path:
        way_out = f"a server has no path, such as {path}, in its URL: try {url.removesuffix(path)}"
    return ProtocolError(f"No llama-canister answers at {url}: HTTP {http_status}, {kind}; {way_out}.")


def reason(error: httpx.TransportError) -> str:
    """Why a connection failed, in words."""
    text = str(error) or type(error).__name__
    if "No such file or directory" in text:
        return "there is no such socket file"
    is_refused = text == "All connection attempts failed" or "Connection refused" in text
    return "nobody listens there" if is_refused else text
