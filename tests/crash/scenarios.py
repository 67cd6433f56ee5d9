"""One call for every method that changes something, on a server that holds some of everything."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from canister.api.management import METHODS as MANAGEMENT_METHODS
from canister.api.methods import METHODS
from canister.dispatch import Reply
from tests.crash.rig import Rig, running
from tests.harness import STORY_MODEL, someone

MODEL = "models/model.gguf"
CHUNK = bytes(range(256)) * 400  # more than redo rows take
CHAT = ("--prompt-cache", "chat.cache", "--temp", "0", "-p", "Once upon a time")

MUTATING = {method.name for method in (*METHODS, *MANAGEMENT_METHODS) if method.mode == "update"} | {"PUT files"}
"""Every update method of the tables, and the octet-stream upload, which is a door's."""


@dataclass(frozen=True)
class Scenario:
    """needs_model: the call runs on a server whose model is loaded."""

    act: Callable[[Rig], Awaitable[Reply]]
    needs_model: bool = False


def _call(name: str, arg: object = None, *, needs_model: bool = False) -> Scenario:
    return Scenario(lambda rig: rig.call(name, arg), needs_model)


def _about_itself(name: str, **others: object) -> Scenario:
    return Scenario(lambda rig: rig.call(name, {"canister_id": rig.canister.id, **others}))


def _chunk(data: bytes, offset: int, **named: str) -> dict[str, object]:
    return {**named, "chunk": data, "chunksize": len(data), "offset": offset}


SCENARIOS: dict[str, Scenario] = {
    # model
    "load_model": _call("load_model", {"args": ["--model", MODEL, "-c", "64"]}),
    "set_max_tokens": _call("set_max_tokens", {"max_tokens_update": 7, "max_tokens_query": 5}),
    # inference
    "new_chat": _call("new_chat", {"args": list(CHAT)}, needs_model=True),
    "run_update": _call("run_update", {"args": [*CHAT, "-n", "4", "--log-file", "run.log"]}, needs_model=True),
    "chats_pause": _call("chats_pause"),
    "chats_resume": _call("chats_resume"),
    # prompt caches
    "remove_prompt_cache": _call("remove_prompt_cache", {"args": ["--prompt-cache", "old.cache"]}),
    "copy_prompt_cache": _call("copy_prompt_cache", {"from": "old.cache", "to": "deep/down.cache"}),
    "upload_prompt_cache_chunk": _call("upload_prompt_cache_chunk", _chunk(b"more", 500, promptcache="old.cache")),
    # files
    "file_upload_chunk": _call("file_upload_chunk", _chunk(CHUNK, len(CHUNK), filename="big.bin")),
    "PUT files": Scenario(lambda rig: rig.stream("streamed/file.bin", CHUNK * 3)),
    "filesystem_remove": _call("filesystem_remove", {"filename": "big.bin"}),
    "recursive_dir_content_update": _call("recursive_dir_content_update", {"dir": ".", "max_entries": 0}),
    "remove_log_file": _call("remove_log_file", {"args": ["--log-file", "old.log"]}),
    "log_pause": _call("log_pause"),
    "log_resume": _call("log_resume"),
    # housekeeping
    "cache_cleanup_start_timer": _call("cache_cleanup_start_timer"),
    "cache_cleanup_stop_timer": _call("cache_cleanup_stop_timer"),
    "cache_cleanup_now": _call("cache_cleanup_now"),
    "set_cache_cleanup_config": _call("set_cache_cleanup_config", {"period_seconds": 60, "ttl_seconds": 5}),
    "cycle_balance_start_timer": _call("cycle_balance_start_timer"),
    "cycle_balance_stop_timer": _call("cycle_balance_stop_timer"),
    # access
    "set_access": _call("set_access", {"level": 1}),
    "assignAdminRole": _call("assignAdminRole", {"principal": someone(2), "role": "AdminQuery", "note": "new"}),
    "revokeAdminRole": _call("revokeAdminRole", someone(1)),
    # the management canister
    "update_settings": _about_itself(
        "update_settings", settings={"controllers": [someone(0), someone(3)], "freezing_threshold": 5}
    ),
    "provisional_top_up_canister": _about_itself("provisional_top_up_canister", amount=5_000),
    "deposit_cycles": _about_itself("deposit_cycles"),
    "start_canister": _about_itself("start_canister"),
    "stop_canister": _about_itself("stop_canister"),
    "provisional_create_canister_with_cycles": _call("provisional_create_canister_with_cycles", {"amount": 1_000}),
    "delete_canister": Scenario(
        lambda rig: rig.call("delete_canister", {"canister_id": rig.host.canisters[1].id}, rig.host.identity.principal)
    ),
}


async def furnish(data_dir: Path, *, loaded: bool) -> None:
    """Give a server some of everything that the scenarios change."""
    async with running(data_dir) as rig:
        await rig.ok("file_upload_chunk", _chunk(STORY_MODEL.read_bytes(), 0, filename=MODEL))
        await rig.ok("file_upload_chunk", _chunk(CHUNK, 0, filename="big.bin"))
        await rig.ok("file_upload_chunk", _chunk(b"# log of llama.cpp runs\n", 0, filename="old.log"))
        await rig.ok("upload_prompt_cache_chunk", _chunk(os.urandom(500), 0, promptcache="old.cache"))
        await rig.ok("set_cache_cleanup_config", {"ttl_seconds": 0})
        await rig.ok("assignAdminRole", {"principal": someone(1), "role": "AdminUpdate", "note": "old"})
        await rig.ok("cycle_balance_start_timer")
        if loaded:
            await rig.ok("chats_resume")
            await rig.ok("load_model", {"args": ["--model", MODEL, "-c", "64"]})
            await rig.ok("run_update", {"args": [*CHAT, "-n", "4"]})
        made = await rig.ok("provisional_create_canister_with_cycles", {"amount": 10**12})
        (second,) = [canister for canister in rig.host.canisters if canister.id == made.canister_id]
        await rig.ok("file_upload_chunk", _chunk(CHUNK, 0, filename="a/b.bin"), canister=second)
        await rig.ok("stop_canister", {"canister_id": second.id}, canister=second)
