"""The caller's prompt caches as they lie here. For REST only."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from canister.api.rest_records import CacheEntry, CacheList
from canister.handlers import pages
from canister.store.cache_paths import SESSIONS, sessions_of

if TYPE_CHECKING:
    from canister.runtime.call import Call
    from canister.store.stable import FileInfo

MOST_CACHES = 200  # that are told where no limit is given, since each is opened


async def list_caches(call: Call, *, limit: str | None = None, after: str | None = None) -> CacheList:
    return await asyncio.to_thread(_listed, call, asked_of(limit, after))


def asked_of(limit: str | None = None, after: str | None = None) -> pages.Asked:
    """The page of a list of caches: behind a time of writing and an id."""
    return pages.Asked.of(str(MOST_CACHES) if limit is None else limit, after, 2)


def _listed(call: Call, asked: pages.Asked) -> CacheList:
    stable, folder = call.canister.stable, call.canister.clean_folder(sessions_of(call.caller))
    before = None if asked.after is None else (asked.after[0], asked.after[1])
    found, following = asked.told(stable.newest_of(call.caller, SESSIONS, before, asked.n_needed), _place)
    n_caches, n_bytes = stable.total_of(call.caller, SESSIONS)
    caches = [_told(call, file, file.path.removeprefix(f"{folder}/")) for file in found]
    return CacheList(caches=caches, n_caches=n_caches, n_bytes=n_bytes, **following)


def _place(file: FileInfo) -> pages.Place:
    """In the list: the one written last first."""
    return file.modified_ns, file.id


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
