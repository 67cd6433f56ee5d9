"""The canister's interface: every public method, once, as data.

REST routes, OpenAPI, `canister.did`, the clients' typed methods, completion and docs/methods.md are made from this
table; a method that is not here does not exist. `handlers/bindings.py` has the function that runs each row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from canister.api.record_types import Record, text
from canister.api.records import (
    AccessInputRecord,
    AccessRecord,
    AdminRoleAssignment,
    ApiError,
    AssignAdminRoleInputRecord,
    CacheCleanupActionRecord,
    CacheCleanupConfigInput,
    CacheCleanupConfigRecord,
    CacheCleanupStatsRecord,
    CallLogEntry,
    CallLogInput,
    CopyPromptCacheInputRecord,
    CycleBalanceRecord,
    DirContentInputRecord,
    DownloadPromptCacheInputRecord,
    EstimateInput,
    EstimateRecord,
    FileDetailsInputRecord,
    FileDetailsRecord,
    FileDownloadInputRecord,
    FileDownloadRecord,
    FileEntry,
    FilesystemFileSizeInputRecord,
    FilesystemFileSizeRecord,
    FilesystemRemoveInputRecord,
    FilesystemRemoveRecord,
    FilesystemTimestampInputRecord,
    FilesystemTimestampRecord,
    FileUploadInputRecord,
    FileUploadRecord,
    GetChatsRecord,
    InputRecord,
    MaxTokensRecord,
    MemoryStatusRecord,
    PromptCacheDetailsInputRecord,
    ReceiptInput,
    ReceiptRecord,
    RunOutputRecord,
    StatusCodeRecord,
    UploadPromptCacheInputRecord,
)

Mode = Literal["query", "update"]
Access = Literal[
    "anyone",
    "named",
    "controller",
    "admin_query",
    "admin_update",
    "inference_query",
    "inference_update",
    "log_reader",
]
"""Who may call a method; `runtime/access.py` checks it."""

WHO: dict[Access, str] = {
    "anyone": "Everybody, the anonymous caller too.",
    "named": "Every caller that is not anonymous.",
    "controller": "A controller of the canister, or the canister itself (its timers).",
    "admin_query": "A controller, or a holder of AdminQuery or AdminUpdate.",
    "admin_update": "A controller, or a holder of AdminUpdate.",
    "inference_query": "As admin_query; at access level 1 every named caller.",
    "inference_update": "As admin_update; at access level 1 every named caller.",
    "log_reader": "A controller; everybody while the canister's log is public.",
}
"""Each access level in words."""


@dataclass(frozen=True, slots=True)
class Method:
    """One row. arg: type of the one argument, or None. err: the type inside `Err`; None for a bare result.

    doc: a line on what the method does; more may follow an empty line. group: what the method is about.
    runs_stopped: also while the canister is stopped, as the methods of the management canister do.
    refusal: text of the reject that a caller without access gets, with {canister}, {caller} and {method};
    None: Access Denied.
    is_streamed: it says what it generates while it runs, to whom asks for that. knows_server: its handler is given the
    server that the canister is on. is_of_server: it is about the server, and run on its default canister.
    """

    name: str
    mode: Mode
    access: Access
    arg: Any
    ok: Any
    err: type[Record] | None
    doc: str
    group: str
    runs_stopped: bool = False
    refusal: str | None = None
    is_streamed: bool = False
    knows_server: bool = False
    is_of_server: bool = False


def query(
    name: str,
    group: str,
    access: Access,
    arg: Any,
    ok: Any,
    doc: str,
    *,
    bare: bool = False,
    is_streamed: bool = False,
    knows_server: bool = False,
) -> Method:
    err = _err_of(ok, bare)
    return Method(name, "query", access, arg, ok, err, doc, group, is_streamed=is_streamed, knows_server=knows_server)


def update(
    name: str,
    group: str,
    access: Access,
    arg: Any,
    ok: Any,
    doc: str,
    *,
    bare: bool = False,
    is_streamed: bool = False,
    is_of_server: bool = False,
) -> Method:
    err = _err_of(ok, bare)
    return Method(
        name,
        "update",
        access,
        arg,
        ok,
        err,
        doc,
        group,
        is_streamed=is_streamed,
        knows_server=is_of_server,
        is_of_server=is_of_server,
    )


def _err_of(ok: Any, bare: bool) -> type[Record] | None:
    """The inference methods report their errors in the record of their answer."""
    if bare:
        return None
    return RunOutputRecord if ok is RunOutputRecord else ApiError


# A row is a line, and its text another where they do not fit in one.
# fmt: off
METHODS: tuple[Method, ...] = (
    query("health", "status", "anyone", None, StatusCodeRecord, "Is the canister alive."),
    query("ready", "status", "anyone", None, StatusCodeRecord, "Is a model loaded, so that inference can begin."),
    query("whoami", "status", "anyone", None, text, "The caller's principal.", bare=True),
    query("get_memory_status", "status", "named", None, MemoryStatusRecord,
        "Bytes of wasm heap that the loaded model would take on the IC, and of stable memory; whole 64 KiB pages."),
    update("load_model", "model", "admin_update", InputRecord, RunOutputRecord,
        "Load the GGUF file `--model` from stable memory and make its context; it is loaded again after a restart."),
    update("set_max_tokens", "model", "admin_update", MaxTokensRecord, StatusCodeRecord,
        "Limit how many tokens one call may decode, prompt and answer together; 0: no limit."),
    query("get_max_tokens", "model", "anyone", None, MaxTokensRecord, "The limits as they were set.", bare=True),
    update("new_chat", "chat", "inference_update", InputRecord, RunOutputRecord,
        "Make ready for a chat in the cache that `--prompt-cache` names. An existing cache stays and may be reused."),
    query("run_query", "chat", "inference_query", InputRecord, RunOutputRecord, "As run_update, but nothing is kept.",
        is_streamed=True),
    update("run_update", "chat", "inference_update", InputRecord, RunOutputRecord,
        "Ingest the prompt and generate, as far as the limits of one call allow; the cache keeps what was decoded.",
        is_streamed=True),
    update("chats_pause", "chat", "inference_update", None, StatusCodeRecord, "Stop saving chats."),
    update("chats_resume", "chat", "inference_update", None, StatusCodeRecord,
        "Save each caller's newest chats from now on."),
    query("get_chats", "chat", "inference_query", None, GetChatsRecord, "The caller's saved chats, newest first."),
    query("get_call_log", "cost", "named", CallLogInput, list[CallLogEntry],
        "Update calls and what each cost, newest first: the caller's own, for admins those of all."),
    query("estimate_run", "cost", "inference_query", EstimateInput, EstimateRecord,
        "What the run_update with these args would cost now, and the whole conversation until its answer is complete."
        "\n\nExact as long as the answer does not end earlier; the prompt cache is looked at as it is now."),
    query("get_receipt", "cost", "named", ReceiptInput, ReceiptRecord,
        "The receipt of a call, certified now: the caller's own with the tokens for a replay, for admins those of all.",
        knows_server=True),
    update("remove_prompt_cache", "prompt cache", "inference_update", InputRecord, RunOutputRecord,
        "Remove the caller's prompt cache that `--prompt-cache` names."),
    update("copy_prompt_cache", "prompt cache", "inference_update", CopyPromptCacheInputRecord, StatusCodeRecord,
        "Copy one of the caller's prompt caches, with its sidecar, over another."),
    query("download_prompt_cache_chunk", "prompt cache", "admin_query",
        DownloadPromptCacheInputRecord, FileDownloadRecord,
        "Read a chunk of one of the caller's prompt caches."),
    update("upload_prompt_cache_chunk", "prompt cache", "admin_update",
        UploadPromptCacheInputRecord, FileUploadRecord,
        "Write the next chunk of one of the caller's prompt caches, as file_upload_chunk does."),
    query("uploaded_prompt_cache_details", "prompt cache", "admin_query",
        PromptCacheDetailsInputRecord, FileDetailsRecord,
        "Size and SHA-256 of an uploaded prompt cache."),
    query("file_download_chunk", "files", "admin_query", FileDownloadInputRecord, FileDownloadRecord,
        "Read a chunk of a file."),
    update("file_upload_chunk", "files", "admin_update", FileUploadInputRecord, FileUploadRecord,
        "Write the next chunk of a file: offset 0 starts it anew, the offset of the last chunk again is a retry."),
    query("uploaded_file_details", "files", "admin_query", FileDetailsInputRecord, FileDetailsRecord,
        "Size and SHA-256 of an uploaded file."),
    update("filesystem_remove", "files", "admin_update", FilesystemRemoveInputRecord, FilesystemRemoveRecord,
        "Remove a file or an empty folder."),
    query("filesystem_file_size", "files", "admin_query", FilesystemFileSizeInputRecord, FilesystemFileSizeRecord,
        "Size of a file."),
    query("get_creation_timestamp_ns", "files", "admin_query",
        FilesystemTimestampInputRecord, FilesystemTimestampRecord,
        "When a file was created, and how long ago that is."),
    query("recursive_dir_content_query", "files", "admin_query", DirContentInputRecord, list[FileEntry],
        "Everything below a folder: depth first, in order of creation, with the folder in front of each path."),
    update("recursive_dir_content_update", "files", "admin_update", DirContentInputRecord, list[FileEntry],
        "As recursive_dir_content_query, with an update's limits."),
    update("remove_log_file", "files", "admin_update", InputRecord, RunOutputRecord,
        "Remove the log file that `--log-file` names."),
    update("log_pause", "files", "admin_update", None, StatusCodeRecord,
        "Turn console logging of the model's work off."),
    update("log_resume", "files", "admin_update", None, StatusCodeRecord,
        "Turn console logging of the model's work on."),
    update("cache_cleanup_start_timer", "status", "admin_update", None, CacheCleanupActionRecord,
        "Delete old prompt caches every `period_seconds` from now on."),
    update("cache_cleanup_stop_timer", "status", "admin_update", None, CacheCleanupActionRecord,
        "Stop deleting old prompt caches."),
    update("cache_cleanup_now", "status", "admin_update", None, CacheCleanupStatsRecord,
        "Delete prompt caches that were not written for `ttl_seconds`, at once; timer or not."),
    query("get_cache_cleanup_stats", "status", "admin_query", None, CacheCleanupStatsRecord,
        "Runs so far and the time of the last one; the files of the last run; the configuration."),
    update("set_cache_cleanup_config", "status", "admin_update", CacheCleanupConfigInput, CacheCleanupConfigRecord,
        "Change what is given: period (0 is ignored), time to live (0: everything is old), "
        "files per run (1 to 10000)."),
    update("cycle_balance_start_timer", "status", "admin_update", None, StatusCodeRecord,
        "Read the cycle balance now and every hour from now on."),
    update("cycle_balance_stop_timer", "status", "admin_update", None, StatusCodeRecord,
        "Stop reading the cycle balance."),
    query("get_cycle_balance", "status", "admin_query", None, CycleBalanceRecord,
        "The last reading of the cycle balance."),
    update("set_access", "access", "controller", AccessInputRecord, AccessRecord,
        "Open the inference methods to all named callers (level 1), or keep them for controllers and admins (0)."),
    query("get_access", "access", "admin_query", None, AccessRecord, "The access level, and what it means."),
    query("check_access", "access", "inference_query", None, StatusCodeRecord,
        "Ok if the caller may use the inference queries."),
    update("assignAdminRole", "access", "controller", AssignAdminRoleInputRecord, AdminRoleAssignment,
        "Give a principal an admin role; assigning again replaces role and note."),
    update("revokeAdminRole", "access", "controller", text, text, "Take a principal's admin role away."),
    query("getAdminRoles", "access", "controller", None, list[AdminRoleAssignment],
        "All admin roles, in the order in which they were first assigned."),
)
# fmt: on

BY_NAME: dict[str, Method] = {method.name: method for method in METHODS}
