"""The socket on which a server listens. Without uvicorn, so that a supervisor can hold it."""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from canister.defaults import UNIX, socket_path
from canister.errors import BadRequest, Conflict

BACKLOG = 1024


@contextmanager
def listening(listen: str | None, host: str, port: int) -> Iterator[socket.socket]:
    """The socket of the settings, closed at the end; a socket file is removed then, as far as this process may."""
    path = None if listen is None else socket_path(listen)
    with bind(host, port) if path is None else bind_file(path) as listener:
        own = None if path is None else _file_of(path)
        try:
            yield listener
        finally:
            if path is not None:
                with suppress(OSError):
                    if _file_of(path) == own:  # another server may have taken the path by now
                        os.unlink(path)


def _file_of(path: str) -> tuple[int, int]:
    """Which file this is: numbers are given again, with another time."""
    found = os.stat(path)
    return found.st_ino, found.st_mtime_ns


def bind_file(path: str) -> socket.socket:
    """A listening socket at this path, which only this user may open. What a server that is gone has left there is
    removed. Conflict when somebody listens there, BadRequest when the path cannot be used.
    """
    _remove_stale(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)
    try:
        listener.bind(path)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise _in_use(path) from error
        told = error.strerror or str(error)  # Python itself refuses paths that are too long
        raise BadRequest(f"cannot listen on {path}: {told}; choose another path with --listen unix:PATH") from error
    finally:
        os.umask(mask)
    return listener


def _remove_stale(path: str) -> None:
    try:
        is_socket = stat.S_ISSOCK(os.lstat(path).st_mode)
    except OSError:
        return
    if not is_socket:
        raise Conflict(f"{path} is there and is no socket; remove it, or choose another path with --listen unix:PATH")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            with suppress(OSError):
                os.unlink(path)
            return
        except OSError as error:
            raise BadRequest(f"cannot listen on {path}: {error.strerror}; see --listen") from error
    raise _in_use(path)


def _in_use(path: str) -> Conflict:
    return Conflict(f"{path} is in use: stop the server that listens there, or choose another path with --listen")


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
    """`http://HOST:PORT` with the real port, or `unix:PATH`. for_clients: an address to call, where the server listens
    on all.
    """
    if listener.family == socket.AF_UNIX:
        return f"{UNIX}{listener.getsockname()}"
    host, port = listener.getsockname()[:2]
    if for_clients:
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
