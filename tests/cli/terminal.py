"""A program on a terminal, and the person at it."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from typing import Self

SECONDS = 240.0
# Makes standard input the controlling terminal, so that Ctrl-C reaches the program, and becomes the program. Tests that
# run in the background of a shell have inherited that it is ignored.
TAKE_TERMINAL = """
import fcntl, os, signal, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.argv[1], sys.argv[1:])
"""


class Terminal:
    """kind: what TERM says; a dumb one shows what is typed as it is. columns: how wide it is, 0: not told."""

    def __init__(self, command: list[str], *, kind: str = "dumb", columns: int = 0) -> None:
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
        self.process = subprocess.Popen(
            [sys.executable, "-c", TAKE_TERMINAL, *command],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={**os.environ, "TERM": kind},
            start_new_session=True,
        )
        os.close(theirs)
        self._text = ""

    def type(self, keys: str) -> None:
        os.write(self._ours, keys.encode())

    def wait_for(self, pattern: str) -> str:
        """What was shown until the pattern came, which is then behind us."""
        end = time.monotonic() + SECONDS
        while (found := re.search(pattern, self._text, re.DOTALL)) is None:
            assert time.monotonic() < end, self._text
            if select.select([self._ours], [], [], 0.1)[0]:
                try:
                    self._text += os.read(self._ours, 65536).decode(errors="replace").replace("\r", "")
                except OSError:  # the program is gone
                    raise AssertionError(f"ended instead of {pattern!r}: {self._text}") from None
        text, self._text = self._text[: found.end()], self._text[found.end() :]
        return text

    def ask(self, text: str) -> str:
        """Type a line; what was shown until the next one may be typed."""
        self.type(f"{text}\n")
        return self.wait_for(r"\n> ")

    def end(self) -> int:
        """Wait until the program has left; gives its exit code."""
        return self.process.wait(SECONDS)

    def rest(self) -> str:
        """What is shown until the program has left."""
        while True:
            try:
                data = os.read(self._ours, 65536)
            except OSError:
                return self._text
            self._text += data.decode(errors="replace").replace("\r", "")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._ours)
