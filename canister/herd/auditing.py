"""Audits of a herd's calls: the door has their records and tokens, and a worker the model."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from canister.api.herd_requests import ToldRecord
from canister.dispatch.auditing import Audited
from canister.errors import CanisterBusy
from canister.handlers.receipts import Shelf, replay_of
from canister.herd.proxy import able_worker_of
from canister.herd.worker_client import WorkerLost, WorkerRefused
from canister.ic.receipts import record as records

if TYPE_CHECKING:
    from canister.herd.herd import Herd
    from canister.runtime.canister import Canister


async def audited(herd: Herd, canister: Canister, shelf: Shelf, caller: str, index: int) -> Audited:
    """Have a call decoded again by a worker, whichever has run it. Raises CanisterBusy."""
    told = await asyncio.to_thread(_told, canister, shelf, index)
    if isinstance(told, Audited):
        return told
    worker = await able_worker_of(herd, caller)
    try:
        async with worker.leased():
            return await worker.client.audit(told)
    except (WorkerLost, WorkerRefused) as error:
        raise CanisterBusy(f"{error}; ask again") from None


def _told(canister: Canister, shelf: Shelf, index: int) -> ToldRecord | Audited:
    found = shelf.chain.find(index)
    if found is None:
        is_old = index < shelf.chain.size
        return Audited(index, "not decoded", reason="its record is kept no more" if is_old else "there is no such call")
    words = replay_of(canister, records.decode(found.record), shelf).words
    return ToldRecord(canister.id, index, found.record, found.terms, words)
