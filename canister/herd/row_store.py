"""KV rows of the herd's chats in the objects: sends what is due from the workers that have it, and removes what is old.

Rows are a cache. Nothing here fails a call, and whatever goes wrong is tried again later, or left.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING

from canister.errors import CanisterError, Trap
from canister.herd.objects import rows
from canister.herd.uploads import Uploads
from canister.herd.ways import Speeds
from canister.herd.worker_client import WorkerLost, WorkerRefused
from canister.telemetry.logs import get_logger

if TYPE_CHECKING:
    from canister.herd.journal.journal import Journal
    from canister.herd.known_chats import Key, KnownChat, KnownChats
    from canister.herd.objects.objects import Objects
    from canister.herd.workers import Worker

LOOK_SECONDS = 0.25
AT_ONCE = 2  # chats on their way, so that calls keep the network

log = get_logger(__name__)


def owner_of(key: Key) -> bytes:
    """Whose rows they are: of one chat, since another one of the same contents may go on and need them no more."""
    return "\n".join(key).encode()


class RowStore:
    """Of one leader, on its event loop. speeds: learns what transfers take."""

    def __init__(
        self,
        objects: Objects,
        journal: Journal,
        chats: KnownChats,
        find: Callable[[str | None], Worker | None],
        speeds: Speeds,
    ) -> None:
        """find: a worker by its id."""
        self._objects = objects
        self._journal = journal
        self._chats = chats
        self._find = find
        self._speeds = speeds
        self._uploads: Uploads[Key] = Uploads()
        self._sending: set[asyncio.Task[None]] = set()
        self.n_stored = 0
        self.row_bytes = 12 << 10  # of a token, as last seen

    async def run(self) -> None:
        """Send what is due, until cancelled."""
        try:
            while True:
                await asyncio.sleep(LOOK_SECONDS)
                for key, worker in self._uploads.due(time.monotonic(), AT_ONCE - len(self._sending)):
                    task = asyncio.create_task(self._send(key, worker), name="rows of a chat")
                    self._sending.add(task)
                    task.add_done_callback(self._sending.discard)
        finally:
            for task in self._sending:
                task.cancel()

    def changed(self, chat: KnownChat, n_same: int) -> None:
        """A settled call has changed a chat. n_same: how many of its first tokens are as before."""
        if chat.worker is None or not chat.head:
            self._uploads.forget(chat.key)
            if chat.stored_head is not None:
                self._later(rows.forget(self._objects, owner_of(chat.key), chat.stored_head))
            return
        self._uploads.changed(chat.key, chat.worker, chat.n_tokens, n_same, time.monotonic())

    def n_stored_tokens(self, chat: KnownChat) -> int:
        """How many of the chat's first tokens have their rows in the objects, as far as is known."""
        if not chat.head or chat.stored_head is None:
            return 0
        return chat.n_tokens if chat.stored_head == chat.head else self._uploads.stored(chat.key)

    def drain(self, worker: str) -> None:
        """Send all that a worker has, since it leaves."""
        self._uploads.drain(worker, time.monotonic())

    def gone(self, worker: str) -> None:
        self._uploads.gone(worker)

    def pending(self, worker: str) -> int:
        """Chats whose rows a worker has, and the objects not all of them."""
        return self._uploads.pending(worker)

    async def get(self, chat: KnownChat) -> bytes | None:
        """The container that was stored last, perhaps of an earlier state of the chat; None: there is none."""
        if chat.stored_head is None:
            return None
        return await rows.get(self._objects, owner_of(chat.key), chat.stored_head)

    async def _send(self, key: Key, worker_id: str) -> None:
        is_sent = False
        try:
            is_sent = await self._sent(key, worker_id)
        except (WorkerLost, WorkerRefused) as error:
            log.info("rows of a chat could not be had from its worker", worker=worker_id, reason=str(error))
        except (CanisterError, Trap) as error:
            log.warning("rows of a chat could not be stored", worker=worker_id, reason=str(error))
        except Exception:
            log.exception("rows of a chat could not be stored", worker=worker_id)
        finally:
            (self._uploads.sent if is_sent else self._uploads.failed)(key, time.monotonic())

    async def _sent(self, key: Key, worker_id: str) -> bool:
        chat = await self._chats.of(key)
        worker = self._find(worker_id)
        if worker is None and chat.worker == worker_id:
            self._uploads.forget(key)  # it has left for good, and its rows with it
        if worker is None or worker.is_gone or chat.worker != worker_id or not chat.head:
            return False
        begun = time.monotonic()
        async with worker.leased():
            copy = await worker.client.chat(*key, rows=True)
        if copy is None or copy.head != chat.head:
            return False  # it has gone on meanwhile, and is due again by that
        self._speeds.peer.observe(len(copy.container), time.monotonic() - begun)
        n_rows = await rows.put(self._objects, owner_of(key), chat.head, copy.container)
        if not n_rows:
            return False
        self.row_bytes = max(len(copy.container) // n_rows, 1)
        if not await self._journal.stored(*key, chat.head):
            await rows.forget(self._objects, owner_of(key), chat.head)  # the chat is another one by now
            return False
        before = self._chats.stored(key, chat.head)
        if before is not None and before != chat.head:
            await rows.forget(self._objects, owner_of(key), before)
        self.n_stored += 1
        return True

    def _later(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)
