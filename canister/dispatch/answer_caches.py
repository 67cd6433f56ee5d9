"""The prompt cache of a whole answer: the caller's own that begins most like its prompt, continued or copied.

These caches lie in a folder of their own among the caller's, at most `answer_caches_per_caller` of them. Ordinary calls
copy and remove them. Two answers never use one cache at the same time, and neither waits for the other.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from canister.api.records import CopyPromptCacheInputRecord, InputRecord
from canister.dispatch.requests import execute, find_method
from canister.errors import CanisterError, Trap
from canister.runtime.answer_caches import FOLDER, CacheChoice
from canister.store.cache_paths import sessions_of

if TYPE_CHECKING:
    from canister.engine.engine import Engine
    from canister.engine.request import Tokens
    from canister.metering.fees import Charge
    from canister.runtime.canister import Canister

_NONE = np.empty(0, np.int32)
MORE_LISTED = 64  # more than the limit, which may have been lowered


@dataclass(slots=True)
class Lease:
    """A prompt cache that one answer uses. charges: of the calls that prepared it.

    grown: to be told its tokens after each call.
    """

    name: str
    charges: list[Charge] = field(default_factory=list)
    grown: Callable[[Tokens], None] = lambda _: None


def cache_of_key(key: str) -> str:
    """The name of the cache that a `prompt_cache_key` stands for."""
    return f"{FOLDER}/k-{hashlib.sha256(key.encode('utf-8', 'surrogatepass')).hexdigest()[:32]}"


@asynccontextmanager
async def passing(canister: Canister, caller: str, source: str | None = None) -> AsyncIterator[Lease]:
    """A cache of which nothing stays. source: it begins as a copy of this cache; None: empty."""
    lease = Lease(f"{FOLDER}/t-{secrets.token_hex(8)}")
    try:
        if source is not None:
            await _copy(canister, caller, source, lease)
        yield lease
    finally:
        await _remove(canister, caller, lease.name)


@asynccontextmanager
async def leased(
    canister: Canister, caller: str, engine: Engine, prompt: Tokens, named: str | None
) -> AsyncIterator[Lease]:
    """The cache for an answer to this prompt. named: the wanted one, used if it is not in use."""
    caches = canister.answer_caches
    if not caches.is_listed(caller):
        caches.put(caller, await asyncio.to_thread(_listed, canister, caller, engine))
    choice = caches.take(caller, prompt, f"{FOLDER}/{secrets.token_hex(8)}", named)
    lease = Lease(choice.name, grown=partial(caches.grown, caller, choice.name))
    try:
        if choice.source is not None:
            await _copied(canister, caller, choice, lease)
        yield lease
    finally:
        gone = caches.give_back(caller, lease.name, await _left(canister, caller, engine, lease.name))
        if gone:
            task = asyncio.create_task(_tidy(canister, caller, gone))
            caches.tidying.add(task)
            task.add_done_callback(caches.tidying.discard)


async def _left(canister: Canister, caller: str, engine: Engine, name: str) -> Tokens | None:
    """What the calls of an answer have left in its cache; None: nothing."""
    path = f"{sessions_of(caller)}/{name}"
    info = canister.stable.stat(path)
    if info is None:
        return None
    if canister.caches.is_open(info):
        return _tokens_of(canister, engine, path)
    return await asyncio.to_thread(_tokens_of, canister, engine, path)


def _listed(canister: Canister, caller: str, engine: Engine) -> list[tuple[str, Tokens]]:
    """The caller's caches from before the start, the one written longest ago first. In a worker thread."""
    folder = sessions_of(caller)
    n_most = canister.settings.answer_caches_per_caller + MORE_LISTED
    paths = canister.stable.newest_below(f"{folder}/{FOLDER}", n_most)
    return [(path.removeprefix(f"{folder}/"), _tokens_of(canister, engine, path)) for path in reversed(paths)]


def _tokens_of(canister: Canister, engine: Engine, path: str) -> Tokens:
    """The tokens in a cache; none for a cache that this model cannot use."""
    info = canister.stable.stat(path)
    try:
        cache = None if info is None else canister.caches.open(info, engine.info)
    except (CanisterError, OSError):
        return _NONE
    return _NONE if cache is None else cache.container.tokens


async def _copied(canister: Canister, caller: str, choice: CacheChoice, lease: Lease) -> None:
    """Copy the cache to begin with. Where it is gone or there is no room, the answer begins without it."""
    with contextlib.suppress(CanisterError):
        await _copy(canister, caller, str(choice.source), lease)


async def _copy(canister: Canister, caller: str, source: str, lease: Lease) -> None:
    arg = CopyPromptCacheInputRecord.model_validate({"from": source, "to": lease.name})
    reply = await execute(canister, find_method(canister, "copy_prompt_cache"), caller, lambda: arg)
    if reply.error is not None:
        raise reply.error
    if reply.charge is not None:
        lease.charges.append(reply.charge)


async def _remove(canister: Canister, caller: str, name: str) -> None:
    held = InputRecord(args=["--prompt-cache", name])
    await execute(canister, find_method(canister, "remove_prompt_cache"), caller, lambda: held)


async def _tidy(canister: Canister, caller: str, names: list[str]) -> None:
    """Remove caches. Those that cannot be removed now are found again after a restart."""
    with contextlib.suppress(CanisterError, Trap):
        for name in names:
            await _remove(canister, caller, name)
