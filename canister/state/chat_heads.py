"""The heads of the chats in a canister's stable memory, each computed once for each committed state of its file."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass

from canister.state.prompt_caches import Caches
from canister.store.container import CacheFile
from canister.store.heads import NO_CHAT, head_of
from canister.store.stable import FileInfo, StableMemory

MAX_KNOWN = 4096  # heads that are remembered; some hundred bytes each


@dataclass(frozen=True, slots=True)
class ChatCopy:
    """A chat as it is here. head: NO_CHAT, and container None, where nothing is that a call could continue."""

    head: bytes
    container: CacheFile | None


NOTHING_THERE = ChatCopy(NO_CHAT, None)


class ChatHeads:
    """On the event loop alone."""

    def __init__(self, stable: StableMemory, caches: Caches) -> None:
        self._stable = stable
        self._caches = caches
        self._known: OrderedDict[str, tuple[FileInfo, bytes]] = OrderedDict()

    async def of(self, path: str) -> ChatCopy:
        """The committed chat at a clean path."""
        found = self.at_hand(path)
        while found is None:
            info = self._stable.stat(path)
            if info is None or await asyncio.to_thread(self._caches.opened, info) is None:
                return NOTHING_THERE
            found = self.at_hand(path)  # it is open now, unless it was changed or closed meanwhile
        return found

    def at_hand(self, path: str) -> ChatCopy | None:
        """The same at once; None when its file has to be read."""
        info = self._stable.stat(path)
        if info is None or info.kind == "directory":
            return NOTHING_THERE
        if not self._caches.is_open(info):
            return None
        opened = self._caches.opened(info)
        if opened is None:
            return NOTHING_THERE
        info_known, head = self._known.get(path, (None, NO_CHAT))
        if info_known != info:
            head = head_of(opened.container)
            self._known[path] = info, head
        self._known.move_to_end(path)
        while len(self._known) > MAX_KNOWN:
            self._known.popitem(last=False)
        return ChatCopy(head, opened.container)
