"""Where the rows of the interface are run in a herd: every row in exactly one class.

mirror     in the herd's own process, which has the small state and the files, but no model and no chats
control    in the mirror, and in order at every worker, since it changes what all of them have
model      as control, but answered by the first worker, since the mirror has no model
chat       as a job: by one worker, settled in the journal
ask        by a worker that has the chat and the model; it changes nothing
journal    answered from the journal, which knows of all workers
alone      not in a herd: it would make something that only the mirror has
"""

from __future__ import annotations

from typing import Literal

from canister.api import management, methods, rest_only
from canister.api.methods import Method

Class = Literal["mirror", "control", "model", "chat", "ask", "journal", "alone"]

_OF_INTERFACE: dict[Class, tuple[str, ...]] = {
    "mirror": (
        "health",
        "whoami",
        "get_max_tokens",
        "file_download_chunk",
        "uploaded_file_details",
        "filesystem_file_size",
        "get_creation_timestamp_ns",
        "recursive_dir_content_query",
        "get_cache_cleanup_stats",
        "get_access",
        "check_access",
        "getAdminRoles",
    ),
    "control": (
        "set_max_tokens",
        "chats_pause",
        "chats_resume",
        "file_upload_chunk",
        "filesystem_remove",
        "recursive_dir_content_update",
        "remove_log_file",
        "log_pause",
        "log_resume",
        "cache_cleanup_start_timer",
        "cache_cleanup_stop_timer",
        "cache_cleanup_now",
        "set_cache_cleanup_config",
        "cycle_balance_start_timer",
        "cycle_balance_stop_timer",
        "set_access",
        "assignAdminRole",
        "revokeAdminRole",
    ),
    "model": ("load_model",),
    "chat": ("new_chat", "run_update", "remove_prompt_cache", "copy_prompt_cache", "upload_prompt_cache_chunk"),
    "ask": (
        "run_query",
        "estimate_run",
        "ready",
        "get_memory_status",
        "download_prompt_cache_chunk",
        "uploaded_prompt_cache_details",
    ),
    "journal": ("get_chats", "get_call_log", "get_receipt", "get_cycle_balance"),
}

_BESIDE_IT: dict[Class, tuple[str, ...]] = {
    "mirror": (
        "list_chats",
        "get_chat",
        "put_chat",
        "list_folder",
        "list_models",
        "show_model",
        "fit_model",
        "fit_header",
    ),
    "control": ("remove_file",),
    "journal": ("list_caches",),
    "alone": (
        "props",
        "apply_template",
        "tokenize",
        "detokenize",
        "infill_prompt",
        "slots",
        "remove_chat",
        "unload_model",
    ),
}

_OF_MANAGEMENT: dict[Class, tuple[str, ...]] = {
    "mirror": ("fetch_canister_logs", "deposit_cycles"),
    "journal": ("canister_status", "provisional_top_up_canister"),
    "control": ("update_settings", "start_canister", "stop_canister"),
    "alone": ("provisional_create_canister_with_cycles", "delete_canister"),
}


def _classes(table: dict[Class, tuple[str, ...]], rows: tuple[Method, ...]) -> dict[Method, Class]:
    by_name = {name: of for of, names in table.items() for name in names}
    return {row: by_name[row.name] for row in rows if row.name in by_name}


CLASSES: dict[str, Class] = {
    row.name: of
    for table, rows in (
        (_OF_INTERFACE, methods.METHODS),
        (_BESIDE_IT, rest_only.ROWS),
        (_OF_MANAGEMENT, management.METHODS),
    )
    for row, of in _classes(table, rows).items()
}


def class_of(method: Method) -> Class:
    """Where a row is run. A row that nobody has thought of is not run in a herd."""
    return CLASSES.get(method.name, "alone")
