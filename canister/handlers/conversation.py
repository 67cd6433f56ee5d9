"""A conversation between two calls: the prompt cache as the engine wants it, and what a call adds to it.

The tokens of a cache are the truth; its KV rows are a cache of their own, used as far as they are sound and fit, and
computed again otherwise. Beside each cache stands a sidecar that names format and model; a cache without a valid
sidecar is not used, unless it was uploaded and its own header proves that this format and this very model wrote it.
"""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from canister.engine.kv.slots import MIN_SHARED
from canister.engine.request import boundaries, last_boundary
from canister.errors import CanisterError, Conflict
from canister.store.cache_paths import SIDECAR, sessions_of
from canister.store.container import CacheHeader
from canister.telemetry.logs import get_logger

if TYPE_CHECKING:
    from canister.engine.engine import Engine
    from canister.engine.request import Flags, GenerateResult, KvSegment, Tokens
    from canister.runtime.call import Call
    from canister.state.prompt_caches import OpenCache

log = get_logger(__name__)

FORMAT_ID = "llama-canister-prompt-cache-v1"
MAX_SIDECARS = 1024  # that are remembered; some hundred bytes each

NO_TOKENS: Tokens = np.empty(0, np.int32)
NO_FLAGS: Flags = np.empty(0, np.bool_)


@dataclass(frozen=True, slots=True)
class Conversation:
    """What is known of a chat when a call begins.

    tokens: those in the cache, empty for a cold start. generated: which of them were generated, not prompt.
    starts: with which prompt tokens a decode began, for engines that repeat the cut; else nothing is marked.
    seed: kept with the cache since the chat's first call. cache: the container behind it, None for a cold start.
    """

    path: str | None
    tokens: Tokens
    generated: Flags
    starts: Flags
    seed: int
    cache: OpenCache | None


async def begin(call: Call, engine: Engine, path: str | None, seed: int | None) -> Conversation:
    """The conversation that the cache at `path` holds; a cold start without a path, or when the cache is not usable."""
    cache = await _usable_cache(call, engine, path) if path is not None else None
    if cache is None:
        return Conversation(path, NO_TOKENS, NO_FLAGS, NO_FLAGS, secrets.randbits(32) if seed is None else seed, None)
    container = cache.container
    kept_seed = container.header.seed if seed is None else seed
    return Conversation(path, container.tokens, container.generated, _cut(engine, cache), kept_seed, cache)


def _cut(engine: Engine, cache: OpenCache) -> Flags:
    starts = cache.container.starts
    return starts if engine.info.policy.repeats_cut else np.zeros_like(starts)


def n_whole(conversation: Conversation, n_tokens: int) -> int:
    """As many of the first n tokens as whole decodes gave; what follows was decoded together with what is not kept."""
    return last_boundary(boundaries(conversation.generated, conversation.starts), n_tokens)


def stored_rows(conversation: Conversation, engine: Engine, n_tokens: int) -> list[KvSegment]:
    """KV rows of the first n tokens, as far as they are sound and fit the engine's context. Runs on its thread."""
    cache = conversation.cache
    if cache is None or not cache.fits(engine.info):
        return []
    try:
        return cache.segments(n_tokens)
    except (CanisterError, OSError):
        return []  # the tokens are at hand: what cannot be read is computed again


def n_stored_rows(conversation: Conversation, engine: Engine, n_tokens: int) -> int:
    """Of how many of the first n tokens the container should have usable rows."""
    cache = conversation.cache
    return cache.container.n_with_rows(n_tokens) if cache is not None and cache.fits(engine.info) else 0


