"""KV rows of chats in a place for objects: containers by the head of the chat. A cache, so that nothing here fails a
call.

A container is put by its owner and head, and checked when it comes back: each record against its checksums, and the
whole conversation against the head. What is not what it should be is removed, and counts as not there.
"""

from __future__ import annotations

import asyncio

from canister.errors import CanisterError, NotFound, Trap
from canister.herd.objects.objects import ObjectDamaged, Objects, ObjectsUnavailable, chat_key, once, whole
from canister.store.container import CacheDamaged, CacheFile
from canister.store.heads import head_of
from canister.telemetry.logs import get_logger

MAX_BYTES = 4 << 30

log = get_logger(__name__)


async def put(objects: Objects, owner: bytes, head: bytes, container: bytes) -> int:
    """Put a chat's container there; returns how many of its first tokens have their rows in it.

    0, and nothing put, when it is not the chat of this head any more, or has no rows. Raises as `Objects.create`.
    """
    return await put_at(objects, chat_key(owner, head), head, container)


async def put_at(objects: Objects, key: str, head: bytes, container: bytes) -> int:
    """As `put`, under another key."""
    n_rows = await asyncio.to_thread(_n_rows, container, head)
    if n_rows:
        await objects.create(key, once(container))
    return n_rows


async def get(objects: Objects, owner: bytes, head: bytes) -> bytes | None:
    """The container of a chat with this head; None when it is not there, damaged, or the place does not answer."""
    return await get_at(objects, chat_key(owner, head), head)


async def get_at(objects: Objects, key: str, head: bytes) -> bytes | None:
    """As `get`, under another key."""
    try:
        container = await whole(objects, key, MAX_BYTES)
        if await asyncio.to_thread(_n_rows, container, head):
            return container
    except NotFound:
        return None
    except ObjectsUnavailable as error:
        log.warning("rows of a chat could not be had; they are computed again", how=str(error))
        return None
    except ObjectDamaged:
        pass
    log.error("an object is damaged, and is removed; the rows of its chat are computed again", key=key)
    await _remove(objects, key)
    return None


async def forget(objects: Objects, owner: bytes, head: bytes) -> None:
    """Remove the container of a head that no chat has any more. Never raises; what stays wastes room only."""
    await _remove(objects, chat_key(owner, head))


async def _remove(objects: Objects, key: str) -> None:
    try:
        await objects.remove(key)
    except (CanisterError, Trap) as error:
        log.warning("rows that nobody needs could not be removed", key=key, how=str(error))


def _n_rows(container: bytes, head: bytes) -> int:
    """Tokens from the start with sound rows; 0 when the conversation is not that of the head."""
    try:
        cache = CacheFile.parse(container)
    except CacheDamaged:
        return 0
    if not cache.is_whole or head_of(cache) != head:
        return 0
    return sum(segment.n_live for segment in cache.segments(len(cache.tokens)))
