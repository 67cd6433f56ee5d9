"""Which chats' KV rows are to go to the object store now: those at rest, those that grew, those of a worker that
leaves.

Pure; times are seconds of any clock that only goes forward. Rows are a cache, so what a crash forgets here costs time
only.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count
from typing import Generic, TypeVar

IDLE_SECONDS = 2.0
GROWN_TOKENS = 256
_GROWN_SHARE = 0.25  # of what is stored, so that a long chat is not sent again for every few hundred tokens
RETRY_SECONDS = 5.0
REMEMBERED = 16_384  # chats

N = TypeVar("N", bound=Hashable)


@dataclass(slots=True)
class _Chat:
    worker: str
    n_tokens: int
    stored: int
    changed: float
    not_before: float = 0.0  # after an upload that failed
    sending: int | None = None  # tokens that are on their way


class Uploads(Generic[N]):
    """The chats whose rows are to be stored, or were of late. The leader notes each settled call, and asks what is due.

    The chats that have not changed for longest are forgotten: mostly they are stored.
    """

    def __init__(self) -> None:
        self._chats: dict[N, _Chat] = {}  # in the order of their last changes
        self._waiting: list[tuple[float, int, N]] = []  # when to look at a chat again
        self._order = count()
        self._leaving: set[str] = set()

    def changed(self, chat: N, worker: str, n_tokens: int, n_same: int, now: float) -> None:
        """A call on a worker has ended. n_same: how many of the first tokens are those of before."""
        known = self._chats.pop(chat, None) or _Chat(worker, n_tokens, 0, now)
        self._chats[chat] = known
        if len(self._chats) > REMEMBERED:
            del self._chats[next(name for name, one in self._chats.items() if one.sending is None)]
        known.worker, known.n_tokens, known.changed = worker, n_tokens, now
        known.stored = min(known.stored, n_same)
        if known.sending is not None:
            known.sending = min(known.sending, n_same)  # what is on its way is of the state before
        self._look_again(chat, now + IDLE_SECONDS)
        if self._has_grown(known) or worker in self._leaving:
            self._look_again(chat, now)

    def forget(self, chat: N) -> None:
        """It was removed, or nobody has its rows."""
        self._chats.pop(chat, None)

    def __len__(self) -> int:
        """Chats that are remembered."""
        return len(self._chats)

    def drain(self, worker: str, now: float) -> None:
        """A worker is about to leave: all that it has is due."""
        self._leaving.add(worker)
        for name, chat in self._chats.items():
            if chat.worker == worker:
                self._look_again(name, now)

    def gone(self, worker: str) -> None:
        """A worker has left, or is back: what it had is no longer due because of it."""
        self._leaving.discard(worker)

    def due(self, now: float, at_most: int) -> list[tuple[N, str]]:
        """Chats to send now, with the worker that has each; they count as under way until `sent` or `failed`."""
        found: list[tuple[N, str]] = []
        while len(found) < at_most and self._waiting and self._waiting[0][0] <= now:
            _, _, name = heappop(self._waiting)
            chat = self._chats.get(name)
            if chat is None or chat.sending is not None or chat.stored >= chat.n_tokens:
                continue
            if not self._is_due(chat, now):
                continue
            chat.sending = chat.n_tokens
            found.append((name, chat.worker))
        return found

    def sent(self, chat: N, now: float) -> None:
        """The rows that were due are stored. A chat that has changed meanwhile is looked at again."""
        known = self._chats.get(chat)
        if known is None or known.sending is None:
            return
        known.stored, known.sending = min(known.sending, known.n_tokens), None
        if known.stored < known.n_tokens:
            self._look_again(chat, now if self._has_grown(known) else known.changed + IDLE_SECONDS)

    def failed(self, chat: N, now: float) -> None:
        """They are not stored; it is tried again later."""
        known = self._chats.get(chat)
        if known is None or known.sending is None:
            return
        known.sending, known.not_before = None, now + RETRY_SECONDS
        self._look_again(chat, known.not_before)

    def stored(self, chat: N) -> int:
        """How many of the chat's first tokens have their rows in the object store."""
        known = self._chats.get(chat)
        return 0 if known is None else known.stored

    def pending(self, worker: str) -> int:
        """Chats of a worker whose rows are not all stored; a worker that leaves waits for 0."""
        return sum(1 for chat in self._chats.values() if chat.worker == worker and chat.stored < chat.n_tokens)

    def _is_due(self, chat: _Chat, now: float) -> bool:
        if now < chat.not_before:
            return False
        at_rest = now >= chat.changed + IDLE_SECONDS
        return at_rest or self._has_grown(chat) or chat.worker in self._leaving

    def _has_grown(self, chat: _Chat) -> bool:
        return chat.n_tokens - chat.stored >= max(GROWN_TOKENS, _GROWN_SHARE * chat.stored)

    def _look_again(self, chat: N, when: float) -> None:
        heappush(self._waiting, (when, next(self._order), chat))
