"""The socket on which a server listens. Without uvicorn, so that a supervisor can hold it."""

from __future__ import annotations

import errno
import socket

from canister.errors import BadRequest, Conflict

BACKLOG = 1024


def bind(host: str, port: int) -> socket.socket:
    """A listening socket. Conflict when the port is taken, BadRequest when the address cannot be used."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise BadRequest(f"--host {host!r} is no address to listen on: {error.strerror}") from error
    listener = socket.socket(family, kind, protocol)
    try:
        # A restarted server takes its port back while the kernel still remembers connections of the former one.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise Conflict(
                f"port {port} of {host} is in use: stop what listens there, or choose another port with --port "
                "(0 picks a free one)"
            ) from error
        raise BadRequest(f"cannot listen on {host} port {port}: {error.strerror}; see --host and --port") from error
    return listener


def url_of(listener: socket.socket, *, for_clients: bool = False) -> str:
    """`http://HOST:PORT` with the real port. for_clients: an address to call, where the server listens on all."""
    host, port = listener.getsockname()[:2]
    if for_clients:
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
