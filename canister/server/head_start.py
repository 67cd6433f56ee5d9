"""The first server of `canister serve` begins to import while the command line is still being read.

    the command begins → begin()           a child, which waits for its task and imports meanwhile
    its settings are good → supervisor.py  the same process by another program: the child is its first server
    they are not                           the link closes, and the child ends

It imports little, since the command waits for it.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

PROCESS = "canister.server.process"
"""The module that a server's process runs, unless something else stands behind its doors."""

_PACKAGE_FOLDER = Path(__file__).resolve().parents[2]


class Process(Protocol):
    """What a supervisor needs of `subprocess.Popen`."""

    @property
    def pid(self) -> int: ...

    def poll(self) -> int | None: ...

    def send_signal(self, sig: int) -> None: ...

    def kill(self) -> None: ...


@dataclass(slots=True)
class _Adopted:
    """A child that was started before this process became another program."""

    pid: int
    returncode: int | None = None

    def poll(self) -> int | None:
        """The return code as Popen gives it; None while it runs."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def send_signal(self, sig: int) -> None:
        if self.poll() is None:  # else the number may belong to somebody else
            os.kill(self.pid, sig)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


_begun: tuple[subprocess.Popen[bytes], socket.socket] | None = None


def begin(arguments: Sequence[str]) -> None:
    """Start a server ahead if these arguments of the command are likely to need one."""
    global _begun
    if os.name == "posix" and arguments[:1] == ["serve"] and not {"--help", "--no-supervise"} & {*arguments}:
        try:
            _begun = started()
        except OSError:
            return  # the supervisor will say what is wrong


def started(module: str = PROCESS) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """A process of this module, which waits for its task, and the socket by which it gets it."""
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", module, str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            pass_fds=(theirs.fileno(),),
            process_group=0,  # Ctrl-C at the terminal reaches us alone, and the child through us
            env=environment(),
        )
    return process, ours


def environment() -> dict[str, str]:
    """For a process that must find this package wherever it is started."""
    path = [str(_PACKAGE_FOLDER), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(dict.fromkeys(path))}


def handed_on(module: str = PROCESS) -> list[str]:
    """The argument that tells a supervisor, which this process is about to become, of the child; none without one."""
    if module != PROCESS:
        withdraw()
    if _begun is None:
        return []
    process, link = _begun
    os.set_inheritable(link.fileno(), True)
    return [f"{process.pid}:{link.fileno()}"]


def taken_over(told: Sequence[str]) -> tuple[Process, socket.socket] | None:
    """The child that `handed_on` told of."""
    if not told:
        return None
    pid, _, descriptor = told[0].partition(":")
    os.set_inheritable(int(descriptor), False)
    return _Adopted(int(pid)), socket.socket(fileno=int(descriptor))


def withdraw() -> None:
    """No supervisor will need it: it ends."""
    global _begun
    if _begun is not None:
        process, link = _begun
        _begun = None
        link.close()
        process.kill()
        process.wait()
