"""The chats that the leader has at hand: it alone changes them, so it need not ask the journal each time."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from canister.api.herd_wire import ChatChange

if TYPE_CHECKING:
    from canister.herd.journal.journal import Journal

REMEMBERED = 100_000

Key = tuple[str, str, str]
"""Canister, caller, path."""


@dataclass(frozen=True, slots=True)
class KnownChat:
    """head: b"" for one that is not there. worker: that ran it last, and has it as it is now."""

    key: Key
    head: bytes = b""
    n_tokens: int = 0
    worker: str | None = None
    stored_head: bytes | None = None


class KnownChats:
    """The least recently used ones are forgotten, and read again."""

    def __init__(self, journal: Journal) -> None:
        self.told: Callable[[KnownChat, int], None] = lambda chat, n_same: None  # of each change
        self._journal = journal
        self._known: OrderedDict[Key, KnownChat] = OrderedDict()

    def at_hand(self, key: Key) -> KnownChat | None:
        """A chat, if it need not be read."""
        return self._known.get(key)

    async def of(self, key: Key) -> KnownChat:
        known = self._known.get(key)
        if known is not None:
            self._known.move_to_end(key)
            return known
        row = await self._journal.chat(*key)
        if row is None:
            return self._keep(KnownChat(key))
        return self._keep(KnownChat(key, row.head, row.n_tokens, row.worker, row.stored_head))

    def changed(self, key: Key, change: ChatChange, worker: str) -> None:
        """A settled call has changed it."""
        before = self._known.get(key)
        grown = len(change.container) // 5  # about: four bytes a token, and its marks
        n_tokens = (change.keep + grown) if change.head else 0
        stored = None if before is None else before.stored_head
        chat = KnownChat(key, change.head, n_tokens, worker if change.head else None, stored)
        self._keep(chat if change.head else replace(chat, stored_head=None))
        self.told(chat, change.keep)

    def stored(self, key: Key, head: bytes) -> bytes | None:
        """The rows of this state are in the objects now. Returns the state whose rows were there before."""
        known = self._known.get(key)
        if known is None:
            return None
        self._keep(replace(known, stored_head=head))
        return known.stored_head

    def removed(self, key: Key, stored_head: bytes | None) -> None:
        """It is not there any more, without a call. stored_head: of the rows that the objects have of it."""
        self._keep(KnownChat(key))
        self.told(KnownChat(key, stored_head=stored_head), 0)

    def forget(self, key: Key) -> None:
        """Read it again the next time."""
        self._known.pop(key, None)

    def _keep(self, chat: KnownChat) -> KnownChat:
        self._known[chat.key] = chat
        self._known.move_to_end(chat.key)
        while len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return chat
