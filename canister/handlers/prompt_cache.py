"""Prompt caches of the callers: where they lie, moving them in and out, removing them, and cleaning up old ones.

What stands inside a cache is the business of conversation.py.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from canister.api.records import (
    CopyPromptCacheInputRecord,
    DownloadPromptCacheInputRecord,
    FileDetailsRecord,
    FileDownloadRecord,
    FileUploadRecord,
    InputRecord,
    PromptCacheDetailsInputRecord,
    RunOutputRecord,
    StatusCodeRecord,
    UploadPromptCacheInputRecord,
)
from canister.engine.kv.slots import PUBLISHED
from canister.errors import BadRequest, CanisterError, Conflict, NotFound
from canister.handlers.arguments import parse_args
from canister.handlers.files import download_chunk, remove_sidecar, upload_chunk, upload_details
from canister.store.cache_paths import SIDECAR, sessions_of

if TYPE_CHECKING:
    from canister.runtime.call import Call

NO_NAME = "ERROR: path_session is empty "


def cache_path(call: Call, name: str) -> str:
    """Path of the caller's cache of this name. Two callers never share one. BadRequest when the name cannot be used."""
    bare = name.lstrip("/")
    if not bare:
        raise BadRequest(NO_NAME)
    if bare.endswith(SIDECAR):
        raise BadRequest(f"prompt cache name {name!r} ends in {SIDECAR}, which is kept for sidecar files")
    # `clean` refuses "..", so no name leads out of the caller's folder.
    return call.canister.clean(f"{sessions_of(call.caller)}/{bare}")


async def remove_prompt_cache(call: Call, arg: InputRecord) -> RunOutputRecord:
    path = cache_path(call, parse_args(arg).prompt_cache)
    await call.lock(path)
    if call.canister.stable.stat(path) is None:
        return RunOutputRecord(status_code=200, output=f"Cache file {path} not found. Nothing to delete.")
    remove_with_sidecar(call, path)
    return RunOutputRecord(status_code=200, output=f"Cache file {path} deleted successfully")


async def copy_prompt_cache(call: Call, arg: CopyPromptCacheInputRecord) -> StatusCodeRecord:
    source, target = cache_path(call, arg.from_), cache_path(call, arg.to)
    await call.lock(source, target)
    stable = call.canister.stable
    known = stable.stat(source)
    if known is None or known.kind != "file":
        raise NotFound(f"File {source} does not exist.")
    if source == target:
        return StatusCodeRecord()
    call.tx.copy_file(source, target)
    if stable.stat(source + SIDECAR) is not None:
        call.tx.copy_file(source + SIDECAR, target + SIDECAR)
    else:
        remove_sidecar(call, target)
    call.canister.forget_when_committed(call.work, target)
    return StatusCodeRecord()


async def download_prompt_cache_chunk(call: Call, arg: DownloadPromptCacheInputRecord) -> FileDownloadRecord:
    return download_chunk(call, cache_path(call, arg.promptcache), arg.chunksize, arg.offset)


async def upload_prompt_cache_chunk(call: Call, arg: UploadPromptCacheInputRecord) -> FileUploadRecord:
    path = cache_path(call, arg.promptcache)
    return await upload_chunk(call, path, arg.chunk, arg.chunksize, arg.offset)


async def uploaded_prompt_cache_details(call: Call, arg: PromptCacheDetailsInputRecord) -> FileDetailsRecord:
    return upload_details(call, cache_path(call, arg.promptcache))


def remove_with_sidecar(call: Call, path: str) -> None:
    known = call.canister.stable.stat(path)
    if known is not None and known.kind == "directory":
        raise Conflict(f"{path} is a folder, not a prompt cache")
    call.tx.remove(path)
    remove_sidecar(call, path)
    call.canister.forget_when_committed(call.work, path)


# -- cleaning up


@dataclass(frozen=True, slots=True)
class Cleanup:
    """Files seen, deleted, and not deleted although they should have been. A cache and its sidecar count as one."""

    examined: int
    deleted: int
    failed: int


async def clean_up(call: Call, ttl_seconds: int, max_files: int) -> Cleanup:
    """Delete the caches that nobody wrote to for `ttl_seconds`, except those of running calls and published ones."""
    if call.canister.herd.clean_up is not None:
        return Cleanup(*await call.canister.herd.clean_up(call.now_ns, ttl_seconds, max_files), 0)
    stable = call.canister.stable
    examined = deleted = failed = 0
    # Held caches are passed over, so ask for so many more.
    n_most = max_files + len(call.canister.locks)
    for path in await asyncio.to_thread(call.canister.caches.oldest, n_most, but_of=PUBLISHED):
        if examined == max_files:
            break
        if call.canister.locks.is_held(path):
            continue
        examined += 1
        known = stable.stat(path)
        # Time since the last write decides. The machine's clock may have been set back meanwhile.
        if known is None or call.now_ns - known.modified_ns < ttl_seconds * 1_000_000_000:
            continue
        await call.lock(path)
        try:
            remove_with_sidecar(call, path)
            deleted += 1
        except CanisterError:
            failed += 1
    return Cleanup(examined, deleted, failed)
