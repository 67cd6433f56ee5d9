"""The caller's prompt caches as they lie here. For REST only."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from canister.api.rest_records import CacheEntry, CacheList
from canister.store.cache_paths import SIDECAR, sessions_of

if TYPE_CHECKING:
    from canister.runtime.call import Call
    from canister.store.stable import FileInfo

MOST_CACHES = 200  # that are told in detail


async def list_caches(call: Call) -> CacheList:
    return await asyncio.to_thread(_listed, call)


def _listed(call: Call) -> CacheList:
    folder = call.canister.clean_folder(sessions_of(call.caller))
    below = call.canister.stable.walk(folder) or []
    found = [file for file in below if file.kind == "file" and not file.path.endswith(SIDECAR)]
    found.sort(key=lambda file: file.modified_ns, reverse=True)
    return CacheList(
        caches=[_told(call, file, file.path.removeprefix(f"{folder}/")) for file in found[:MOST_CACHES]],
        n_caches=len(found),
        n_bytes=sum(file.size for file in found),
    )


def _told(call: Call, file: FileInfo, name: str) -> CacheEntry:
    engine = call.canister.model.engine
    known = call.canister.caches.opened(file)
    model = None if engine is None else engine.info.model_id
    return CacheEntry(
        name=name,
        bytes=file.size,
        modified_ns=file.modified_ns,
        tokens=None if known is None else len(known.container.tokens),
        is_usable=None if known is None else known.container.header.model_sha256 == model,
        tier="file" if engine is None else engine.tier_of(file.path),
    )
