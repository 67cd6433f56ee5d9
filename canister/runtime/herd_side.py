"""What a canister has for the private door of a herd: heads of its chats, marks, and the jobs that run.

Empty and without cost where no herd uses it.
"""

from __future__ import annotations

from canister.api.herd_wire import Frame
from canister.runtime.live_answers import LiveAnswer
from canister.state.chat_heads import ChatHeads
from canister.state.herd_marks import HerdMarks
from canister.state.prompt_caches import Caches
from canister.store.database import Database
from canister.store.stable import StableMemory


class HerdSide:
    """jobs: those that run, by id, with what they have said so far."""

    def __init__(self, database: Database, stable: StableMemory, caches: Caches) -> None:
        self.marks = HerdMarks(database)
        self.heads = ChatHeads(stable, caches)
        self.jobs: dict[bytes, LiveAnswer[Frame]] = {}
