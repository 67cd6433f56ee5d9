"""A server of one's own: `canister serve` as a child process, for `canister chat` and for tests."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from canister.client import known_trials
from canister.defaults import socket_path
from canister.system.data_dir import CONTROLLER_KEY

GREETING = "listening on "
START_SECONDS = 120.0
STOP_SECONDS = 60.0
_POLL_SECONDS = 0.02

# Linux sends the child SIGTERM when the thread that started it ends, also if we were killed. This survives exec.
# Background jobs of a shell ignore SIGINT, and so do their children. One's own server must heed it all the same.
_LEASH = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, int(signal.SIGTERM))
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.argv[1], sys.argv[1:])
"""


class ServerFailed(Exception):
    """The child did not start. The message has its last lines."""


class LocalServer:
    """Starts when entered, stops (SIGTERM) when left. It can be killed, and started again on its data folder.

    It runs without a supervisor unless a flag says otherwise, in a session of its own, so that Ctrl-C at the terminal
    reaches only us. Its settings come from `flags` alone, not from the environment or a canister.toml. It prints into
    serve.out and serve.err. On Linux it ends with the thread that started it, even if that is killed.
    """

    def __init__(self, data_dir: Path, *flags: str, command: Sequence[str] = ("serve",)) -> None:
        """command: what follows `canister`, such as ("herd", "serve")."""
        self.data_dir = data_dir
        self._command = command
        self.url = ""
        self._flags = flags
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def api_key(self) -> str:
        """The key of the server's own identity."""
        return (self.data_dir / CONTROLLER_KEY).read_text(encoding="ascii").strip()

    @property
    def pid(self) -> int:
        if self._process is None:
            raise ServerFailed("the server is not running")
        return self._process.pid

    def start(self) -> None:
        """Start it and wait for the line with its URL. Raises ServerFailed."""
        self.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        known_trials.borrow(self.data_dir)
        # Started again, it takes the port that it had, so that clients find it.
        port = "0" if socket_path(self.url) is not None else self.url.rpartition(":")[2] or "0"
        own = ["--port", port, "--data-dir", str(self.data_dir), "--no-supervise"]
        serve = ["-m", "canister", *self._command, *own, *self._flags]
        leash = [sys.executable, "-c", _LEASH] if sys.platform == "linux" else []
        environment = {name: value for name, value in os.environ.items() if not name.startswith("CANISTER_")}
        with (self.data_dir / "serve.out").open("wb") as out, (self.data_dir / "serve.err").open("ab") as err:
            self._process = subprocess.Popen(
                [*leash, sys.executable, *serve],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                cwd=self.data_dir,
                env=environment,
                start_new_session=True,
            )
        try:
            self.url = self._greeting(self._process)
        except BaseException:
            self.kill()
            raise

    def stop(self) -> int:
        """Ask it to finish its work, and wait. Returns its exit code."""
        return self.end(signal.SIGTERM)

    def kill(self) -> None:
        """End it as a power cut would."""
        self.end(signal.SIGKILL)

    def wait(self) -> int:
        """Wait until it ends by itself. Returns its exit code."""
        return self.end(None)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def end(self, how: signal.Signals | None) -> int:
        """Send it a signal and wait. Returns its exit code, as subprocess does."""
        process, self._process = self._process, None
        if process is None:
            return 0
        if how is not None:
            process.send_signal(how)
        try:
            return process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()
        finally:
            known_trials.lend(self.data_dir)

    def _greeting(self, process: subprocess.Popen[bytes]) -> str:
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end:
            has_ended = process.poll() is not None  # asked first: a line written before the end is still seen
            line, newline, _ = (self.data_dir / "serve.out").read_text(encoding="utf-8").partition("\n")
            if newline and line.startswith(GREETING):
                return line.removeprefix(GREETING).strip()
            if has_ended:
                raise ServerFailed(f"canister serve ended with {process.returncode}:\n{self._last_lines()}")
            time.sleep(_POLL_SECONDS)
        raise ServerFailed(f"canister serve did not come up in {START_SECONDS:g} s:\n{self._last_lines()}")

    def _last_lines(self) -> str:
        text = (self.data_dir / "serve.err").read_text(encoding="utf-8", errors="replace")
        return "\n".join(text.splitlines()[-20:])
