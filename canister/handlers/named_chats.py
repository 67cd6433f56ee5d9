"""The named conversations that a caller keeps here: their messages, beside the prompt cache.

    .canister_cache/<caller>/chats/<name>.json       messages and settings, written by the client after every turn
    .canister_cache/<caller>/sessions/chat-<name>    the prompt cache that its run_update calls use

The messages alone are enough to continue, since a prompt cache that was cleaned up is computed again. Only REST offers
these.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING

from canister.api.rest_records import Chat, ChatEntry, ChatInput, ChatList
from canister.errors import BadRequest, NotFound, StoreDamaged
from canister.handlers import pages
from canister.handlers.prompt_cache import cache_path, remove_with_sidecar
from canister.store.cache_paths import CACHE_FOLDER, SIDECAR
from canister.store.paths import name_of, parent_of

if TYPE_CHECKING:
    from canister.runtime.call import Call
    from canister.store.stable import FileInfo

AREA = "chats"
SUFFIX = ".json"
_NAME = re.compile(r"[^\W_][\w.-]{0,59}")


async def list_chats(call: Call, *, limit: str | None = None, after: str | None = None) -> ChatList:
    asked = pages.Asked.of(limit, after, 2)
    before = None if asked.after is None else (asked.after[0], asked.after[1])
    found, following = asked.told(await asyncio.to_thread(_newest, call, before, asked.n_needed), _place)
    chats = [
        ChatEntry(name=name, modified_ns=file.modified_ns, cache_bytes=_cache_bytes(call, name))
        for file in found
        if (name := _name_of(file.path)) is not None
    ]
    return ChatList(chats=chats, **following)


def _newest(call: Call, before: tuple[int, int] | None, n_most: int | None) -> list[FileInfo]:
    """The caller's chats behind that place, past files that are none."""
    kept: list[FileInfo] = []
    while True:
        found = call.canister.stable.newest_of(call.caller, AREA, before, n_most)
        kept += [file for file in found if _is_chat(call, file)]
        if n_most is None or len(found) < n_most or len(kept) >= n_most:
            return kept[:n_most]
        before = _place(found[-1])


def _place(file: FileInfo) -> tuple[int, int]:
    """In the list: the one written last first."""
    return file.modified_ns, file.id


def _is_chat(call: Call, file: FileInfo) -> bool:
    return parent_of(file.path) == _folder(call) and _name_of(file.path) is not None


async def get_chat(call: Call, *, name: str) -> Chat:
    path = _path(call, name)
    known = call.canister.stable.stat(path)
    if known is None or known.kind != "file":
        raise _no_such(name)
    data = call.canister.stable.read(path, 0, known.size)
    try:
        kept = await asyncio.to_thread(ChatInput.model_validate_json, data)
    except ValueError:
        raise StoreDamaged(f"chat {name!r} cannot be read; remove it") from None
    return Chat(name=name, modified_ns=known.modified_ns, **dict(kept))


async def put_chat(call: Call, arg: ChatInput, *, name: str) -> Chat:
    path = _path(call, name)
    if name.endswith(SIDECAR):
        raise BadRequest(f"{name!r} is no name of a chat: {SIDECAR} is kept for files beside prompt caches")
    await call.lock(path)
    data = await asyncio.to_thread(arg.model_dump_json, exclude_unset=True)
    call.tx.write_file(path, data.encode())
    return Chat(name=name, modified_ns=call.now_ns, **dict(arg))


async def remove_chat(call: Call, *, name: str) -> None:
    path, cache = _path(call, name), _cache_path(call, name)
    await call.lock(path, *([] if cache is None else [cache]))
    known = call.canister.stable.stat(path)
    if known is None or known.kind != "file":
        raise _no_such(name)
    call.tx.remove(path)
    if cache is not None and _cache_bytes(call, name):
        remove_with_sidecar(call, cache)


def cache_name(name: str) -> str:
    """The client's `--prompt-cache` for the chat of this name."""
    return f"chat-{name}"


def _folder(call: Call) -> str:
    return call.canister.clean_folder(f"{CACHE_FOLDER}/{call.caller}/{AREA}")


def _path(call: Call, name: str) -> str:
    if not _NAME.fullmatch(name):
        raise BadRequest(f"{name[:80]!r} is no name of a chat: letters, digits and _ . - inside, at most 60")
    return call.canister.clean(f"{CACHE_FOLDER}/{call.caller}/{AREA}/{name}{SUFFIX}")


def _name_of(path: str) -> str | None:
    """The chat in a file of the folder; None for a file that somebody else has put there."""
    name = name_of(path)
    bare = name.removesuffix(SUFFIX)
    return bare if bare != name and _NAME.fullmatch(bare) else None


def _cache_path(call: Call, name: str) -> str | None:
    """None for a chat of an earlier version whose name no prompt cache can have."""
    return None if name.endswith(SIDECAR) else cache_path(call, cache_name(name))


def _cache_bytes(call: Call, name: str) -> int:
    path = _cache_path(call, name)
    known = None if path is None else call.canister.stable.stat(path)
    return 0 if known is None or known.kind != "file" else known.size


def _no_such(name: str) -> NotFound:
    return NotFound(f"there is no chat {name!r}")
