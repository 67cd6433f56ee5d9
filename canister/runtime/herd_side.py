"""What a canister has for the private door of a herd: heads of its chats, marks, and the jobs that run.

Empty and without cost where no herd uses it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from canister.api.herd_frames import Frame
from canister.runtime.live_answers import LiveAnswer
from canister.state.chat_heads import ChatHeads
from canister.state.herd_marks import HerdMarks
from canister.state.prompt_caches import Caches
from canister.store.database import Database
from canister.store.stable import StableMemory

CleanUp = Callable[[int, int, int], Awaitable[tuple[int, int]]]
"""now_ns, ttl_seconds, max_files → how many chats were examined, and deleted."""


class HerdSide:
    """jobs: those that run, by id, with what they have said so far. clean_up: of chats that lie elsewhere, as those of
    a herd's mirror do, in place of the canister's own. worker: the id of this process in its herd; None: there is none.
    """

    def __init__(self, database: Database, stable: StableMemory, caches: Caches) -> None:
        self.marks = HerdMarks(database)
        self.heads = ChatHeads(stable, caches)
        self.jobs: dict[bytes, LiveAnswer[Frame]] = {}
        self.clean_up: CleanUp | None = None
        self.worker: str | None = None
