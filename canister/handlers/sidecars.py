"""The sidecar beside each prompt cache, which names format and model, and so tells which caches can be used.

A cache without a valid sidecar is used only if it was uploaded, and its own header proves that this format and this
very model wrote it.
"""

from __future__ import annotations

import asyncio
from functools import lru_cache
from typing import TYPE_CHECKING

from canister.errors import Conflict
from canister.store.cache_paths import SIDECAR

if TYPE_CHECKING:
    from canister.engine.engine import Engine
    from canister.runtime.call import Call
    from canister.state.prompt_caches import OpenCache

FORMAT_ID = "llama-canister-prompt-cache-v1"
MAX_SIDECARS = 1024  # that are remembered; some hundred bytes each


def sidecar_text(engine: Engine) -> str:
    """Two lines: format id, description of the model."""
    return _content(engine.info.description).decode()


@lru_cache(maxsize=16)
def _content(description: str) -> bytes:
    return f"{FORMAT_ID}\n{description}\n".encode()


def write_sidecar(call: Call, engine: Engine, path: str) -> None:
    """Put the engine's sidecar beside the cache at `path`, in the call's unit of work, unless it is there."""
    text = _content(engine.info.description)
    if not _has_content(call, path + SIDECAR, text):
        call.work.tx.write_file(path + SIDECAR, text)


async def usable_cache(call: Call, engine: Engine, path: str) -> OpenCache | None:
    """The cache at `path`; None if there is none, or none that this engine can use. Raises Conflict for a folder."""
    stable, caches = call.canister.stable, call.canister.caches
    known = stable.stat(path)
    if known is None:
        return None
    if known.kind == "directory":
        raise Conflict(f"{path} is a folder, not a prompt cache: choose another name for --prompt-cache")
    if stable.stat(path + SIDECAR) is not None:
        if not _has_content(call, path + SIDECAR, _content(engine.info.description)):
            return None
    elif stable.upload(path) is None:
        return None
    if caches.is_open(known):
        return caches.open(known, engine.info)
    return await asyncio.to_thread(caches.open, known, engine.info)


def _has_content(call: Call, path: str, content: bytes) -> bool:
    """Is this the content of the file? What was read is remembered until the file changes."""
    known, seen = call.canister.stable.stat(path), call.canister.caches.sidecars
    if known is None or known.size != len(content):
        return False
    if seen.get(path, (None, b""))[0] != known:
        while len(seen) >= MAX_SIDECARS:
            del seen[next(iter(seen))]
        seen[path] = known, call.canister.stable.read(path, 0, known.size)
    return seen[path][1] == content
