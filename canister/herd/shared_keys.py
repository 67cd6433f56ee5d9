"""The keys that all doors of a herd have alike, so that a caller cannot tell which of them leads.

The first leader gives its own to the journal: the controller's identity and API key, the keys that sign replies, the
secret that workers know, and the API keys (their hashes). Each later door takes them before it begins.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from canister.errors import Conflict
from canister.state.api_keys import open_keys
from canister.system import atomic_file
from canister.system.data_dir import CONTROLLER_IDENTITY, CONTROLLER_KEY, HERD_SECRET, NODE_IDENTITY, ROOT_KEY

if TYPE_CHECKING:
    from canister.herd.journal.journal import Journal
    from canister.state.api_keys import KeyRing

FILES = (CONTROLLER_IDENTITY, CONTROLLER_KEY, ROOT_KEY, NODE_IDENTITY, HERD_SECRET)
API_KEYS = "API keys"
MARK = "herd.keys"  # in the folder: which API keys it gave or took last, so that newer ones of its own are known


def take(folder: Path, shared: Mapping[str, bytes]) -> None:
    """Let a door's folder have them, before a server begins there. Conflict: the folder is another herd's."""
    for name in FILES:
        path = folder / name
        if name in shared and path.exists() and path.read_bytes() != shared[name]:
            raise Conflict(
                f"{path} is not the one that this herd has in its journal: a door that is to stand by needs an empty "
                "folder, or the one that it had before; choose another --data-dir"
            )
    for name in FILES:
        if name in shared and not (folder / name).exists():
            atomic_file.write(folder / name, shared[name])
    if API_KEYS in shared and _mark(folder) != _digest(shared[API_KEYS]):
        with open_keys(folder) as keys:
            keys.put(shared[API_KEYS])
        _set_mark(folder, shared[API_KEYS])


class SharedKeys:
    """What a leader gives to the other doors."""

    def __init__(self, journal: Journal, folder: Path, keys: KeyRing, epoch: int) -> None:
        self._journal = journal
        self._folder = folder
        self._keys = keys
        self._epoch = epoch
        self._given: dict[str, bytes] = {}
        self._is_ours = True

    async def begin(self) -> None:
        """Give them, if nobody has done so before."""
        self._given = await self._journal.shared()
        own = await asyncio.to_thread(self._own)
        self._is_ours = all(self._given.get(name, content) == content for name, content in own.items())
        await self.give()

    async def give(self) -> None:
        """Give what has changed, such as a new API key."""
        if not self._is_ours:
            return
        own = {**await asyncio.to_thread(self._own), API_KEYS: await asyncio.to_thread(self._keys.copy)}
        changed = {name: content for name, content in own.items() if self._given.get(name) != content}
        if changed:
            await self._journal.share(changed, self._epoch)
            self._given.update(changed)
            await asyncio.to_thread(_set_mark, self._folder, own[API_KEYS])

    def _own(self) -> dict[str, bytes]:
        paths = [self._folder / name for name in FILES]
        return {path.name: path.read_bytes() for path in paths if path.exists()}


def _digest(copy: bytes) -> str:
    return hashlib.sha256(copy).hexdigest()


def _mark(folder: Path) -> str:
    path = folder / MARK
    return path.read_text(encoding="ascii", errors="replace").strip() if path.exists() else ""


def _set_mark(folder: Path, copy: bytes) -> None:
    atomic_file.write(folder / MARK, f"{_digest(copy)}\n".encode())
