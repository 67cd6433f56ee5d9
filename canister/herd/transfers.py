"""How a chat gets to a worker that does not have it: from the one that ran it last, or as tokens from the journal."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from canister.herd.placement import Rates, moving_seconds
from canister.herd.worker_client import ChatCopy, WorkerLost, WorkerRefused
from canister.telemetry.logs import get_logger

if TYPE_CHECKING:
    from canister.herd.journal.journal import Journal
    from canister.herd.known_chats import KnownChat
    from canister.herd.workers import Worker

log = get_logger(__name__)


class Transfers(Protocol):
    """Ways to bring a chat to a worker."""

    def seconds(self, chat: KnownChat, worker: Worker) -> float:
        """About how long it takes until this chat is at this worker."""
        ...

    async def bring(self, chat: KnownChat, worker: Worker) -> None:
        """Make the worker's copy of a chat that of the journal. Raises WorkerLost, WorkerRefused."""
        ...

    def row_seconds(self, chat: KnownChat, worker: Worker) -> float | None:
        """About how long it takes until the KV rows of this chat are at this worker; None: they cannot be had."""
        ...

    async def bring_rows(self, chat: KnownChat, worker: Worker) -> bool:
        """Let a worker have a chat with its KV rows, if they can be had. Raises WorkerLost, WorkerRefused."""
        ...


class DirectTransfers:
    """From worker to worker with its KV rows while the former one has it, else its tokens, which are decoded again."""

    def __init__(self, journal: Journal, find: Callable[[str | None], Worker | None]) -> None:
        """find: a worker by its id."""
        self._journal = journal
        self._find = find
        self.n_with_rows = self.n_tokens_alone = 0

    def seconds(self, chat: KnownChat, worker: Worker) -> float:
        if chat.worker in (None, worker.id) or not chat.head:
            return 0.0
        found = worker.canister(chat.key[0])
        rate = float(found.prefill_tps) if found is not None and found.prefill_tps else Rates().tokens_per_second
        return moving_seconds(chat.n_tokens, None, Rates(tokens_per_second=rate))

    async def bring(self, chat: KnownChat, worker: Worker) -> None:
        copy = await self._of_peer(chat, worker)
        if copy is None:
            copy = await self._of_journal(chat)
            self.n_tokens_alone += bool(copy.head)
        else:
            self.n_with_rows += 1
        await worker.client.put_chat(*chat.key, copy)

    def row_seconds(self, chat: KnownChat, worker: Worker) -> float | None:
        return None

    async def bring_rows(self, chat: KnownChat, worker: Worker) -> bool:
        return False

    async def _of_peer(self, chat: KnownChat, worker: Worker) -> ChatCopy | None:
        peer = self._find(chat.worker)
        if not chat.head or peer is None or peer.is_gone or peer.id == worker.id:
            return None
        try:
            async with peer.leased():
                copy = await peer.client.chat(*chat.key, rows=True)
        except (WorkerLost, WorkerRefused) as error:
            log.info("a chat could not be had from the worker that ran it", worker=peer.id, reason=str(error))
            return None
        return copy if copy is not None and copy.head == chat.head else None

    async def _of_journal(self, chat: KnownChat) -> ChatCopy:
        if not chat.head:
            return ChatCopy(b"", b"")
        found = await self._journal.container(*chat.key)
        return ChatCopy(b"", b"") if found is None else ChatCopy(*found)
