"""Which workers have the KV rows of which beginnings of prompts: a new chat goes where those of its own are, or gets
them there.

The index knows chains of hashes over blocks of prompts, each caller's by itself, so that nothing is shared between
callers. What it says is a guess: a worker decodes what it does not have.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from canister.errors import CanisterError, Trap
from canister.herd.ways import DEFAULT_PREFILL_TPS
from canister.herd.worker_client import WorkerLost
from canister.telemetry.logs import get_logger

if TYPE_CHECKING:
    from canister.herd.jobs import Job
    from canister.herd.known_chats import Key, KnownChat, KnownChats
    from canister.herd.transfers import Transfers
    from canister.herd.workers import Worker

BLOCK_BYTES = 256
MAX_BLOCKS = 1 << 16  # that are remembered, of all callers
MAX_BLOCKS_EACH = 1 << 10  # of one prompt
HOLDERS = 8  # workers that are remembered for a block
BYTES_PER_TOKEN = 4  # of a text, about
_NAME_BYTES = 16

log = get_logger(__name__)


def beginnings_of(canister: str, caller: str, prompt: str) -> tuple[bytes, ...]:
    """The names of a prompt's beginnings, the shortest first: one more block of BLOCK_BYTES each."""
    data = prompt.encode("utf-8", "surrogatepass")
    n_blocks = min(len(data) // BLOCK_BYTES, MAX_BLOCKS_EACH)
    name = hashlib.blake2b(f"{canister}\n{caller}".encode(), digest_size=_NAME_BYTES).digest() if n_blocks else b""
    found = []
    for at in range(0, n_blocks * BLOCK_BYTES, BLOCK_BYTES):
        name = hashlib.blake2b(data[at : at + BLOCK_BYTES], digest_size=_NAME_BYTES, key=name).digest()
        found.append(name)
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Held:
    """What a worker has of a prompt: so many blocks, as rows of this chat; None: of no chat that is kept."""

    n_blocks: int
    chat: Key | None


class PrefixIndex:
    """The blocks that were used last."""

    def __init__(self, max_blocks: int = MAX_BLOCKS) -> None:
        self._max_blocks = max_blocks
        self._holders: OrderedDict[bytes, OrderedDict[str, Key | None]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._holders)

    def note(self, beginnings: Sequence[bytes], worker: str, chat: Key | None) -> None:
        """A worker has the rows of all of these now."""
        for name in reversed(beginnings):  # so that the end of a prompt is forgotten before its start
            holders = self._holders.setdefault(name, OrderedDict())
            holders[worker] = chat
            holders.move_to_end(worker)
            if len(holders) > HOLDERS:
                holders.popitem(last=False)
            self._holders.move_to_end(name)
        while len(self._holders) > self._max_blocks:
            self._holders.popitem(last=False)

    def find(self, beginnings: Sequence[bytes]) -> dict[str, Held]:
        """By worker, the longest beginning that it has."""
        found: dict[str, Held] = {}
        for n_blocks, name in enumerate(beginnings, 1):
            holders = self._holders.get(name)
            if holders is None:
                break
            found |= {worker: Held(n_blocks, chat) for worker, chat in holders.items()}
        return found


class Prefixes:
    """The index, and what it is worth, of one leader. is_busy: has a worker a job of this chat? spawn: begins what ends
    with the leader.
    """

    def __init__(
        self,
        chats: KnownChats,
        transfers: Transfers,
        is_busy: Callable[[Key], bool],
        spawn: Callable[[Coroutine[Any, Any, object], str], asyncio.Task[Any]],
    ) -> None:
        self._index = PrefixIndex()
        self._chats = chats
        self._transfers = transfers
        self._is_busy = is_busy
        self._spawn = spawn
        self._bringing: dict[tuple[Key, str, int], asyncio.Task[None]] = {}
        self.n_brought = 0

    def note(self, job: Job, worker: str) -> None:
        """A worker has run this job."""
        if job.beginnings:
            self._index.note(job.beginnings, worker, job.keys[0] if job.settles and job.chats else None)

    def costs(
        self, job: Job, chat: KnownChat | None, able: Mapping[str, Worker]
    ) -> tuple[str | None, Callable[[str], float]]:
        """The worker that has the most of what a job begins from, and the seconds until that is at each of those that
        are able to run it. chat: that of the job, as far as it is at hand.
        """
        if chat is not None and (chat.head or not job.beginnings):
            return chat.worker, lambda id: self._transfers.seconds(chat, able[id])
        held = self._held(job)
        if not held:
            return None, lambda id: 0.0
        return max(held, key=lambda id: held[id].n_blocks), lambda id: self._seconds(job, held, able[id])

    def _held(self, job: Job) -> dict[str, Held]:
        """By worker, what it has of the job's prompt; nothing of chats that were removed since."""
        if not job.beginnings:
            return {}
        found = self._index.find(job.beginnings)
        return {worker: held for worker, held in found.items() if not self._is_removed(held.chat)}

    def _is_removed(self, key: Key | None) -> bool:
        chat = None if key is None else self._chats.at_hand(key)
        return chat is not None and not chat.head

    def _seconds(self, job: Job, held: dict[str, Held], worker: Worker) -> float:
        """Until the rows of its prompt are at this worker, as far as any has them."""
        here = self._decoding(job, held.get(worker.id), worker)
        source = self._source(job, held, worker)
        return here if source is None else min(here, source[1])

    async def bring(self, job: Job, worker: Worker) -> None:
        """Let the worker have the rows that another one has of the prompt of a new chat, if that is sooner than to
        decode it. Never fails the job.
        """
        if not (job.beginnings and job.chats) or (await self._chats.of(job.keys[0])).head:
            return
        held = self._held(job)
        source = self._source(job, held, worker)
        if source is None or source[1] >= self._decoding(job, held.get(worker.id), worker):
            return
        mark = (source[0].key, worker.id, worker.ref.generation)
        task = self._bringing.get(mark)
        if task is None:
            task = self._bringing[mark] = self._spawn(self._brought(source[0], worker), "rows of a prompt")
            task.add_done_callback(lambda _: self._bringing.pop(mark, None))
        await asyncio.shield(task)

    async def _brought(self, chat: KnownChat, worker: Worker) -> None:
        try:
            async with worker.leased():
                if await self._transfers.bring_rows(chat, worker):
                    self.n_brought += 1
        except (WorkerLost, CanisterError, Trap) as error:
            log.info("rows of a prompt could not be brought to a worker", worker=worker.id, reason=str(error))

    def _decoding(self, job: Job, held: Held | None, worker: Worker) -> float:
        """Seconds to decode what of the prompt's blocks is not held."""
        n_blocks = len(job.beginnings) - (0 if held is None else held.n_blocks)
        found = worker.canister(job.canister)
        rate = (None if found is None else found.prefill_tps) or DEFAULT_PREFILL_TPS
        return n_blocks * BLOCK_BYTES / BYTES_PER_TOKEN / rate

    def _source(self, job: Job, held: dict[str, Held], worker: Worker) -> tuple[KnownChat, float] | None:
        """The chat whose rows are worth the most at this worker, and the seconds until they are there and the rest is
        decoded.
        """
        best: tuple[KnownChat, float] | None = None
        own = held.get(worker.id)
        for other in held.values():
            if other.chat is None or (own is not None and other.n_blocks <= own.n_blocks):
                continue
            chat = self._chats.at_hand(other.chat)
            if chat is None or not chat.head or chat.worker == worker.id or self._is_busy(chat.key):
                continue
            moving = self._transfers.row_seconds(chat, worker)
            if moving is None:
                continue
            seconds = moving + self._decoding(job, other, worker)
            if best is None or seconds < best[1]:
                best = chat, seconds
        return best
