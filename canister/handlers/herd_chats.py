"""Chats as a herd moves them between its workers: put here as they are elsewhere, and fetched from here."""

from __future__ import annotations

import asyncio
import hashlib
from typing import TYPE_CHECKING

from canister.api.herd_requests import MAX_CHAT_BYTES
from canister.errors import BadRequest, Conflict, NotFound
from canister.handlers.files import remove_sidecar
from canister.handlers.prompt_cache import remove_with_sidecar
from canister.handlers.sidecars import sidecar_text
from canister.store.cache_paths import SIDECAR, sessions_folder, sessions_of
from canister.store.container import CacheDamaged, CacheFile
from canister.store.heads import NO_CHAT, head_of, tokens_alone

if TYPE_CHECKING:
    from canister.runtime.call import Call


def chat_path(call: Call, path: str) -> str:
    """The clean path of a chat of this caller. BadRequest for another one."""
    clean = call.canister.clean(path)
    if sessions_folder(clean) != sessions_of(call.caller):
        raise BadRequest(f"{path} is no prompt cache of {call.caller}")
    return clean


async def put_chat(call: Call, path: str, data: bytes, head: bytes | None = None) -> None:
    """Let the chat be exactly what this container holds; no bytes: remove it. Raises BadRequest, Conflict.

    head: that of the container; one with another head is refused.
    KV rows that are here already are kept, as far as the conversations agree. The engine's memory is left alone, since
    what it has of a chat is used only as far as its tokens agree.
    """
    call.cost(0)
    path = chat_path(call, path)
    await call.canister.model.loaded()
    await call.lock(path)
    stable, caches = call.canister.stable, call.canister.caches
    known = stable.stat(path)
    if known is not None and known.kind == "directory":
        raise Conflict(f"{path} is a folder, not a prompt cache")
    if not data:
        _check_head(NO_CHAT, head)
        if known is not None:
            remove_with_sidecar(call, path)
        return
    engine = call.canister.model.engine

    def put() -> None:
        wanted = _parsed(data)
        _check_head(head_of(wanted), head)
        before = None if known is None else caches.opened(known)
        if engine is not None and engine.info.model_id == wanted.header.model_sha256:
            caches.put(call.work, path, wanted, before, engine.info.kv_layout)
            call.tx.write_file(path + SIDECAR, sidecar_text(engine).encode())
        else:  # it may be loaded later; the container itself then proves that it fits, as an uploaded one does
            _, whole = wanted.compacted()
            call.tx.write_file(path, whole)
            call.tx.set_upload(path, len(whole), hashlib.sha256(whole).hexdigest(), 0)
            remove_sidecar(call, path)
            call.canister.forget_when_committed(call.work, path)

    await asyncio.to_thread(put)


def _parsed(data: bytes) -> CacheFile:
    try:
        container = CacheFile.parse(data)
    except CacheDamaged as error:
        raise BadRequest(f"the body is no container: {error}") from None
    if not container.is_whole:
        raise BadRequest(f"the container is damaged after byte {container.size} of {len(data)}")
    return container


def _check_head(found: bytes, wanted: bytes | None) -> None:
    if wanted is not None and found != wanted:
        raise BadRequest(f"the container is not the chat that was promised: its head is {found.hex()}")


async def get_chat(call: Call, path: str, *, rows: bool) -> tuple[bytes, bytes]:
    """The container of a chat and its head. The container has its tokens, with `rows` its KV rows too, unless it is
    larger than MAX_CHAT_BYTES then. Raises NotFound.
    """
    call.cost(0)
    path = chat_path(call, path)
    known = call.canister.stable.stat(path)
    if rows:  # which are read from the file
        await call.lock(path)
        known = call.canister.stable.stat(path)
    cache = None
    if known is not None and known.kind == "file":
        cache = await asyncio.to_thread(call.canister.caches.opened, known)
    if known is None or cache is None:
        raise NotFound(f"there is no chat {path}")
    container = cache.container
    if rows and known.size <= MAX_CHAT_BYTES:
        _, data = await asyncio.to_thread(container.compacted)
        return data, head_of(container)
    return tokens_alone(container), head_of(container)
