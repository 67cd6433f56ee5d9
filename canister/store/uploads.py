"""SHA-256 of uploads while they grow. No chunk is hashed twice, unless the server was restarted in between.

Running hashes are not kept on the disk: neither hashlib nor a maintained library exports them, and copying OpenSSL's
own structure would depend on its layout. After a restart the first chunk therefore waits until the bytes before it are
read once, at the speed of the disk or of SHA-256.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

from sqlalchemy import delete

from canister.errors import NotFound
from canister.store import tables
from canister.store.database import Database
from canister.store.index import FileInfo
from canister.store.paths import clean_path
from canister.store.stable import StableMemory
from canister.store.transaction import Transaction

if TYPE_CHECKING:
    from hashlib import _Hash

N_RUNNING = 64  # uploads whose state is kept; the least recently used is dropped first
_READ_BYTES = 4 * 1024 * 1024


def forget_upload(database: Database, path: str) -> None:
    """Remove the note of an upload, whose file is gone."""
    forget = delete(tables.uploads).where(tables.uploads.c.path == path)
    database.submit(lambda connection: connection.execute(forget).rowcount).result()


class UploadHasher:
    """Running hash states, by path. A state counts only for the exact contents that it was made for."""

    def __init__(self, memory: StableMemory, n_running: int = N_RUNNING) -> None:
        self._memory = memory
        self._n_running = n_running
        self._states: OrderedDict[str, tuple[FileInfo, _Hash]] = OrderedDict()
        self._lock = threading.Lock()

    def start(self, transaction: Transaction, path: str, chunk: bytes) -> str:
        """The hash, in hex, of a file that begins with `chunk`. Kept once the transaction is committed."""
        return self._advance(transaction, clean_path(path), hashlib.sha256(), chunk)

    def extend(self, transaction: Transaction, path: str, chunk: bytes) -> str:
        """The hash of the committed file followed by `chunk`. Slow if its state is not at hand, since it then reads the
        file.
        """
        clean = clean_path(path)
        return self._advance(transaction, clean, self._state(clean), chunk)

    def digest(self, path: str) -> str:
        """The hash of the committed file. Slow, as above."""
        return self._state(clean_path(path)).hexdigest()

    def _advance(self, transaction: Transaction, path: str, state: _Hash, chunk: bytes) -> str:
        state.update(chunk)

        def keep() -> None:
            info = self._memory.stat(path)
            if info is not None:
                self._keep(path, info, state)

        transaction.on_commit(keep)
        return state.hexdigest()

    def _state(self, path: str) -> _Hash:
        """A copy of the state after the committed bytes of a file."""
        info = self._memory.stat(path)
        with self._lock:
            known = self._states.get(path)
            if known is not None and known[0] == info:
                self._states.move_to_end(path)
                return known[1].copy()
        if info is None:
            raise NotFound(f"no file {path!r} in stable memory")
        state = hashlib.sha256()
        for offset in range(0, info.size, _READ_BYTES):
            state.update(self._memory.read(path, offset, _READ_BYTES))
        if self._memory.stat(path) == info:
            self._keep(path, info, state.copy())
        return state

    def _keep(self, path: str, info: FileInfo, state: _Hash) -> None:
        with self._lock:
            self._states[path] = (info, state)
            self._states.move_to_end(path)
            while len(self._states) > self._n_running:
                self._states.popitem(last=False)
