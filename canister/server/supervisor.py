"""The parent of a server: holds what must outlive it, and starts it again when it crashes.

    canister serve → supervisor.py   the listening socket, the data folder's lock, signals
                     → process.py    the server, started anew after each crash

It imports only the standard library and reads no byte from a client, so that little in it can fail. Connections that
come while no server runs wait in the listening socket.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from canister.errors import CanisterError
from canister.server.head_start import PROCESS, Process, started, taken_over
from canister.server.sockets import listening
from canister.system import data_dir
from canister.system.data_dir import CRASH, LOCK, FolderLock

SERVING = b"S"  # what the child says when it serves

WINDOW_SECONDS = 60.0  # in which crashes are counted
END_SECONDS = 20.0  # a server that has not ended so long after drain_seconds hangs, and is killed
HASTY_END_SECONDS = 12.0  # after a second signal, which waits for no calls; they need some of this time to roll back
FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS = 0.1, 30.0

_ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
_WATCHED = (*_ENDING, signal.SIGTSTP, signal.SIGCHLD)


def supervise(settings_json: str, module: str = PROCESS, first: tuple[Process, socket.socket] | None = None) -> int:
    """Serve until told to end. Returns the exit code. CanisterErrors say why the start fails.

    settings_json: all of config.Settings, handed on to the child as they are. module: that the child runs. first: a
    server that waits for its task.
    """
    settings: dict[str, Any] = json.loads(settings_json)
    server = settings["server"]
    folder = Path(server["data_dir"]).expanduser().absolute()
    FolderLock(folder / LOCK).wait_for_orphan()
    with listening(server["listen"], server["host"], server["port"]) as listener:
        lock = data_dir.take(folder)
        supervisor = Supervisor(settings, listener, lock, module, first)
        with _signals() as wakeup:
            return supervisor.run(wakeup)


def pause_seconds(n_crashes: int) -> float:
    """The pause before the next start; none the first time. n_crashes: within the last minute."""
    return min(FIRST_PAUSE_SECONDS * 2.0 ** (n_crashes - 2), MAX_PAUSE_SECONDS) if n_crashes > 1 else 0.0


def exit_code(returncode: int) -> int:
    """As a shell shows it: 128 and the number of the signal, if a signal ended the process."""
    return returncode if returncode >= 0 else 128 - returncode


def how(returncode: int) -> str:
    """How a process ended, for people."""
    if returncode >= 0:
        return f"exit code {returncode}"
    try:
        return signal.Signals(-returncode).name
    except ValueError:
        return f"signal {-returncode}"


@dataclass(slots=True)
class _Child:
    process: Process
    link: socket.socket
    serves: bool = False
    hung_up: bool = False
    kill_at: float | None = None  # monotonic; None: it is not told to end, or is killed


class Supervisor:
    """Runs one server after the other until one ends in order, is told to end, or crashes too often."""

    def __init__(
        self,
        settings: dict[str, Any],
        listener: socket.socket,
        lock: FolderLock,
        module: str = PROCESS,
        first: tuple[Process, socket.socket] | None = None,
    ) -> None:
        self._settings = settings
        self._module = module
        self._first = first
        self._listener = listener
        self._lock = lock
        server = settings["server"]
        self._folder = Path(server["data_dir"]).expanduser().absolute()
        self._max_crashes: int = server["max_crashes"]
        self._drain_seconds: float = server["drain_seconds"]
        self._crashes: deque[float] = deque()  # when, within the last minute
        self._n_crashes = 0
        self._last: str | None = None  # how the last one crashed
        self._has_served = False
        self._is_ending = False

    def run(self, wakeup: int) -> int:
        while True:
            returncode = self._live(wakeup)
            is_orderly = returncode == 0 or (returncode > 0 and not self._has_served)  # the second one has said why
            if self._is_ending or is_orderly:
                return exit_code(returncode)
            self._note(how(returncode))
            if len(self._crashes) >= self._max_crashes > 0:
                print(f"canister: {self._farewell()}", file=sys.stderr, flush=True)
                return exit_code(returncode)
            if not self._rest(wakeup, pause_seconds(len(self._crashes))):
                if sys.stderr.isatty():
                    print("\rstopped", file=sys.stderr, flush=True)
                return 0

    def _note(self, last: str) -> None:
        now = time.monotonic()
        self._crashes.append(now)
        while now - self._crashes[0] > WINDOW_SECONDS:
            self._crashes.popleft()
        self._n_crashes += 1
        self._last = last

    def _farewell(self) -> str:
        return (
            f"the server crashed {len(self._crashes)} times within a minute, the last time by {self._last}, and is not "
            f"started again. What it was doing is in its log and in {self._folder / CRASH}; `canister doctor` looks "
            "for damage in the data folder; --max-crashes sets how often it may crash"
        )

    # -- one child

    def _live(self, wakeup: int) -> int:
        """Start a server and wait for its end. Returns Popen's return code."""
        child = self._start()
        with child.link:
            while True:
                readable = [wakeup] if child.hung_up else [wakeup, child.link.fileno()]
                ready, _, _ = select.select(readable, [], [], self._patience(child))
                if child.link.fileno() in ready:
                    self._hear(child)
                if wakeup in ready:
                    for number in os.read(wakeup, 64):
                        self._heed(number, child)
                returncode = child.process.poll()
                if returncode is not None:
                    self._hear(child)
                    return returncode
                if self._patience(child) == 0.0:
                    child.kill_at = None
                    child.process.kill()
                    print("canister: the server did not end and was killed", file=sys.stderr, flush=True)

    def _patience(self, child: _Child) -> float | None:
        """Seconds until a server that should have ended is killed; None: do not wait for it."""
        return None if child.kill_at is None else max(0.0, child.kill_at - time.monotonic())

    def _start(self) -> _Child:
        process, link = self._first or started(self._module)
        self._first = None
        task = {
            "settings": self._settings,
            "parent": os.getpid(),
            "greets": not self._has_served,
            "crash": self._last,
            "n_crashes": self._n_crashes,
        }
        with contextlib.suppress(OSError):  # it has ended already
            socket.send_fds(link, [b"T"], [self._listener.fileno(), self._lock.descriptor])
            link.sendall(json.dumps(task).encode() + b"\n")
        link.setblocking(False)
        return _Child(process, link)

    def _hear(self, child: _Child) -> None:
        try:
            said = child.link.recv(64)
        except BlockingIOError:
            return
        except OSError:
            said = b""
        child.hung_up = not said
        if SERVING in said:
            child.serves = self._has_served = True

    def _heed(self, number: int, child: _Child) -> None:
        """A signal came to us."""
        if number == signal.SIGTSTP:  # Ctrl-Z stops both, and fg wakes both
            child.process.send_signal(signal.SIGSTOP)
            os.kill(os.getpid(), signal.SIGSTOP)
            child.process.send_signal(signal.SIGCONT)
        elif number in _ENDING:
            seconds = HASTY_END_SECONDS if self._is_ending else self._drain_seconds + END_SECONDS
            kill_at = time.monotonic() + seconds
            child.kill_at = kill_at if child.kill_at is None else min(kill_at, child.kill_at)
            self._end()
            # A server that is still starting does not handle Ctrl-C yet, and would show a stack.
            is_early = number == signal.SIGINT and not child.serves
            child.process.send_signal(signal.SIGTERM if is_early else number)
            # Somebody may have stopped it, and a stopped process handles no signal.
            child.process.send_signal(signal.SIGCONT)

    def _end(self) -> None:
        self._is_ending = True
        self._listener.close()  # so that nobody is kept waiting once the child has closed its own

    def _rest(self, wakeup: int, seconds: float) -> bool:
        """Wait until the next start. False: told to end meanwhile."""
        end = time.monotonic() + seconds
        while True:
            ready, _, _ = select.select([wakeup], [], [], max(0.0, end - time.monotonic()))
            if not ready:
                return True
            if any(number in _ENDING for number in os.read(wakeup, 64)):
                return False


@contextmanager
def _signals() -> Iterator[int]:
    """Signals come as bytes through this pipe; those that we were started to ignore, as by nohup, stay ignored."""
    reader, writer = os.pipe()
    for end in (reader, writer):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in _WATCHED:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda *_: None)
    yield reader


def main() -> None:
    try:
        code = supervise(sys.argv[1], sys.argv[2], taken_over(sys.argv[3:]))
    except (CanisterError, OSError) as error:
        print(f"canister: {error}", file=sys.stderr)
        code = 1
    sys.exit(code)


if __name__ == "__main__":
    main()
