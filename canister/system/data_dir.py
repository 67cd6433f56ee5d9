"""The data folder of a server: what lies where in it, and the lock by which one process has it to itself.

lock               held while a server runs, or something that changes the folder in its place
server.db          canisters (name → id), API keys
controller.pem     the server's own identity; controls what the settings name
controller.key     an API key for that identity
root.key           the key that certifies IC replies
node.pem           the identity that signs answers to IC queries
crash.txt          the Python stacks of all threads, if the server crashes; crash-last.txt: of an earlier crash
canisters/<id>/    a canister: canister.db, stable/ with its files, staging/ for those that are not committed;
                   engine.logits, engine.busy and engine.crashes, which may be deleted
herd.db, herd.secret, objects/   of a herd: its journal, the secret between door and workers, large bytes
ao/                of a network of AO: ao.db, node.json (its wallet), objects/; models/ while one is being made
tried/             what was found out of llama.cpp and of model files, and measured (engine.json); may be deleted
quarantine/        what `canister doctor --repair` took out of the way
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

from canister.errors import BadRequest, Conflict

LOCK = "lock"
SERVER_DATABASE = "server.db"
CANISTER_DATABASE = "canister.db"
CONTROLLER_IDENTITY = "controller.pem"
CONTROLLER_KEY = "controller.key"
ROOT_KEY = "root.key"
NODE_IDENTITY = "node.pem"
SECRETS = (CONTROLLER_IDENTITY, CONTROLLER_KEY, ROOT_KEY, NODE_IDENTITY)
CANISTERS = "canisters"
OBJECTS = "objects"
HERD_DATABASE, HERD_SECRET = "herd.db", "herd.secret"
AO, AO_DATABASE, AO_NODE, AO_MODELS = "ao", "ao.db", "node.json", "models"
BESIDE_DATABASES = (HERD_DATABASE, f"{AO}/{AO_DATABASE}")
BESIDE_FILES = (HERD_SECRET, f"{AO}/{AO_NODE}")
BESIDE_OBJECTS = (OBJECTS, f"{AO}/{OBJECTS}")
STABLE, STAGING = "stable", "staging"
QUARANTINE = "quarantine"
TRIED = "tried"
CRASH, LAST_CRASH = "crash.txt", "crash-last.txt"

ORPHAN_SECONDS = 20.0  # the kernel needs some time to end a process with gigabytes of memory
_POLL_SECONDS = 0.02


class FolderLock:
    """An advisory lock that the kernel drops when its last holder dies, however it dies.

    A child that inherits the descriptor holds it together with its parent.
    """

    def __init__(self, path: Path, descriptor: int | None = None) -> None:
        """descriptor: of the lock that a parent has already taken."""
        self._path = path
        self._descriptor = descriptor

    @property
    def descriptor(self) -> int:
        """The descriptor for a child to inherit, while the lock is taken."""
        assert self._descriptor is not None
        return self._descriptor

    def take(self) -> None:
        """Take the lock. Conflict when another process holds it; OSError when the file cannot be made."""
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 20).decode("ascii", "replace").strip() or "unknown"
            os.close(descriptor)
            raise Conflict(
                f"another server uses the data folder {self._path.parent} (process {holder}); "
                "stop it, or choose another folder with --data-dir"
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode("ascii"), 0)
        self._descriptor = descriptor

    def holder(self) -> int | None:
        """The process that holds it; None if none does."""
        if not self.is_held():
            return None
        text = self._path.read_text(encoding="ascii", errors="replace").strip()
        return int(text) if text.isdecimal() else None

    def is_held(self) -> bool:
        """Does another process hold it?"""
        try:
            descriptor = os.open(self._path, os.O_RDONLY)
        except OSError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    def wait_for_orphan(self) -> None:
        """Wait while a server holds it whose supervisor was killed, since the kernel is just ending that server."""
        end = time.monotonic() + ORPHAN_SECONDS
        while self.is_held() and self._holder_is_gone() and time.monotonic() < end:
            time.sleep(_POLL_SECONDS)

    def _holder_is_gone(self) -> bool:
        try:
            os.kill(int(self._path.read_text(encoding="ascii")), 0)
        except ProcessLookupError:
            return True
        except (OSError, ValueError):
            pass
        return False

    def release(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def take(data_dir: Path) -> FolderLock:
    """Take a data folder, made if need be, for this process alone. Conflict and BadRequest say what to do."""
    lock = FolderLock(data_dir / LOCK)
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)  # it will hold keys
        lock.take()
    except OSError as error:
        raise BadRequest(
            f"the data folder {data_dir} cannot be used: {error.strerror}; "
            "choose another one with --data-dir or CANISTER_DATA_DIR"
        ) from error
    return lock
