"""What is answered from the journal, since no single worker knows it: chats and caches, the call log, cycles."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from canister.api.management import CanisterStatus, TopUpRecord
from canister.api.records import (
    CallLogEntry,
    CallLogInput,
    ChatRecord,
    CycleBalanceRecord,
    GetChatsRecord,
    ReceiptInput,
)
from canister.api.rest_records import CacheEntry, CacheList
from canister.dispatch import Reply
from canister.dispatch.receipts import find_receipt
from canister.dispatch.requests import execute
from canister.handlers.cache_list import asked_of
from canister.handlers.cost import DEFAULT_ENTRIES, MAX_ENTRIES, call_log_entry
from canister.handlers.receipts import told
from canister.herd.receipts import shelf_of
from canister.ic.receipts.document import Receipt
from canister.runtime import access
from canister.store.cache_paths import sessions_of

if TYPE_CHECKING:
    from canister.api.methods import Method
    from canister.herd.journal.journal import Journal
    from canister.ic.certificate import RootKey
    from canister.runtime.canister import Canister


class Readings:
    """Of one journal. key: of the servers that share it."""

    def __init__(self, journal: Journal, key: Callable[[], RootKey]) -> None:
        self._journal = journal
        self._key = key

    async def read(
        self, canister: Canister, method: Method, caller: str, arg: object, named: Mapping[str, object]
    ) -> Reply:
        """The reply to a caller who may ask. The mirror says when it is refused. named: of the path and its query."""
        if isinstance(arg, CallLogInput):
            return Reply(await self._calls(canister, caller, arg))
        if isinstance(arg, ReceiptInput):
            shelf, key = shelf_of(self._journal, canister), self._key()
            found = await find_receipt(canister, key, caller, arg.call_id, arg.since or 0, shelf)
            return replace(found, value=told(found.value)) if isinstance(found.value, Receipt) else found
        reply = await execute(canister, method, caller, lambda: arg, named=named)
        if reply.error is not None:
            return reply
        if isinstance(arg, TopUpRecord):
            await self._journal.log(canister.id, caller, method.name, time.time_ns(), cycles_added=arg.amount)
            return reply
        if isinstance(reply.value, CacheList):
            return Reply(await self._caches(canister, caller, named), charge=reply.charge)
        if isinstance(reply.value, CanisterStatus | CycleBalanceRecord):
            cycles = await self._journal.cycles(canister.id)
            return Reply(reply.value if cycles is None else _with(reply.value, cycles), charge=reply.charge)
        saved = await self._journal.saved_chats(canister.id, caller)
        chats = [ChatRecord(timestamp=chat.timestamp, chat=chat.chat) for chat in saved]
        return Reply(GetChatsRecord(chats=chats), charge=reply.charge)

    async def _caches(self, canister: Canister, caller: str, named: Mapping[str, object]) -> CacheList:
        """A worker has the rows of each; which one is nobody's business."""
        asked = asked_of(*(None if name not in named else str(named[name]) for name in ("limit", "after")))
        before = None if asked.after is None else (asked.after[0], asked.after[1])
        rows, n_caches = await self._journal.newest_chats(canister.id, caller, before, asked.n_needed)
        found, following = asked.told(rows, lambda row: (row[1].changed_ns, row[0]))
        folder = sessions_of(caller)
        return CacheList(
            caches=[
                CacheEntry(
                    name=chat.path.removeprefix(f"{folder}/"),
                    bytes=None,
                    modified_ns=chat.changed_ns,
                    tokens=chat.n_tokens,
                    is_usable=None,
                    tier="worker",
                )
                for _, chat in found
            ],
            n_caches=n_caches,
            n_bytes=None,
            **following,
        )

    async def _calls(self, canister: Canister, caller: str, arg: CallLogInput) -> list[CallLogEntry]:
        whose = None if access.allows(canister, caller, "admin_query") else caller
        n_most = min(DEFAULT_ENTRIES if arg.max_entries is None else arg.max_entries, MAX_ENTRIES)
        return [call_log_entry(row) for row in await self._journal.call_log(canister.id, whose, arg.before_id, n_most)]


def _with(told: CanisterStatus | CycleBalanceRecord, cycles: int) -> CanisterStatus | CycleBalanceRecord:
    if isinstance(told, CanisterStatus):
        return told.model_copy(update={"cycles": max(0, cycles)})
    return told.model_copy(update={"cycle_balance": cycles})
