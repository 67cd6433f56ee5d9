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

from canister.api.herd_wire import Receipted
from canister.api.records import ApiError
from canister.dispatch.execute import Reply, Terms, run
from canister.errors import AccessDenied, BadRequest, NotFound, Trap
from canister.ic import principal
from canister.ic.principal import ANONYMOUS
from canister.ic.receipts import document, tree
from canister.ic.receipts import record as records
from canister.ic.receipts.document import Receipt, ReceiptError, Replay
from canister.runtime import access
from canister.runtime.receipts import words_of
from canister.store.cache_paths import sessions_of

if TYPE_CHECKING:
    from canister.ic.certificate import RootKey
    from canister.ic.receipts.record import ChatPart, Record
    from canister.runtime.call import Call
    from canister.runtime.canister import Canister
    from canister.state.receipts import Contents, Found
    from canister.store.container import CacheFile

MOST_LISTED = 1000

Tokens = Callable[[str, str], "CacheFile | None"]
"""A caller, and a prompt cache of the caller's → the chat as it is now, for another thread than the event loop's."""


class Chain(Protocol):
    """The records of a canister, wherever they lie; as of `state/receipts.py`. For another thread."""

    @property
    def size(self) -> int: ...

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

    def chat(caller: str, cache: str) -> CacheFile | None:
        info = canister.stable.stat(canister.clean(f"{sessions_of(caller)}/{cache}"))
        opened = None if info is None or info.kind != "file" else canister.caches.opened(info)
        return None if opened is None else opened.container

    return Shelf(canister.receipts, chat)


_LOOK = Terms(is_update=False, err=ApiError, is_limited=False)


@dataclass(frozen=True, slots=True)
class Head:
    """The head of a chain: records, the root over them, and its certificate. consistency: as of Receipt."""

    size: int
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
        is_admin = _check(call)
        return await asyncio.to_thread(
            _receipt, canister, shelf or own_shelf(canister), key, caller, is_admin, id, since
        )

    return await run(canister, "receipt", caller, handle, _LOOK)


async def list_receipts(
    canister: Canister, caller: str, cache: str | None, below: int, most: int, shelf: Shelf | None = None
) -> Reply:
    """The caller's calls on one of its prompt caches, the newest first; `Listed` rows. below: only older ones.

    cache: None: all of its calls among the newest of the canister.
    """

    async def handle(call: Call) -> list[Listed]:
        _check(call)
        return await asyncio.to_thread(
            _listed, canister, (shelf or own_shelf(canister)).chain, caller, cache, below, most
        )

    return await run(canister, "receipts", caller, handle, _LOOK)


async def certified_head(
    canister: Canister, key: RootKey, caller: str, since: int, shelf: Shelf | None = None
) -> Reply:
    """The head as it is now, certified; a `Head`."""

    async def handle(call: Call) -> Head:
        _check(call)
        return await asyncio.to_thread(_head, canister, (shelf or own_shelf(canister)).chain, key, since)

    return await run(canister, "receipt_head", caller, handle, _LOOK)


def receipted(call: Call | None, outcome: Reply | Trap) -> Receipted | None:
    """The record that a call is about to leave, for the chain of its herd; None where there are no receipts."""
    if call is None:
        return None
    if isinstance(outcome, Trap):
        made = call.make_receipt("trap", str(outcome))
    else:
        made = call.make_receipt("ok" if outcome.error is None else "err", outcome.value)
    if made is None:
        return None
    kept = made.contents
    more = () if kept is None else (kept.words, kept.argument, kept.output)
    return Receipted(records.encode(made.record), made.terms, *more)


def _check(call: Call) -> bool:
    """Is the caller one who may see the records of others? AccessDenied for the anonymous one."""
    if call.caller == ANONYMOUS:
        raise AccessDenied
    return access.allows(call.canister, call.caller, "admin_query")


def _check_makes(canister: Canister, chain: Chain) -> None:
    if canister.settings.receipts == "off" and not chain.size:
        raise NotFound("this canister makes no receipts (setting `receipts`)")


def _receipt(
    canister: Canister, shelf: Shelf, key: RootKey, caller: str, is_admin: bool, id: str, since: int
) -> Receipt:
    _check_makes(canister, shelf.chain)
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
        _certified(canister, key, found.size, found.root),
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


def _listed(canister: Canister, chain: Chain, caller: str, cache: str | None, below: int, most: int) -> list[Listed]:
    _check_makes(canister, chain)
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
    _check_makes(canister, chain)
    try:
        size, root, consistency = chain.consistency(since)
    except tree.ProofError as error:
        raise BadRequest(f"since: {error}") from None
    return Head(size, root, _certified(canister, key, size, root), key.public_key_der, since, consistency)


def _certified(canister: Canister, key: RootKey, size: int, root: bytes) -> bytes:
    data = document.certified_data(size, root)
    return key.certify(document.certified_tree(principal.from_text(canister.id), data), time.time_ns())


def _kept(canister: Canister) -> str:
    return str(canister.settings.keep_receipts or "ones")
