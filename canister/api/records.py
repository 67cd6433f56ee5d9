"""Candid records and variants of the canister, one class per type of `canister.did`.

Doors and handlers exchange these; nothing here does anything. Field order is that of the specification. Names have
units (`_ns`, `_seconds`); a count of bytes is named as in the interface. `record_types.py` tells their JSON.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from canister.api.record_types import Record, Tag, Variant, blob, nat, nat16, nat64, text, vec

MAX_FLAGS = 10_000
Flags = Annotated[vec[text], Field(max_length=MAX_FLAGS)]  # llama.cpp command-line flags


class ApiError(Variant):
    Other: text | None = None
    StatusCode: nat16 | None = None


class StatusCodeRecord(Record):
    status_code: nat16 = 200


# -- inference


class InputRecord(Record):
    args: Flags


class RunOutputRecord(Record):
    candid_result: ClassVar[str | None] = "OutputRecordResult"

    status_code: nat16
    output: text = ""
    conversation: text = ""
    error: text = ""
    prompt_remaining: text = ""
    generated_eog: bool = False
    # null on everything but a successful run_update or run_query
    n_prompt_tokens: nat64 | None = None
    n_prompt_tokens_cached: nat64 | None = None
    n_prompt_tokens_decoded: nat64 | None = None
    n_tokens_generated: nat64 | None = None
    n_prompt_tokens_remaining: nat64 | None = None


class MaxTokensRecord(Record):
    max_tokens_update: nat64  # 0: no limit
    max_tokens_query: nat64


class ChatRecord(Record):
    timestamp: text  # %Y-%m-%d_%H-%M-%S
    chat: text


class GetChatsRecord(Record):
    chats: vec[ChatRecord]


# -- files and prompt caches; sizes and offsets in bytes


class FileDownloadInputRecord(Record):
    filename: text
    chunksize: nat64
    offset: nat64


class FileDownloadRecord(Record):
    chunk: blob
    chunksize: nat64
    filesize: nat64
    offset: nat64
    done: bool


class FileUploadInputRecord(Record):
    filename: text
    chunk: blob
    chunksize: nat64
    offset: nat64


class FileUploadRecord(Record):
    filename: text
    filesize: nat64
    filesha256: text  # hex, of the bytes so far


class FileDetailsInputRecord(Record):
    filename: text


class FileDetailsRecord(Record):
    filename: text
    filesize: nat64
    filesha256: text


class CopyPromptCacheInputRecord(Record):
    from_: text = Field(alias="from")
    to: text


class DownloadPromptCacheInputRecord(Record):
    promptcache: text
    chunksize: nat64
    offset: nat64


class UploadPromptCacheInputRecord(Record):
    promptcache: text
    chunk: blob
    chunksize: nat64
    offset: nat64


class PromptCacheDetailsInputRecord(Record):
    promptcache: text


class FilesystemFileSizeInputRecord(Record):
    filename: text


class FilesystemFileSizeRecord(Record):
    exists: bool
    filename: text
    filesize: nat64
    msg: text


class FilesystemTimestampInputRecord(Record):
    filename: text


class FilesystemTimestampRecord(Record):
    exists: bool
    filename: text
    timestamp_ns: nat64
    age_seconds: nat64
    msg: text


class FilesystemRemoveInputRecord(Record):
    filename: text


class FilesystemRemoveRecord(Record):
    exists: bool
    removed: bool
    filename: text
    msg: text


class DirContentInputRecord(Record):
    dir: text
    max_entries: nat64  # 0: all


class FileEntry(Record):
    candid_result: ClassVar[str | None] = "DirContentRecordResult"

    filename: text
    filetype: text  # "file", "directory", "other"


# -- access


class AccessInputRecord(Record):
    level: nat16


class AccessRecord(Record):
    level: nat16
    explanation: text


class AdminRole(Tag):
    AdminQuery = "AdminQuery"
    AdminUpdate = "AdminUpdate"


class AssignAdminRoleInputRecord(Record):
    principal: text
    role: AdminRole
    note: text


class AdminRoleAssignment(Record):
    principal: text
    role: AdminRole
    note: text
    assignedBy: text
    assignedAt: nat64  # ns since 1970


# -- housekeeping


class CacheCleanupActionRecord(Record):
    candid_result: ClassVar[str | None] = "CacheCleanupResult"

    ok: bool
    is_running: bool


class CacheCleanupStatsRecord(Record):
    candid_result: ClassVar[str | None] = "CacheCleanupStatsResult"

    runs: nat64
    files_examined: nat64
    files_deleted: nat64
    files_failed: nat64
    last_run_ns: nat64
    period_seconds: nat64
    ttl_seconds: nat64
    max_files_per_run: nat64
    is_running: bool


class CacheCleanupConfigInput(Record):
    period_seconds: nat64 | None = None
    ttl_seconds: nat64 | None = None
    max_files_per_run: nat64 | None = None


class CacheCleanupConfigRecord(Record):
    candid_result: ClassVar[str | None] = "CacheCleanupConfigResult"

    period_seconds: nat64
    ttl_seconds: nat64
    max_files_per_run: nat64
    is_running: bool


class CycleBalanceRecord(Record):
    cycle_balance: nat
    updated_at_ns: nat64


class MemoryStatusRecord(Record):
    wasm_heap_bytes: nat64
    stable_bytes: nat64


# -- what calls cost; ours, not in the original


class CostPart(Record):
    """One term of the cost formula."""

    part: text
    instructions: nat64


class CallLogInput(Record):
    """before_id: only calls with a smaller id, to page on. max_entries: at most 1000; null: 100."""

    before_id: nat64 | None = None
    max_entries: nat64 | None = None


class CallLogEntry(Record):
    """n_prompt_tokens_decoded, n_tokens_generated: null for a call that had no tokens to decode."""

    candid_result: ClassVar[str | None] = "CallLogResult"

    id: nat64
    caller: text
    method: text
    timestamp_ns: nat64
    outcome: text  # "ok", "err", "trap"
    instructions: nat64
    cycles: nat
    limit: nat64 | None  # null: not enforced
    parts: vec[CostPart]
    n_prompt_tokens_decoded: nat64 | None = None
    n_tokens_generated: nat64 | None = None


class ReceiptInput(Record):
    """call_id: X-IC-Receipt of the call's answer, or the call's number. since: also prove that so many records, of an
    older head, are still the first; null: no."""

    call_id: text
    since: nat64 | None = None


class ReceiptRecord(Record):
    """id: number and hash of the record. n_records: under the certified head. file: the receipt in CBOR, as
    `canister verify` reads it; the other fields are those of its record."""

    id: text
    caller: text
    method: text
    timestamp_ns: nat64
    outcome: text  # "ok", "err", "trap"
    instructions: nat64
    cycles: nat
    n_records: nat64
    file: blob


class EstimateInput(Record):
    """args: as of the run_update to come. answer_tokens: expected length of the whole answer; null: 128."""

    args: Flags
    answer_tokens: nat64 | None = None


class EstimateRecord(Record):
    """The next call, and the whole conversation from there on. seconds: on the main network; cycles: at 13 nodes' price
    unless the canister is set otherwise."""

    instructions: nat64
    cycles: nat
    limit: nat64 | None
    fits: bool
    parts: vec[CostPart]
    max_generate: nat64
    n_prompt_tokens: nat64
    n_prompt_tokens_cached: nat64
    tokens_per_call_first: nat64
    tokens_per_call_last: nat64
    calls: nat64
    total_instructions: nat64
    total_cycles: nat
    xdr: float
    usd: float
    seconds: float
    estimated: vec[text]  # what the cost model had to guess
