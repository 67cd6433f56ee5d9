"""Prompt caches that an admin has published: each worker gets them once, and every caller's prompt that begins so
starts from their KV rows. What callers are told and charged stays the same; nothing is shared across callers otherwise.

They lie in the objects, for a canister's model and layout of rows, and at each worker as prompt caches of a caller that
nobody can be. A head that is not to be published any more is noted, for workers that are away just now.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from canister.engine.kv.slots import PUBLISHED
from canister.errors import CanisterBusy, CanisterError, NotFound, Trap
from canister.herd.objects import rows
from canister.herd.objects.objects import once, prefix_key, prefixes_of, unpublished_of
from canister.herd.worker_client import ChatCopy, WorkerLost, WorkerRefused
from canister.store.cache_paths import sessions_of
from canister.telemetry.logs import get_logger

if TYPE_CHECKING:
    from canister.api.herd_wire import CanisterState, ModelState
    from canister.herd.known_chats import Key, KnownChats
    from canister.herd.objects.objects import Objects
    from canister.herd.workers import Worker, Workers

LOOK_SECONDS = 2.0

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Published:
    """head: by which it is named. n_tokens: whose rows are shared."""

    head: bytes
    n_tokens: int


class Publishing:
    """Of one leader."""

    def __init__(self, objects: Objects, chats: KnownChats, workers: Workers) -> None:
        self._objects = objects
        self._chats = chats
        self._workers = workers
        self._changed = asyncio.Event()
        self._version = 0
        self._told: dict[tuple[str, int, str], tuple[int, ModelState]] = {}  # worker, generation, canister

    async def publish(self, chat: Key) -> Published:
        """Let all callers start from a prompt cache. NotFound: there is none; CanisterBusy: its rows are nowhere."""
        known = await self._chats.of(chat)
        if not known.head:
            raise NotFound(f"there is no prompt cache {chat[2]}: make it with run_update, then publish it")
        worker = self._workers.get(known.worker)
        model = None if worker is None else _model(worker, chat[0])
        copy = None
        if worker is not None and model is not None and not worker.is_gone:
            with suppress(WorkerLost, WorkerRefused):
                copy = await worker.client.chat(*chat, rows=True)
        if copy is None or model is None or copy.head != known.head:
            raise CanisterBusy(f"no worker has the KV rows of {chat[2]} just now: run a call with it, then publish it")
        key = prefix_key(chat[0], model.sha256, model.kv_layout, known.head)
        n_tokens = await rows.put_at(self._objects, key, known.head, copy.container)
        if not n_tokens:
            raise CanisterBusy(f"{chat[2]} has no KV rows that could be shared: run a call with it, then publish it")
        await self._objects.remove(f"{unpublished_of(chat[0])}/{known.head.hex()}")
        self._look_again()
        return Published(known.head, n_tokens)

    async def unpublish(self, canister: str, head: bytes) -> bool:
        """Let a prompt cache be nobody's any more. False: it was not published."""
        found = [one.key async for one in self._objects.list("prefix") if one.key.endswith(f"/{head.hex()}")]
        own = prefixes_of(canister, b"", b"").split("/")[1]
        found = [key for key in found if key.split("/")[1] == own]
        if not found:
            return False
        await self._objects.create(f"{unpublished_of(canister)}/{head.hex()}", once(b"unpublished"))
        for key in found:
            await self._objects.remove(key)
        self._look_again()
        return True

    async def heads(self, canister: str, model: ModelState) -> list[bytes]:
        """What is published for a canister's model."""
        listed = self._objects.list(prefixes_of(canister, model.sha256, model.kv_layout))
        return sorted([bytes.fromhex(one.key.rpartition("/")[2]) async for one in listed])

    async def run(self) -> None:
        """See to it that each worker has them, until cancelled."""
        while True:
            self._changed.clear()
            for worker in list(self._workers.all):
                if worker.phase == "ready" and worker.state is not None:
                    for canister in worker.state.canisters:
                        await self._see_to(worker, canister)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), LOOK_SECONDS)

    def _look_again(self) -> None:
        self._version += 1
        self._changed.set()

    async def _see_to(self, worker: Worker, canister: CanisterState) -> None:
        mark, model = (worker.id, worker.ref.generation, canister.id), canister.model
        if model is None or self._told.get(mark) == (self._version, model):
            return
        version = self._version
        try:
            gone = unpublished_of(canister.id)
            async for one in self._objects.list(gone):
                await self._bring(worker, canister.id, bytes.fromhex(one.key.rpartition("/")[2]), b"")
            for head in await self.heads(canister.id, model):
                copy = await worker.client.chat(canister.id, PUBLISHED, path_of(head))
                if copy is not None and copy.head == head:
                    continue
                key = prefix_key(canister.id, model.sha256, model.kv_layout, head)
                container = await rows.get_at(self._objects, key, head)
                if container is not None:
                    await self._bring(worker, canister.id, head, container)
        except (WorkerLost, WorkerRefused, CanisterError, Trap) as error:
            log.info("published prompt caches could not be brought to a worker", worker=worker.id, reason=str(error))
        except Exception:
            log.exception("published prompt caches could not be brought to a worker", worker=worker.id)
            self._told[mark] = (version, model)
        else:
            self._told[mark] = (version, model)

    async def _bring(self, worker: Worker, canister: str, head: bytes, container: bytes) -> None:
        copy = ChatCopy(head if container else b"", container)
        await worker.client.put_chat(canister, PUBLISHED, path_of(head), copy)


def path_of(head: bytes) -> str:
    """Where a worker has it."""
    return f"{sessions_of(PUBLISHED)}/{head.hex()}"


def _model(worker: Worker, canister: str) -> ModelState | None:
    found = worker.canister(canister)
    return None if found is None else found.model
