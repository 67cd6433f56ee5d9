"""Where the server listens: the socket, uvicorn on it, and what is printed once it serves."""

from __future__ import annotations

import shlex
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import uvicorn
from starlette.types import ASGIApp

from canister.config import DEFAULT_PORT, Settings, default_data_dir
from canister.host import Host
from canister.server.connection import Connection
from canister.server.sockets import url_of

if TYPE_CHECKING:
    from canister.server.process import Supervised

KEEP_ALIVE_SECONDS = 60  # longer than clients keep theirs, so that none is closed just when it is used again
CLOSING_SECONDS = 1  # for connections to end by themselves


class Server(uvicorn.Server):
    """uvicorn that prints where it listens, and ends well on SIGTERM and SIGINT.

    From then on new calls are refused while the running ones are finished (`Host.is_draining`); when they are, or
    the time for it is over, it stops listening.
    """

    def __init__(self, app: ASGIApp, host: Host, supervised: Supervised | None = None) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                lifespan="off",  # the host outlives the app: see app.py
                log_config=None,
                access_log=False,  # app.py logs requests, with their ids
                server_header=False,
                ws="none",
                http=partial(Connection, host.settings),  # type: ignore[arg-type]  # called, and nothing else
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                proxy_headers=False,  # nobody asks for the peer's address
                timeout_graceful_shutdown=CLOSING_SECONDS,  # when it begins to shut down, the time to drain is over
            )
        )
        self._host = host
        self._supervised = supervised
        self._drained_at: float | None = None  # monotonic; when the time to drain is over

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self._supervised is None or self._supervised.greets:
            for listener in sockets or []:
                print(greeting(listener, self._host), flush=True)
        if self._supervised is not None:
            self._supervised.serving()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        with super().capture_signals():
            yield
            # uvicorn would raise the signal once more, and the process would end as if it had been killed.
            self._captured_signals.clear()

    def handle_exit(self, sig: int, frame: object) -> None:
        if self._drained_at is None:
            self._drained_at = time.monotonic() + self._host.settings.drain_seconds
            self._host.is_draining = True
            self._captured_signals.append(sig)
        else:
            # A second Ctrl-C, or SIGTERM, does not wait for running calls: they are cancelled and leave no trace.
            self.should_exit = self.force_exit = True

    async def on_tick(self, counter: int) -> bool:
        if self._drained_at is not None:
            is_idle = not self.server_state.tasks and self._host.is_idle
            self.should_exit |= is_idle or time.monotonic() > self._drained_at
        return await super().on_tick(counter)


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
