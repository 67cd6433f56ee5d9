"""What doors ask of a canister's receipts: one as a file, a list of them, the certified head.

The receipts themselves are found by `handlers/receipts.py`.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from canister.api.herd_wire import Receipted
from canister.api.records import ApiError
from canister.dispatch.execute import Reply, Terms, run
from canister.dispatch.herd_answers import made_receipt
from canister.errors import BadRequest, Trap
from canister.handlers.receipts import Chain, Shelf, certified, check_makes, check_may_ask, own_shelf, receipt_of
from canister.ic import principal
from canister.ic.receipts import document, tree
from canister.ic.receipts import record as records

if TYPE_CHECKING:
    from canister.ic.certificate import RootKey
    from canister.ic.receipts.document import Receipt
    from canister.runtime.call import Call
    from canister.runtime.canister import Canister

MOST_LISTED = 1000

_LOOK = Terms(is_update=False, err=ApiError, is_limited=False)


@dataclass(frozen=True, slots=True)
class Head:
    """The head of a chain: records, the root over them, and its certificate. consistency: as of Receipt.

    first: the number of the record from which on all are kept.
    """

    size: int
    first: int
    root: bytes
    certificate: bytes
    root_key: bytes
    since: int
    consistency: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Listed:
    """A record of the caller's chat, in brief. n_tokens: behind the call."""

    id: str
    method: str
    outcome: str
    time_ns: int
    n_tokens: int


async def find_receipt(
    canister: Canister, key: RootKey, caller: str, id: str, since: int, shelf: Shelf | None = None
) -> Reply:
    """The receipt with this id, or with this number alone; a `Receipt`. since: as of `tree.consistency_path`.

    shelf: None for the canister's own, here and below.
    """

    async def handle(call: Call) -> Receipt:
        is_admin = check_may_ask(call)
        return await asyncio.to_thread(
            receipt_of, canister, shelf or own_shelf(canister), key, caller, is_admin, id, since
        )

    return await run(canister, "receipt", caller, handle, _LOOK)


async def list_receipts(
    canister: Canister, caller: str, cache: str | None, below: int, most: int, shelf: Shelf | None = None
) -> Reply:
    """The caller's calls on one of its prompt caches, the newest first; `Listed` rows. below: only older ones.

    cache: None: all of its calls among the newest of the canister.
    """

    async def handle(call: Call) -> list[Listed]:
        check_may_ask(call)
        return await asyncio.to_thread(
            _listed, canister, (shelf or own_shelf(canister)).chain, caller, cache, below, most
        )

    return await run(canister, "receipts", caller, handle, _LOOK)


async def certified_head(
    canister: Canister, key: RootKey, caller: str, since: int, shelf: Shelf | None = None
) -> Reply:
    """The head as it is now, certified; a `Head`."""

    async def handle(call: Call) -> Head:
        check_may_ask(call)
        return await asyncio.to_thread(_head, canister, (shelf or own_shelf(canister)).chain, key, since)

    return await run(canister, "receipt_head", caller, handle, _LOOK)


def receipted(call: Call | None, outcome: Reply | Trap) -> Receipted | None:
    """The record that a call is about to leave, for the chain of its herd; None where there are no receipts."""
    if call is None:
        return None
    if isinstance(outcome, Trap):
        return made_receipt(call, "trap", str(outcome))
    return made_receipt(call, "ok" if outcome.error is None else "err", outcome.value)


def _listed(canister: Canister, chain: Chain, caller: str, cache: str | None, below: int, most: int) -> list[Listed]:
    check_makes(canister, chain)
    own, n_most = principal.from_text(caller), min(most, MOST_LISTED)
    rows = chain.newest(own, below, n_most) if cache is None else chain.of_chat(own, cache, below, n_most)
    listed: list[Listed] = []
    for number, data in rows:
        record = records.decode(data)
        chat = record.chat
        if record.caller == own and (cache is None or (chat is not None and chat.cache == cache)):
            id = document.receipt_id(number, tree.leaf_hash(data))
            n_tokens = 0 if chat is None else chat.n_after
            listed.append(Listed(id, record.method, record.outcome, record.time_ns, n_tokens))
    return listed


def _head(canister: Canister, chain: Chain, key: RootKey, since: int) -> Head:
    check_makes(canister, chain)
    try:
        first = chain.first()
        size, root, consistency = chain.consistency(since)
    except tree.ProofError as error:
        raise BadRequest(f"since: {error}") from None
    return Head(size, first, root, certified(canister, key, size, root), key.public_key_der, since, consistency)
