"""Where the server listens: the socket, uvicorn on it, and what is printed once it serves."""

from __future__ import annotations

import errno
import math
import shlex
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from starlette.types import ASGIApp

from canister.config import DEFAULT_PORT, Settings, default_data_dir
from canister.errors import BadRequest, Conflict
from canister.host import Host

BACKLOG = 1024


def bind(host: str, port: int) -> socket.socket:
    """A listening socket. Conflict when the port is taken, BadRequest when the address cannot be had."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise BadRequest(f"--host {host!r} is no address to listen on: {error.strerror}") from error
    listener = socket.socket(family, kind, protocol)
    try:
        # A restarted server takes its port back while connections of the one before are still being forgotten.
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
    """`http://HOST:PORT` with the real port. for_clients: an address to call, where all of them are listened on."""
    host, port = listener.getsockname()[:2]
    if for_clients:
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class Server(uvicorn.Server):
    """uvicorn that prints where it listens, and ends well on SIGTERM and SIGINT once running calls are done."""

    def __init__(self, app: ASGIApp, host: Host) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                lifespan="off",  # the host outlives the app: see app.py
                log_config=None,
                access_log=False,  # app.py logs requests, with their ids
                server_header=False,
                ws="none",
                proxy_headers=False,  # nobody asks for the peer's address
                timeout_graceful_shutdown=math.ceil(host.settings.drain_seconds),
            )
        )
        self._host = host

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in sockets or []:
            print(greeting(listener, self._host), flush=True)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        with super().capture_signals():
            yield
            # uvicorn would raise the signal once more, and the process would end as if it had been killed.
            self._captured_signals.clear()

    def handle_exit(self, sig: int, frame: object) -> None:
        # A second Ctrl-C, or SIGTERM, does not wait for running calls: they are cancelled and leave no trace.
        self.force_exit = self.should_exit
        super().handle_exit(sig if sig == signal.SIGINT else signal.SIGTERM, None)


def greeting(listener: socket.socket, host: Host) -> str:
    """What a person, or a script that reads the first line, is told once the server serves."""
    url = url_of(listener, for_clients=True)
    settings: Settings = host.settings
    is_default = settings.port == DEFAULT_PORT and url == f"http://127.0.0.1:{DEFAULT_PORT}"
    options = "" if is_default else f" --network {url}"
    if host.data_dir != default_data_dir():
        options += f" --data-dir {shlex.quote(str(host.data_dir))}"
    name = host.default.name
    return "\n".join(
        [
            f"listening on {url_of(listener)}",
            f"  canisters       {', '.join(f'{canister.name} ({canister.id})' for canister in host.canisters)}",
            f"  data folder     {host.data_dir}",
            f"  controller      {host.identity.principal}, API key in {host.key_path}",
            f"  documentation   {url}/docs",
            "first calls:",
            f"  curl {url}/canisters/{name}/health",
            f'  curl -H "Authorization: Bearer $(cat {shlex.quote(str(host.key_path))})" '
            f'-d \'{{"dir": ".", "max_entries": 0}}\' {url}/canisters/{name}/recursive_dir_content_query',
            f"  canister call{options} {name} whoami",
        ]
    )
