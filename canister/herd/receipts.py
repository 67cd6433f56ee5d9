"""Receipts of a herd's calls: of the journal's chain, whichever worker ran them, and whether it is still there."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

from canister.api.herd_wire import Cost, Done
from canister.handlers.receipts import Shelf
from canister.ic.receipts import document
from canister.ic.receipts import record as records
from canister.store.cache_paths import sessions_of

if TYPE_CHECKING:
    from canister.herd.journal.journal import Journal
    from canister.runtime.canister import Canister
    from canister.store.container import Conversation


def shelf_of(journal: Journal, canister: Canister) -> Shelf:
    """The canister's receipts, and its chats as the journal has them."""

    def chat(caller: str, cache: str) -> Conversation | None:
        return journal.tokens(canister.id, caller, canister.clean(f"{sessions_of(caller)}/{cache}"))

    return Shelf(journal.receipts(canister.id), chat)


async def with_cost(journal: Journal, canister: str, done: Done) -> Done:
    """The end of a call that ended before, with what it cost, as its receipt tells."""
    if done.charge is not None or not done.receipt_id:
        return done
    index, _ = document.parse_id(done.receipt_id)
    found = await asyncio.to_thread(journal.receipts(canister).find, index)
    if found is None:  # it is kept no more
        return done
    record, limit = records.decode(found.record), document.read_terms(found.terms).get("limit")
    chat = record.chat
    cost = Cost(
        record.instructions,
        record.cycles,
        limit if isinstance(limit, int) else None,
        dict(record.parts),
        *((None, None) if chat is None else (chat.n_prompt, chat.n_generated)),
    )
    return replace(done, charge=cost, charged=False)
