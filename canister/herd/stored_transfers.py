"""How a chat gets to a worker: by the cheapest of its own copy, a peer's, the objects, and decoding its tokens.

What was chosen may fail: then the next cheapest is tried, and the tokens of the journal are always there.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from canister.herd import ways
from canister.herd.transfers import DirectTransfers
from canister.herd.ways import Move, Speeds
from canister.herd.worker_client import ChatCopy

if TYPE_CHECKING:
    from canister.herd.journal.journal import Journal
    from canister.herd.known_chats import KnownChat
    from canister.herd.row_store import RowStore
    from canister.herd.workers import Worker


class StoredTransfers(DirectTransfers):
    """A `Transfers` with the objects behind it. speeds: what transfers take, and learns from them."""

    def __init__(
        self,
        journal: Journal,
        find: Callable[[str | None], Worker | None],
        store: RowStore,
        speeds: Speeds,
    ) -> None:
        super().__init__(journal, find)
        self._store = store
        self._speeds = speeds
        self.n_from_store = 0

    def seconds(self, chat: KnownChat, worker: Worker) -> float:
        return 0.0 if not chat.head or chat.worker in (None, worker.id) else self._plan(chat, worker).seconds

    async def bring(self, chat: KnownChat, worker: Worker) -> None:
        move = self._plan(chat, worker) if chat.head else Move("decode", 0.0)
        if move.way == "store" and await self._from_store(chat, worker):
            return
        if move.way in ("peer", "store") and await self._from_peer(chat, worker):
            return
        if move.way == "peer" and await self._from_store(chat, worker):
            return
        self.n_tokens_alone += bool(chat.head)
        await worker.client.put_chat(*chat.key, await self._of_journal(chat))

    def row_seconds(self, chat: KnownChat, worker: Worker) -> float | None:
        move = self._plan(chat, worker)
        return move.seconds if move.way in ("peer", "store") else None

    async def bring_rows(self, chat: KnownChat, worker: Worker) -> bool:
        if self._plan(chat, worker).way == "store":
            return await self._from_store(chat, worker) or await self._from_peer(chat, worker)
        return await self._from_peer(chat, worker) or await self._from_store(chat, worker)

    async def _from_peer(self, chat: KnownChat, worker: Worker) -> bool:
        begun = time.monotonic()
        copy = await self._of_peer(chat, worker)
        if copy is None:
            return False
        await worker.client.put_chat(*chat.key, copy)
        self._speeds.peer.observe(len(copy.container), time.monotonic() - begun)
        self.n_with_rows += 1
        return True

    async def _from_store(self, chat: KnownChat, worker: Worker) -> bool:
        """The worker keeps the rows of what the stored state and the present one have in common."""
        begun = time.monotonic()
        container = await self._store.get(chat)
        if container is None or chat.stored_head is None:
            return False
        await worker.client.put_chat(*chat.key, ChatCopy(chat.stored_head, container))
        if chat.stored_head != chat.head:
            await worker.client.put_chat(*chat.key, await self._of_journal(chat))
        self._speeds.store.observe(len(container), time.monotonic() - begun)
        self.n_from_store += 1
        return True

    def _plan(self, chat: KnownChat, worker: Worker) -> Move:
        here, owner = _as_seen(chat, worker), self._find(chat.worker)
        peers: list[ways.Worker] = []
        held: dict[str, int] = {}
        if owner is not None and not owner.is_gone:
            peers.append(_as_seen(chat, owner))
            held[owner.id] = chat.n_tokens
        # Of rows whose worker is gone nobody can be asked; the container tells when they do not fit.
        pool = peers[0].pool if peers else here.pool
        known = ways.Chat(chat.n_tokens, self._store.row_bytes, held, self._store.n_stored_tokens(chat), pool)
        return ways.plan(known, here, peers, self._speeds)


def _as_seen(chat: KnownChat, worker: Worker) -> ways.Worker:
    found = worker.canister(chat.key[0])
    if found is None or found.model is None:
        return ways.Worker(worker.id, None)
    model = found.model
    return ways.Worker(worker.id, (model.sha256, model.kv_layout, model.exact), found.prefill_tps)
