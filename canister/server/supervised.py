"""The child's side of a supervisor: what a server gets from it, and how each notices the other's end."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from dataclasses import dataclass

from canister.server.supervisor import SERVING
from canister.system.data_dir import FolderLock


@dataclass(frozen=True, slots=True)
class Supervised:
    """What a supervisor gives its server.

    greets: the server must still tell where it listens. crash: how the server before this one crashed. n_crashes: so
    far.
    """

    link: socket.socket
    listener: socket.socket
    lock: FolderLock
    greets: bool
    crash: str | None
    n_crashes: int

    def serving(self) -> None:
        """Tell the supervisor that the start is over."""
        with contextlib.suppress(OSError):
            self.link.sendall(SERVING)

    def end_with_parent(self) -> None:
        """End when the supervisor does, however it does: nobody would hold this server any more.

        Linux ends us by itself (`sandbox.end_with_parent`), even where no thread of Python can run.
        """
        threading.Thread(target=self._wait_for_its_end, name="supervisor", daemon=True).start()

    def _wait_for_its_end(self) -> None:
        with contextlib.suppress(OSError):
            while self.link.recv(64):
                pass
        os.kill(os.getpid(), signal.SIGKILL)
