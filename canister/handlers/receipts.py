"""Receipts for whoever may have them: a record with its way to a head that is certified now.

Callers have those of their own calls, and what a replay needs of them; controllers and admins have all records. The
certificate is made when somebody asks, so a call costs no signature.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from canister.api.records import ReceiptInput, ReceiptRecord
from canister.engine.told_calls import words_of
from canister.errors import AccessDenied, BadRequest, NotFound
from canister.ic import principal
from canister.ic.principal import ANONYMOUS
from canister.ic.receipts import document, tree
from canister.ic.receipts import record as records
from canister.ic.receipts.document import Receipt, ReceiptError, Replay
from canister.runtime import access
from canister.store.cache_paths import sessions_of

if TYPE_CHECKING:
    from canister.ic.certificate import RootKey
    from canister.ic.receipts.record import ChatPart, Record
    from canister.runtime.call import Call
    from canister.runtime.canister import Canister
    from canister.runtime.host import Host
    from canister.state.receipts import Contents, Found
    from canister.store.container import Conversation

Tokens = Callable[[str, str], "Conversation | None"]
"""A caller, and a prompt cache of the caller's → the chat as it is now, for another thread than the event loop's."""


class Chain(Protocol):
    """The records of a canister, wherever they lie; as of `state/receipts.py`. For another thread."""

    @property
    def size(self) -> int: ...

    def first(self) -> int: ...

    def consistency(self, since: int) -> tuple[int, bytes, tuple[bytes, ...]]: ...

    def find(self, index: int, since: int = 0) -> Found | None: ...

    def contents(self, index: int) -> Contents | None: ...

    def newest(self, caller: bytes, below: int, most: int) -> list[tuple[int, bytes]]: ...

    def of_chat(self, caller: bytes, cache: str, below: int, most: int) -> list[tuple[int, bytes]]: ...


@dataclass(frozen=True, slots=True)
class Shelf:
    """Where the receipts of a canister are, and the chats that they are of."""

    chain: Chain
    chat: Tokens


def own_shelf(canister: Canister) -> Shelf:
    """Of a canister that runs its calls in this process."""

    def chat(caller: str, cache: str) -> Conversation | None:
        info = canister.stable.stat(canister.clean(f"{sessions_of(caller)}/{cache}"))
        opened = None if info is None or info.kind != "file" else canister.caches.opened(info)
        return None if opened is None else opened.container

    return Shelf(canister.receipts, chat)


async def get_receipt(call: Call, arg: ReceiptInput, *, host: Host) -> ReceiptRecord:
    is_admin, shelf = check_may_ask(call), own_shelf(call.canister)
    asked = call.canister, shelf, host.root_key, call.caller, is_admin, arg.call_id, arg.since or 0
    return await asyncio.to_thread(lambda: told(receipt_of(*asked)))


def told(receipt: Receipt) -> ReceiptRecord:
    """A receipt as the interface has it."""
    record = document.decoded(receipt)
    return ReceiptRecord(
        id=document.receipt_id(record.index, tree.leaf_hash(receipt.record)),
        caller=principal.to_text(record.caller),
        method=record.method,
        timestamp_ns=record.time_ns,
        outcome=record.outcome,
        instructions=record.instructions,
        cycles=record.cycles,
        n_records=receipt.size,
        file=document.to_cbor(receipt),
    )


def check_may_ask(call: Call) -> bool:
    """Is the caller one who may see the records of others? AccessDenied for the anonymous one."""
    if call.caller == ANONYMOUS:
        raise AccessDenied
    return access.allows(call.canister, call.caller, "admin_query")


def check_makes(canister: Canister, chain: Chain) -> None:
    """NotFound where there are no receipts, and will be none."""
    if canister.settings.receipts == "off" and not chain.size:
        raise NotFound("this canister makes no receipts (setting `receipts`)")


def receipt_of(
    canister: Canister, shelf: Shelf, key: RootKey, caller: str, is_admin: bool, id: str, since: int
) -> Receipt:
    """The receipt with this id, or with this number alone. since: as of `tree.consistency_path`.

    is_admin: the caller may see the records of others. Raises BadRequest, NotFound.
    """
    check_makes(canister, shelf.chain)
    try:
        index, leaf = document.parse_id(id)
    except ReceiptError as error:
        raise BadRequest(str(error)) from None
    try:
        found = shelf.chain.find(index, since)
    except tree.ProofError as error:
        raise NotFound(f"there is no proof for call {index}: {error}") from None
    record = None if found is None else records.decode(found.record)
    is_own = record is not None and record.caller == principal.from_text(caller)
    if found is None or record is None or not (is_own or is_admin):
        raise NotFound(f"there is no receipt {index} of a call of yours; the newest {_kept(canister)} are kept")
    if leaf and tree.leaf_hash(found.record) != leaf:
        raise NotFound(f"the record of call {index} is another one than that of {id[:80]}")
    return Receipt(
        found.size,
        found.path,
        found.record,
        found.terms,
        certified(canister, key, found.size, found.root),
        key.public_key_der,
        replay_of(canister, record, shelf) if is_own else None,
        since,
        found.since_root,
        found.consistency,
    )


def replay_of(canister: Canister, record: Record, shelf: Shelf | None = None) -> Replay:
    """What is kept of a call: its contents, or the tokens of its chat as far as they are still those behind it."""
    shelf = shelf or own_shelf(canister)
    kept = shelf.chain.contents(record.index)
    if kept is not None:
        return Replay(kept.words, kept.argument, kept.output)
    words = b"" if record.chat is None else _words_now(shelf, principal.to_text(record.caller), record.chat)
    return Replay(words)


def _words_now(shelf: Shelf, caller: str, chat: ChatPart) -> bytes:
    held = shelf.chat(caller, chat.cache) if chat.cache else None
    if held is None:
        return b""
    words = words_of(held.tokens, held.generated, held.starts, held.redrawn)[: 4 * chat.n_after]
    return words if records.words_hash(words) == chat.after else b""


def certified(canister: Canister, key: RootKey, size: int, root: bytes) -> bytes:
    """A certificate of this head, signed now."""
    data = document.certified_data(size, root)
    return key.certify(document.certified_tree(principal.from_text(canister.id), data), time.time_ns())


def _kept(canister: Canister) -> str:
    return str(canister.settings.keep_receipts or "ones")
