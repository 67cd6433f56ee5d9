"""uvicorn on the listening socket, and its end: drained on a signal."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Protocol

import uvicorn
from starlette.types import ASGIApp

from canister.config import ServerSettings
from canister.server.http.connection import Connection
from canister.server.notices import StopNotices

KEEP_ALIVE_SECONDS = 60  # longer than clients keep theirs, so that none is closed just when it is used again
CLOSING_SECONDS = 1  # for connections to end by themselves


class Served(Protocol):
    """What stands behind the app, as a server sees it.

    is_draining: it takes nothing new. must_end: set by itself, when its server is to drain and end without a signal.
    """

    is_draining: bool
    must_end: bool

    @property
    def settings(self) -> ServerSettings: ...

    @property
    def is_idle(self) -> bool: ...

    @property
    def n_calls(self) -> int: ...


class Server(uvicorn.Server):
    """uvicorn that reports when it listens, and ends in order on SIGTERM, SIGINT and SIGHUP.

    After such a signal, or when what it serves must end (`Served.must_end`), it refuses new calls and finishes the
    running ones (`Served.is_draining`). It stops listening when they have ended, or when their time is up.
    """

    def __init__(self, app: ASGIApp, host: Served, begun: Callable[[], None] = lambda: None) -> None:
        """begun: called once it listens."""
        super().__init__(
            uvicorn.Config(
                app,
                lifespan="off",  # the host outlives the app: see app.py
                log_config=None,
                access_log=False,  # middleware/request_log.py logs requests, with their ids
                server_header=False,
                ws="none",
                http=partial(Connection, host.settings),  # type: ignore[arg-type]  # called, and nothing else
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                proxy_headers=False,  # nobody asks for the peer's address
                timeout_graceful_shutdown=CLOSING_SECONDS,  # when it begins to shut down, the time to drain is over
            )
        )
        self._host = host
        self._begun = begun
        self._notices = StopNotices(host.settings)
        self._signals: list[int] = []  # not announced yet
        self._drained_at: float | None = None  # monotonic; when the time to drain is over

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._begun()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        with super().capture_signals():
            # The terminal was closed. Under nohup the server outlives that.
            if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
                signal.signal(signal.SIGHUP, self.handle_exit)
            yield
            # uvicorn would raise the signal again, and the process would end as if it had been killed.
            self._captured_signals.clear()

    def handle_exit(self, sig: int, frame: object) -> None:
        self._signals.append(sig)  # announced by the loop, since a signal may come in the middle of another line
        if self._drained_at is None:
            self._drained_at = time.monotonic() + self._host.settings.drain_seconds
            self._host.is_draining = True
            self._captured_signals.append(sig)
        else:
            # A second Ctrl-C, or SIGTERM, does not wait for running calls. They are cancelled and rolled back.
            self.should_exit = self.force_exit = True

    async def on_tick(self, counter: int) -> bool:
        while self._signals:
            self._announce(self._signals.pop(0))
        if self._host.must_end and self._drained_at is None:
            self._drained_at = time.monotonic() + self._host.settings.drain_seconds
            self._host.is_draining = True
        if self._drained_at is not None:
            is_idle = not self.server_state.tasks and self._host.is_idle
            self.should_exit |= is_idle or time.monotonic() > self._drained_at
        return await super().on_tick(counter)

    def _announce(self, number: int) -> None:
        n_running = self._host.n_calls
        if self.force_exit:
            self._notices.cancelling(n_running)
        else:
            self._notices.stopping(n_running, by_ctrl_c=number == signal.SIGINT)

    def stopped(self) -> None:
        """Announce that everything has ended in order."""
        self._notices.stopped()
