"""The nursery as its keeper has it: the process that cages are forked from, asked for new ones and to kill old ones."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from canister.ao.lua.calls import version_of
from canister.errors import CanisterUnavailable


class CagesUnavailable(CanisterUnavailable):
    """No process for a program can be started. Nothing is lost; the same call may be sent again."""


class Nursery:
    """The process that cages are forked from; started when it is needed, and again when it has ended.

    world: files of Lua that run before any program of its cages does.
    """

    def __init__(self, world: Sequence[Path] = ()) -> None:
        self._world = tuple(map(str, world))
        self.version = version_of(world)
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None

    def start(self, memory_bytes: int) -> tuple[int, socket.socket]:
        """A new cage: the number of its process, and the socket to it. Raises CagesUnavailable."""
        ours, theirs = socket.socketpair()
        with theirs:
            for _ in range(2):
                answer = self._ask(b"start %d" % memory_bytes, [theirs.fileno()])
                if answer:
                    return int(answer), ours
        ours.close()
        raise CagesUnavailable("the process that starts programs has ended, and does not come back; see the log")

    def kill(self, pid: int) -> None:
        self._ask(b"kill %d" % pid, [])

    @property
    def pid(self) -> int | None:
        """While there is one."""
        return self._process.pid if self._process else None

    def close(self) -> None:
        """All cages end with it."""
        with self._lock:
            self._stop()

    def _ask(self, message: bytes, descriptors: Sequence[int]) -> bytes:
        """Nothing when the process has ended; the next question starts it again."""
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                self._stop()
                self._run()
            assert self._control is not None
            try:
                socket.send_fds(self._control, [message], descriptors)
                answer = self._control.recv(100)
            except OSError:
                answer = b""
            if not answer:
                self._stop()
            return answer

    def _run(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH") if name in os.environ}
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "canister.ao.lua.nursery", *self._world],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                env={**kept, "TZ": "UTC"},
                start_new_session=True,
            )
        self._control = ours

    def _stop(self) -> None:
        if self._control is not None:
            self._control.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._control = self._process = None
