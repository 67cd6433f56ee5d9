"""One typed method per row of the interface table, for the clients. Made by `python -m scripts.generate`; do not edit.

Each is `call` with a name that is checked; what may be raised and how long is waited is said there.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from canister.api.records import (
        AccessInputRecord,
        AccessRecord,
        AdminRoleAssignment,
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
    from canister.client.result import Piece, Result


class MethodCalls(ABC):
    @abstractmethod
    async def call(self, name: str, arg: object = None, *, timeout_seconds: float | None = None) -> Result[Any]: ...

    async def stream(self, name: str, arg: object = None) -> AsyncGenerator[Piece | Result[Any]]:
        """Call a run: its text while it goes on, where the way to the server has that; at last its result."""
        yield await self.call(name, arg)

    async def health(self) -> Result[StatusCodeRecord]:
        """Is the canister alive."""
        return await self.call("health")

    async def ready(self) -> Result[StatusCodeRecord]:
        """Is a model loaded, so that inference can begin."""
        return await self.call("ready")

    async def whoami(self) -> Result[str]:
        """The caller's principal."""
        return await self.call("whoami")

    async def get_memory_status(self) -> Result[MemoryStatusRecord]:
        """Bytes of wasm heap that the loaded model would take on the IC, and of stable memory; whole 64 KiB pages."""
        return await self.call("get_memory_status")

    async def load_model(self, arg: InputRecord) -> Result[RunOutputRecord]:
        """Load the GGUF file `--model` from stable memory and make its context; it is loaded again after a restart."""
        return await self.call("load_model", arg)

    async def set_max_tokens(self, arg: MaxTokensRecord) -> Result[StatusCodeRecord]:
        """Limit how many tokens one call may decode, prompt and answer together; 0: no limit."""
        return await self.call("set_max_tokens", arg)

    async def get_max_tokens(self) -> Result[MaxTokensRecord]:
        """The limits as they were set."""
        return await self.call("get_max_tokens")

    async def new_chat(self, arg: InputRecord) -> Result[RunOutputRecord]:
        """Make ready for a chat in the cache that `--prompt-cache` names. An existing cache stays and may be reused."""
        return await self.call("new_chat", arg)

    async def run_query(self, arg: InputRecord) -> Result[RunOutputRecord]:
        """As run_update, but nothing is kept."""
        return await self.call("run_query", arg)

    async def run_update(self, arg: InputRecord) -> Result[RunOutputRecord]:
        """Ingest the prompt and generate, as far as the limits of one call allow; the cache keeps what was decoded."""
        return await self.call("run_update", arg)

    async def chats_pause(self) -> Result[StatusCodeRecord]:
        """Stop saving chats."""
        return await self.call("chats_pause")

    async def chats_resume(self) -> Result[StatusCodeRecord]:
        """Save each caller's newest chats from now on."""
        return await self.call("chats_resume")

    async def get_chats(self) -> Result[GetChatsRecord]:
        """The caller's saved chats, newest first."""
        return await self.call("get_chats")

    async def get_call_log(self, arg: CallLogInput) -> Result[list[CallLogEntry]]:
        """Update calls and what each cost, newest first: the caller's own, for admins those of all."""
        return await self.call("get_call_log", arg)

    async def estimate_run(self, arg: EstimateInput) -> Result[EstimateRecord]:
        """What the run_update with these args would cost now, and the whole conversation until its answer is
        complete."""
        return await self.call("estimate_run", arg)

    async def get_receipt(self, arg: ReceiptInput) -> Result[ReceiptRecord]:
        """The receipt of a call, certified now: the caller's own with the tokens for a replay, for admins those of
        all."""
        return await self.call("get_receipt", arg)

    async def remove_prompt_cache(self, arg: InputRecord) -> Result[RunOutputRecord]:
        """Remove the caller's prompt cache that `--prompt-cache` names."""
        return await self.call("remove_prompt_cache", arg)

    async def copy_prompt_cache(self, arg: CopyPromptCacheInputRecord) -> Result[StatusCodeRecord]:
        """Copy one of the caller's prompt caches, with its sidecar, over another."""
        return await self.call("copy_prompt_cache", arg)

    async def download_prompt_cache_chunk(self, arg: DownloadPromptCacheInputRecord) -> Result[FileDownloadRecord]:
        """Read a chunk of one of the caller's prompt caches."""
        return await self.call("download_prompt_cache_chunk", arg)

    async def upload_prompt_cache_chunk(self, arg: UploadPromptCacheInputRecord) -> Result[FileUploadRecord]:
        """Write the next chunk of one of the caller's prompt caches, as file_upload_chunk does."""
        return await self.call("upload_prompt_cache_chunk", arg)

    async def uploaded_prompt_cache_details(self, arg: PromptCacheDetailsInputRecord) -> Result[FileDetailsRecord]:
        """Size and SHA-256 of an uploaded prompt cache."""
        return await self.call("uploaded_prompt_cache_details", arg)

    async def file_download_chunk(self, arg: FileDownloadInputRecord) -> Result[FileDownloadRecord]:
        """Read a chunk of a file."""
        return await self.call("file_download_chunk", arg)

    async def file_upload_chunk(self, arg: FileUploadInputRecord) -> Result[FileUploadRecord]:
        """Write the next chunk of a file: offset 0 starts it anew, the offset of the last chunk again is a retry."""
        return await self.call("file_upload_chunk", arg)

    async def uploaded_file_details(self, arg: FileDetailsInputRecord) -> Result[FileDetailsRecord]:
        """Size and SHA-256 of an uploaded file."""
        return await self.call("uploaded_file_details", arg)

    async def filesystem_remove(self, arg: FilesystemRemoveInputRecord) -> Result[FilesystemRemoveRecord]:
        """Remove a file or an empty folder."""
        return await self.call("filesystem_remove", arg)

    async def filesystem_file_size(self, arg: FilesystemFileSizeInputRecord) -> Result[FilesystemFileSizeRecord]:
        """Size of a file."""
        return await self.call("filesystem_file_size", arg)

    async def get_creation_timestamp_ns(self, arg: FilesystemTimestampInputRecord) -> Result[FilesystemTimestampRecord]:
        """When a file was created, and how long ago that is."""
        return await self.call("get_creation_timestamp_ns", arg)

    async def recursive_dir_content_query(self, arg: DirContentInputRecord) -> Result[list[FileEntry]]:
        """Everything below a folder: depth first, in order of creation, with the folder in front of each path."""
        return await self.call("recursive_dir_content_query", arg)

    async def recursive_dir_content_update(self, arg: DirContentInputRecord) -> Result[list[FileEntry]]:
        """As recursive_dir_content_query, with an update's limits."""
        return await self.call("recursive_dir_content_update", arg)

    async def remove_log_file(self, arg: InputRecord) -> Result[RunOutputRecord]:
        """Remove the log file that `--log-file` names."""
        return await self.call("remove_log_file", arg)

    async def log_pause(self) -> Result[StatusCodeRecord]:
        """Turn console logging of the model's work off."""
        return await self.call("log_pause")

    async def log_resume(self) -> Result[StatusCodeRecord]:
        """Turn console logging of the model's work on."""
        return await self.call("log_resume")

    async def cache_cleanup_start_timer(self) -> Result[CacheCleanupActionRecord]:
        """Delete old prompt caches every `period_seconds` from now on."""
        return await self.call("cache_cleanup_start_timer")

    async def cache_cleanup_stop_timer(self) -> Result[CacheCleanupActionRecord]:
        """Stop deleting old prompt caches."""
        return await self.call("cache_cleanup_stop_timer")

    async def cache_cleanup_now(self) -> Result[CacheCleanupStatsRecord]:
        """Delete prompt caches that were not written for `ttl_seconds`, at once; timer or not."""
        return await self.call("cache_cleanup_now")

    async def get_cache_cleanup_stats(self) -> Result[CacheCleanupStatsRecord]:
        """Runs so far and the time of the last one; the files of the last run; the configuration."""
        return await self.call("get_cache_cleanup_stats")

    async def set_cache_cleanup_config(self, arg: CacheCleanupConfigInput) -> Result[CacheCleanupConfigRecord]:
        """Change what is given: period (0 is ignored), time to live (0: everything is old), files per run (1 to
        10000)."""
        return await self.call("set_cache_cleanup_config", arg)

    async def cycle_balance_start_timer(self) -> Result[StatusCodeRecord]:
        """Read the cycle balance now and every hour from now on."""
        return await self.call("cycle_balance_start_timer")

    async def cycle_balance_stop_timer(self) -> Result[StatusCodeRecord]:
        """Stop reading the cycle balance."""
        return await self.call("cycle_balance_stop_timer")

    async def get_cycle_balance(self) -> Result[CycleBalanceRecord]:
        """The last reading of the cycle balance."""
        return await self.call("get_cycle_balance")

    async def set_access(self, arg: AccessInputRecord) -> Result[AccessRecord]:
        """Open the inference methods to all named callers (level 1), or keep them for controllers and admins (0)."""
        return await self.call("set_access", arg)

    async def get_access(self) -> Result[AccessRecord]:
        """The access level, and what it means."""
        return await self.call("get_access")

    async def check_access(self) -> Result[StatusCodeRecord]:
        """Ok if the caller may use the inference queries."""
        return await self.call("check_access")

    async def assignAdminRole(self, arg: AssignAdminRoleInputRecord) -> Result[AdminRoleAssignment]:
        """Give a principal an admin role; assigning again replaces role and note."""
        return await self.call("assignAdminRole", arg)

    async def revokeAdminRole(self, arg: str) -> Result[str]:
        """Take a principal's admin role away."""
        return await self.call("revokeAdminRole", arg)

    async def getAdminRoles(self) -> Result[list[AdminRoleAssignment]]:
        """All admin roles, in the order in which they were first assigned."""
        return await self.call("getAdminRoles")
