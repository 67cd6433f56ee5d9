"""The process that cages are forked from: one thread, one state made ready, no program ever run in it.

    python -m canister.ao.lua.nursery FILE…      on its standard input: a socket of its keeper

FILE: Lua that runs in the state before any program does, as the world that its cages share.

It forks a cage for each socket that it is sent, and kills a cage when it is told to; as their parent it knows that a
number is still its cage's. It ends with its keeper, and the cages end with it.
"""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import signal
import socket
import sys
from pathlib import Path

from canister.ao.lua.cage_child import run
from canister.ao.lua.sandbox import Sandbox
from canister.system import sandbox as confinement

ADDRESS_SPACE_BYTES = 1 << 30
_CONTROL = 0  # its file descriptor


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal's Ctrl-C; the keeper decides
    control = socket.socket(fileno=_CONTROL)
    confinement.adopt_orphans()  # spares, whose cage was killed
    ready = made_ready(list(map(Path, sys.argv[1:])))
    gc.collect()
    gc.freeze()  # so that no cage copies pages by looking at what they share
    while True:
        try:
            message, descriptors, _, _ = socket.recv_fds(control, 100, 1)
        except OSError:
            return
        if not message:
            return
        word, number = message.split()
        if word == b"kill":
            _kill(int(number))
            control.send(b"ok")
        elif descriptors:
            control.send(b"%d" % _fork(control, descriptors[0], int(number), ready))


def made_ready(world: list[Path]) -> Sandbox:
    """A state in which these files have run, with the functions that they need. Raises SyntaxError when one fails."""
    ready = Sandbox()
    if world:
        from canister.ao.lua import natives

        natives.define_all(ready)
    for path in world:
        outcome = ready.load(path.read_bytes(), path.stem)
        if outcome.error is not None:
            raise SyntaxError(f"{path}: {outcome.error}")
    ready.begin()
    return ready


def _fork(control: socket.socket, descriptor: int, memory_bytes: int, ready: Sandbox) -> int:
    _reap()
    parent = os.getpid()
    child = os.fork()
    if child:
        os.close(descriptor)
        return child
    code = 1
    try:
        control.close()
        connection = socket.socket(fileno=descriptor)
        confine(parent)
        ready.limit_memory(memory_bytes)
        run(connection, ready)
        code = 0
    finally:
        os._exit(code)


def confine(parent: int) -> None:
    """What a cage cannot do, whatever runs in it: files, sockets, other programs, more memory, a core file."""
    confinement.end_with_parent(parent)
    confinement.confine_trial([])
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE_BYTES, ADDRESS_SPACE_BYTES))
    for limit in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE):
        resource.setrlimit(limit, (0, 0))


def _kill(pid: int) -> None:
    """One that has ended by itself is only reaped. A number that is no child of this process is left alone."""
    with contextlib.suppress(ChildProcessError):
        if not os.waitpid(pid, os.WNOHANG)[0]:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _reap() -> None:
    """Cages that were closed end by themselves."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


if __name__ == "__main__":
    main()
