"""Old chats leave the journal when the canister's rule for old prompt caches says so, as they leave a single server.

The mirror runs the rule, by its timer or by call. Workers clean their own copies by the same rule: a copy that is gone
is brought again while the journal has the chat, and a copy whose chat is gone is removed before the next call of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from canister.herd.journal.journal import Journal
    from canister.herd.journal.records import Chat
    from canister.herd.known_chats import Key, KnownChats


class Cleaning:
    """Of one epoch of a leader. is_busy: does a worker have a job of this chat?"""

    def __init__(self, journal: Journal, chats: KnownChats, is_busy: Callable[[Key], bool], epoch: int) -> None:
        self._journal = journal
        self._chats = chats
        self._is_busy = is_busy
        self._epoch = epoch

    async def run(self, canister: str, now_ns: int, ttl_seconds: int, max_chats: int) -> tuple[int, int]:
        """How many of the oldest chats were examined, and removed since nothing changed them for ttl_seconds."""
        before_ns = now_ns - ttl_seconds * 1_000_000_000
        old = await self._journal.oldest_chats(canister, max_chats)
        due = [
            chat
            for chat in old
            if chat.changed_ns <= before_ns and not self._is_busy((chat.canister, chat.caller, chat.path))
        ]
        removed = await self._journal.remove_chats(self._epoch, due) if due else []
        for chat in removed:
            self._chats.removed(_key(chat), chat.stored_head)
        return len(old), len(removed)


def _key(chat: Chat) -> Key:
    return chat.canister, chat.caller, chat.path
