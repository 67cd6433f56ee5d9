"""A server process, from its start to the event loop: checked, confined, then served.

With --no-supervise `canister serve` is one itself. Otherwise it becomes a supervisor, which starts this module as its
child; or another one, which calls `main` with what it puts behind the doors.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from canister.config import Settings, settings_from_json
from canister.errors import CanisterError, Trap
from canister.server import head_start
from canister.server.sockets import listening
from canister.server.supervised import Supervised
from canister.system import sandbox
from canister.system.data_dir import LOCK, FolderLock

if TYPE_CHECKING:
    from canister.server.app import Opened

AHEAD = (
    "canister.handlers.models",
    "canister.state.answers",
    "canister.handlers.management",
    "fastapi",
    "canister.ic.certificate",
    "canister.server.doors.openai.operations",
)
"""What a server needs whatever its settings are, and starts no thread, for that must not come before it is confined."""


def start(settings: Settings, opened: Opened | None = None, module: str = head_start.PROCESS) -> None:
    """Serve until the end, supervised or not. CanisterErrors say why the start fails.

    opened: what stands behind the doors; module: whose main puts the same there, in the child of a supervisor.
    """
    server = settings.server
    if server.supervise:
        _supervise(settings, module)
    head_start.withdraw()
    if server.listen is None:
        _serve(settings, opened=opened)
        return
    with listening(server.listen, server.host, server.port) as listener:  # it may lie outside the data folder
        _serve(settings, listener, opened=opened)


def _supervise(settings: Settings, module: str) -> NoReturn:
    """Become a supervisor: another program, without what the command line needed in memory."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    command = [sys.executable, "-P", "-m", "canister.server.supervisor", settings.model_dump_json(), module]
    os.execve(sys.executable, [*command, *head_start.handed_on(module)], head_start.environment())


def _serve(
    settings: Settings,
    listener: socket.socket | None = None,
    supervised: Supervised | None = None,
    opened: Opened | None = None,
) -> None:
    os.environ.setdefault("GGML_NO_BACKTRACE", "1")  # else a crash would look for a debugger before it ends
    if settings.server.confine:
        _confine(settings.server.data_dir.expanduser().absolute())

    from canister.server.app import run

    run(settings, listener, supervised, opened)


def _confine(data_dir: Path) -> None:
    """Let the kernel refuse all writes outside the data folder, before anything such as numpy starts a thread."""
    temporary = data_dir / "tmp"
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)  # it will hold keys
        temporary.mkdir(mode=0o700, exist_ok=True)
    except OSError:
        return  # the start fails at once, and says why
    for name in ("TMPDIR", "SQLITE_TMPDIR"):
        os.environ[name] = str(temporary)
    sandbox.confine_server([data_dir])


def _import_ahead(link: socket.socket) -> None:
    """Import until the task is there."""
    for name in AHEAD:
        if select.select([link], [], [], 0)[0]:
            return
        importlib.import_module(name)


def _child(descriptor: int, opened: Opened | None) -> None:
    os.set_inheritable(descriptor, False)
    link = socket.socket(fileno=descriptor)
    gc.disable()  # modules are no garbage; the server looks for some from when it serves
    _import_ahead(link)
    given, descriptors, _, _ = socket.recv_fds(link, 1, 2)
    if not given:
        return  # whoever started us ended before it could say what to do
    for inherited in descriptors:
        os.set_inheritable(inherited, False)
    listener, lock = descriptors
    with link.makefile("rb") as lines:
        task = json.loads(lines.readline() or b"null")
    if task is None:
        return
    sandbox.end_with_parent(task["parent"])
    # We are not the terminal's foreground, so under `stty tostop` a log line would stop us.
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    settings = settings_from_json(task["settings"])
    supervised = Supervised(
        link,
        socket.socket(fileno=listener),
        FolderLock(settings.server.data_dir.expanduser().absolute() / LOCK, lock),
        task["greets"],
        task["crash"],
        task["n_crashes"],
    )
    _serve(settings, supervised=supervised, opened=opened)


def main(opened: Opened | None = None) -> None:
    try:
        _child(int(sys.argv[1]), opened)
    except (CanisterError, Trap, OSError) as error:
        print(f"canister: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
