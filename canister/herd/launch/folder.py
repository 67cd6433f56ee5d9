"""A worker's data folder on its own machine, as every launcher uses it: generation, secret, socket, command line.

WORKERS/<id>/   the data folder of a `canister serve`, with its usual files, and beside them
    herd.secret     hex; what is asked of the private door is signed with it
    generation      of the process that was started last
    door.sock       the private door, while the worker runs
    worker.log      what its processes said
"""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from pathlib import Path

from canister.client import known_trials
from canister.errors import BadRequest, Conflict
from canister.herd.launch.launcher import WorkerSpec
from canister.system import atomic_file
from canister.system.data_dir import HERD_SECRET, LOCK, TRIED, FolderLock

GENERATION, SOCKET, LOG = "generation", "door.sock", "worker.log"
MAX_SOCKET_BYTES = 100  # the least that systems allow is 103
MAX_LOG_BYTES = 16 * 1024 * 1024
ORPHAN_SECONDS = 20.0  # for a worker of a former herd to end in order
_ID = re.compile(r"[a-zA-Z0-9]([a-zA-Z0-9-]{0,62})")
_OWN = frozenset({"data-dir", "listen", "host", "port", "supervise"})


def prepare(workers: Path, spec: WorkerSpec) -> Path:
    """The worker's folder, made if need be, with the secret inside. BadRequest for what cannot be one."""
    if not _ID.fullmatch(spec.id):
        raise BadRequest(f"worker id {spec.id[:80]!r}: give letters, digits and - inside, at most 63")
    taken = [name for name in spec.options if name in _OWN or name.startswith("herd-")]
    if taken:
        raise BadRequest(f"worker {spec.id}: --{taken[0]} is set by the herd, so it cannot be given")
    folder = workers.absolute() / spec.id
    if len(os.fsencode(folder / SOCKET)) > MAX_SOCKET_BYTES:
        raise BadRequest(
            f"the folder {folder} has too long a path for a socket (at most {MAX_SOCKET_BYTES - len(SOCKET) - 1} "
            "bytes): choose a shorter --data-dir"
        )
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        atomic_file.write(folder / HERD_SECRET, f"{spec.secret.hex()}\n".encode())
        _share_trials(workers, folder)
    except OSError as error:
        raise BadRequest(f"the worker's folder {folder} cannot be used: {error.strerror}") from error
    return folder


def _share_trials(workers: Path, folder: Path) -> None:
    """What the herd's other workers have found out of llama.cpp and model files counts for a new one."""
    others = [other for other in workers.iterdir() if other.is_dir() and other != folder]
    for other in [workers.parent, *others]:
        if (other / TRIED).is_dir():
            known_trials.copy(other / TRIED, folder / TRIED)


def next_generation(folder: Path, floor: int = 0) -> int:
    """A number above those of all processes that were started in this folder, and not below `floor`; kept before it is
    returned.
    """
    path = folder / GENERATION
    try:
        last = int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        last = 0
    generation = max(last + 1, floor)
    atomic_file.write(path, f"{generation}\n".encode())
    return generation


def command(
    folder: Path, spec: WorkerSpec, generation: int, listen: str = f"unix:{SOCKET}", *, alone: bool = False
) -> list[str]:
    """The command line of a worker, to be started in `folder`. It ends with this process, unless it is to live alone.

    listen: `unix:PATH`, relative to the folder, or `HOST:PORT`.
    """
    address = ["--listen", listen]
    if not listen.startswith("unix:"):
        host, _, port = listen.rpartition(":")
        address = ["--host", host, "--port", port]
    return [
        *(sys.executable, "-P", "-m"),
        *(["canister"] if alone else ["canister.herd.launch.child", str(os.getpid())]),
        *("serve", "--data-dir", str(folder), *address, "--no-supervise"),
        *("--herd-worker", spec.id, "--herd-generation", str(generation)),
        *("--herd-secret-file", str(folder / HERD_SECRET)),
        *_flags(spec),
    ]


def environment() -> dict[str, str]:
    """Of a worker: ours, without settings of a server, which are ours alone."""
    return {name: value for name, value in os.environ.items() if not name.startswith("CANISTER_")}


def open_log(folder: Path) -> int:
    """A descriptor that appends to the worker's log, which begins anew when it is large."""
    path = folder / LOG
    if path.exists() and path.stat().st_size > MAX_LOG_BYTES:
        path.replace(path.with_suffix(".log.1"))
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def last_words(folder: Path) -> str:
    """The last line of the worker's log."""
    try:
        with (folder / LOG).open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 4096))
            lines = file.read().decode(errors="replace").split("\n")
    except OSError:
        return ""
    return next((line.strip()[:500] for line in reversed(lines) if line.strip()), "")


def end_orphan(folder: Path) -> None:
    """End a worker of a former herd that still has the folder. Conflict when it cannot be ended. It may take seconds.

    The kernel ends workers together with their herd where it can; elsewhere the lock tells which process is left.
    """
    lock = FolderLock(folder / LOCK)
    for number, seconds in ((signal.SIGTERM, ORPHAN_SECONDS), (signal.SIGKILL, ORPHAN_SECONDS)):
        end = time.monotonic() + seconds
        pid = lock.holder()
        if pid is None and not lock.is_held():
            return
        if pid is not None:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                pass
            except PermissionError:
                break
        while lock.is_held() and time.monotonic() < end:
            time.sleep(0.02)
    if lock.is_held():
        raise Conflict(
            f"process {lock.holder()} uses the worker's folder {folder} and could not be ended; end it first"
        )


def _flags(spec: WorkerSpec) -> list[str]:
    flags: list[str] = []
    for name, value in spec.options.items():
        if isinstance(value, bool):
            flags.append(f"--{name}" if value else f"--no-{name}")
        elif isinstance(value, str):
            flags += [f"--{name}", value]
        else:
            for one in value:
                flags += [f"--{name}", one]
    return flags
