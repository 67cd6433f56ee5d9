"""Which function runs which row: those of the interface, of REST, of the management canister, of dispatch.

A handler has its row's name. It takes the call, the argument if the row has one, and, by name, what a door adds: names
in a path, the host. Its text stands in the row, and a test compares its signature with it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType

from canister.handlers import (
    access,
    cache_list,
    chat,
    chat_template,
    cost,
    embed,
    files,
    folders,
    generate,
    management,
    model,
    models,
    named_chats,
    prompt_cache,
    receipts,
    status,
    tokens,
)

Handler = Callable[..., Awaitable[object]]

_INTERFACE: tuple[Handler, ...] = (
    status.health,
    status.ready,
    status.whoami,
    status.get_memory_status,
    model.load_model,
    model.set_max_tokens,
    model.get_max_tokens,
    chat.new_chat,
    chat.run_query,
    chat.run_update,
    chat.chats_pause,
    chat.chats_resume,
    chat.get_chats,
    cost.get_call_log,
    cost.estimate_run,
    receipts.get_receipt,
    prompt_cache.remove_prompt_cache,
    prompt_cache.copy_prompt_cache,
    prompt_cache.download_prompt_cache_chunk,
    prompt_cache.upload_prompt_cache_chunk,
    prompt_cache.uploaded_prompt_cache_details,
    files.file_download_chunk,
    files.file_upload_chunk,
    files.uploaded_file_details,
    files.filesystem_remove,
    files.filesystem_file_size,
    files.get_creation_timestamp_ns,
    files.recursive_dir_content_query,
    files.recursive_dir_content_update,
    files.remove_log_file,
    files.log_pause,
    files.log_resume,
    status.cache_cleanup_start_timer,
    status.cache_cleanup_stop_timer,
    status.cache_cleanup_now,
    status.get_cache_cleanup_stats,
    status.set_cache_cleanup_config,
    status.cycle_balance_start_timer,
    status.cycle_balance_stop_timer,
    status.get_cycle_balance,
    access.set_access,
    access.get_access,
    access.check_access,
    access.assignAdminRole,
    access.revokeAdminRole,
    access.getAdminRoles,
)

_REST_ONLY: tuple[Handler, ...] = (
    chat_template.props,
    chat_template.apply_template,
    tokens.tokenize,
    tokens.detokenize,
    tokens.infill_prompt,
    tokens.slots,
    named_chats.list_chats,
    named_chats.get_chat,
    named_chats.put_chat,
    named_chats.remove_chat,
    cache_list.list_caches,
    folders.list_folder,
    folders.remove_file,
    models.list_models,
    models.show_model,
    models.fit_model,
    models.fit_header,
    models.unload_model,
)

_MANAGEMENT: tuple[Handler, ...] = (
    management.canister_status,
    management.update_settings,
    management.provisional_top_up_canister,
    management.deposit_cycles,
    management.start_canister,
    management.stop_canister,
    management.provisional_create_canister_with_cycles,
    management.delete_canister,
    management.fetch_canister_logs,
)

_INTERNAL: tuple[Handler, ...] = (generate.generate, embed.embed)  # which dispatch alone calls

HANDLERS: Mapping[str, Handler] = MappingProxyType(
    {handler.__name__: handler for handler in (*_INTERFACE, *_REST_ONLY, *_MANAGEMENT, *_INTERNAL)}
)
