"""The canister's interface: every public method, once.

This table is the only list of methods. The REST routes, OpenAPI, `canister.did`, the command line's completion and
docs/methods.md are made from it; a method that is not here does not exist. A row says what the handler's signature
cannot: query or update, who may call, and how errors look. Names, types and texts come from the handler.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal

from canister.api.records import ApiError, Record, RunOutputRecord
from canister.handlers import access, chat, cost, files, model, prompt_cache, status
from canister.runtime import access as guards
from canister.runtime.call import Call

Mode = Literal["query", "update"]
Guard = Callable[[Call], None]


@dataclass(frozen=True, slots=True)
class Method:
    """One row. arg: type of the one argument, or None. err: the type inside `Err`; None for a bare result.

    runs_stopped: also while the canister is stopped, as the methods of the management canister do.
    """

    name: str
    mode: Mode
    guard: Guard
    handler: Callable[..., Awaitable[object]]
    arg: Any
    ok: Any
    err: type[Record] | None
    runs_stopped: bool = False

    @property
    def doc(self) -> str:
        return inspect.getdoc(self.handler) or ""


def _method(mode: Mode, handler: Callable[..., Awaitable[object]], guard: Guard, err: type[Record] | None) -> Method:
    hints = typing.get_type_hints(handler, include_extras=True, localns={"Call": Call})
    return Method(handler.__name__, mode, guard, handler, hints.get("arg"), hints["return"], err)


def query(handler: Callable[..., Awaitable[object]], guard: Guard, err: type[Record] | None = ApiError) -> Method:
    return _method("query", handler, guard, err)


def update(handler: Callable[..., Awaitable[object]], guard: Guard, err: type[Record] | None = ApiError) -> Method:
    return _method("update", handler, guard, err)


Run = RunOutputRecord  # the inference methods report their errors in the record that they answer with

METHODS: tuple[Method, ...] = (
    # canister
    query(status.health, guards.anyone),
    query(status.ready, guards.anyone),
    query(status.whoami, guards.anyone, err=None),
    query(status.get_memory_status, guards.named),
    # model
    update(model.load_model, guards.admin_update, err=Run),
    update(model.set_max_tokens, guards.admin_update),
    query(model.get_max_tokens, guards.anyone, err=None),
    # inference
    update(chat.new_chat, guards.inference_update, err=Run),
    query(chat.run_query, guards.inference_query, err=Run),
    update(chat.run_update, guards.inference_update, err=Run),
    update(chat.chats_pause, guards.inference_update),
    update(chat.chats_resume, guards.inference_update),
    query(chat.get_chats, guards.inference_query),
    # what calls cost
    query(cost.get_call_log, guards.named),
    query(cost.estimate_run, guards.inference_query),
    # prompt caches
    update(prompt_cache.remove_prompt_cache, guards.inference_update, err=Run),
    update(prompt_cache.copy_prompt_cache, guards.inference_update),
    query(prompt_cache.download_prompt_cache_chunk, guards.admin_query),
    update(prompt_cache.upload_prompt_cache_chunk, guards.admin_update),
    query(prompt_cache.uploaded_prompt_cache_details, guards.admin_query),
    # files
    query(files.file_download_chunk, guards.admin_query),
    update(files.file_upload_chunk, guards.admin_update),
    query(files.uploaded_file_details, guards.admin_query),
    update(files.filesystem_remove, guards.admin_update),
    query(files.filesystem_file_size, guards.admin_query),
    query(files.get_creation_timestamp_ns, guards.admin_query),
    query(files.recursive_dir_content_query, guards.admin_query),
    update(files.recursive_dir_content_update, guards.admin_update),
    update(files.remove_log_file, guards.admin_update, err=Run),
    update(files.log_pause, guards.admin_update),
    update(files.log_resume, guards.admin_update),
    # housekeeping
    update(status.cache_cleanup_start_timer, guards.admin_update),
    update(status.cache_cleanup_stop_timer, guards.admin_update),
    update(status.cache_cleanup_now, guards.admin_update),
    query(status.get_cache_cleanup_stats, guards.admin_query),
    update(status.set_cache_cleanup_config, guards.admin_update),
    update(status.cycle_balance_start_timer, guards.admin_update),
    update(status.cycle_balance_stop_timer, guards.admin_update),
    query(status.get_cycle_balance, guards.admin_query),
    # access
    update(access.set_access, guards.controller),
    query(access.get_access, guards.admin_query),
    query(access.check_access, guards.inference_query),
    update(access.assignAdminRole, guards.controller),
    update(access.revokeAdminRole, guards.controller),
    query(access.getAdminRoles, guards.controller),
)

BY_NAME: dict[str, Method] = {method.name: method for method in METHODS}

STREAMED = frozenset({"run_query", "run_update"})
"""Over REST these hand out their text while they run, to who asks for it."""