async def fetch(call: Call, engine: Engine, conversation: Conversation, prompt: Tokens, n_cached: int) -> None:
    """Read what a run can start from into the engine's memory, if it is not at hand there.

    That is the run's own container, and where its prompt goes beyond it, the one of the caller's that begins most like
    the prompt.
    """
    nearby, caches, path = engine.nearby, call.canister.caches, conversation.path
    flags = np.zeros(len(prompt), np.bool_)
    flags[:n_cached] = conversation.generated[:n_cached]
    n_own = nearby.n_own(path, prompt, flags)
    if n_own >= n_cached and n_own + MIN_SHARED > len(prompt):
        return
    n_near = nearby.n_at_hand(call.caller, prompt, flags)
    own, folder = conversation.cache, sessions_of(call.caller)
    wants_own = own is not None and n_cached >= n_near + MIN_SHARED and own.fits(engine.info)
    n_least = (n_cached if wants_own else n_near) + MIN_SHARED
    wants_other = n_cached < len(prompt) >= n_least and caches.may_have(folder, prompt, flags, n_least)
    if not (wants_own or wants_other) or not nearby.has_room(n_near + MIN_SHARED):
        return

    def read() -> None:
        if wants_own and path is not None and own is not None:
            goes_on = n_cached == len(prompt)  # else the prompt's own logits are the next that count
            marks = prompt[:n_cached], flags[:n_cached], conversation.starts[:n_cached]
            nearby.park(path, call.caller, *marks, caches.segments_into(own, nearby.take), with_logits=goes_on)
        if wants_other:
            found = caches.closest(folder, engine.info, prompt, flags, n_least=n_least)
            if found is not None:
                other, n = found
                segments = caches.segments_into(other, nearby.take)
                nearby.park(other.info.path, call.caller, prompt[:n], flags[:n], _cut(engine, other)[:n], segments)

    try:
        await asyncio.to_thread(read)
    except (CanisterError, OSError) as error:
        log.info("stored KV rows could not be read", path=path, reason=str(error))


async def write(
    call: Call,
    engine: Engine,
    conversation: Conversation,
    n_reused: int,
    decoded: Tokens,
    n_prompt: int,
    result: GenerateResult,
) -> None:
    """Add to the call's transaction what it did: `decoded` tokens after the first n_reused, n_prompt of them prompt."""
    assert conversation.path is not None
    flags = np.arange(len(decoded)) >= n_prompt
    cache, caches = conversation.cache, call.canister.caches
    starts = None if result.starts is None else result.starts[: n_reused + len(decoded)]
    is_cut_so = starts is None or np.array_equal(starts[:n_reused], conversation.starts[:n_reused])
    if cache is not None and cache.can_grow and result.rows_first >= n_reused and is_cut_so:
        caches.append(
            call.work, cache, n_reused, decoded, flags, result.rows, None if starts is None else starts[n_reused:]
        )
    else:
        await asyncio.to_thread(
            caches.write,
            call.work,
            conversation.path,
            CacheHeader(
                engine.info.model_id,
                conversation.seed if cache is None else cache.container.header.seed,
                engine.info.kv_layout,
            ),
            cache,
            np.concatenate([conversation.tokens[:n_reused], decoded]),
            np.concatenate([conversation.generated[:n_reused], flags]),
            result.rows,
            result.rows_first,
            starts,
        )
    stamp = sidecar_text(engine).encode()
    sidecar = conversation.path + SIDECAR
    if not _has_content(call, sidecar, stamp):
        call.tx.write_file(sidecar, stamp)


def _has_content(call: Call, path: str, content: bytes) -> bool:
    """Does this file say just that? What was read of it is remembered until it changes."""
    known, seen = call.canister.stable.stat(path), call.canister.caches.sidecars
    if known is None or known.size != len(content):
        return False
    if seen.get(path, (None, b""))[0] != known:
        while len(seen) >= MAX_SIDECARS:
            del seen[next(iter(seen))]
        seen[path] = known, call.canister.stable.read(path, 0, known.size)
    return seen[path][1] == content


def sidecar_text(engine: Engine) -> str:
    """Two lines: format id, description of the model."""
    return f"{FORMAT_ID}\n{engine.info.description}\n"


async def _usable_cache(call: Call, engine: Engine, path: str) -> OpenCache | None:
    stable, caches = call.canister.stable, call.canister.caches
    known = stable.stat(path)
    if known is None:
        return None
    if known.kind == "directory":
        raise Conflict(f"{path} is a folder, not a prompt cache: choose another name for --prompt-cache")
    if stable.stat(path + SIDECAR) is not None:
        if not _has_content(call, path + SIDECAR, sidecar_text(engine).encode()):
            return None
    elif stable.upload(path) is None:
        return None
    if caches.is_open(known):
        return caches.open(known, engine.info)
    return await asyncio.to_thread(caches.open, known, engine.info)
