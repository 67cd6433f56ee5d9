"""Candid records and variants of the canister, one class per type of `canister.did`.

Doors and handlers exchange these; nothing here does anything. Field order is that of the specification. Names have
units (`_ns`, `_seconds`); a count of bytes is named as in the interface. In JSON a blob is base64, a natural number may
be a string of digits (JavaScript loses precision above 2^53), a variant without payload is its tag, an absent `opt` is
null.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    WithJsonSchema,
    model_validator,
)


@dataclass(frozen=True, slots=True)
class Candid:
    """Marks the Candid type of an annotation that Python has no type for."""

    type: str


def _natural(value: object) -> object:
    # To Python True is an int, and "1_0" and " 5" are numbers. A client must hear of such a mistake.
    if isinstance(value, bool | float) or (isinstance(value, str) and not (value.isascii() and value.isdecimal())):
        raise ValueError(f"a natural number is wanted, not {value!r}")
    return value


def _from_base64(value: object) -> object:
    if isinstance(value, str):
        try:
            return base64.b64decode(value, validate=True)
        except binascii.Error as error:
            raise ValueError(f"not base64: {error}") from None
    return value


_Natural = Annotated[int, Field(ge=0)]
_Natural16 = Annotated[int, Field(ge=0, lt=2**16)]
_Natural64 = Annotated[int, Field(ge=0, lt=2**64)]
_Digits = Annotated[str, Field(pattern="^[0-9]+$")]

# The second type is what the JSON schema says of an argument.
nat = Annotated[_Natural, BeforeValidator(_natural, _Natural | _Digits), Candid("nat")]
nat16 = Annotated[_Natural16, BeforeValidator(_natural, _Natural16 | _Digits), Candid("nat16")]
nat64 = Annotated[_Natural64, BeforeValidator(_natural, _Natural64 | _Digits), Candid("nat64")]
blob = Annotated[
    bytes,
    BeforeValidator(_from_base64),
    PlainSerializer(lambda value: base64.b64encode(value).decode("ascii"), when_used="json"),
    WithJsonSchema({"type": "string", "contentEncoding": "base64"}),
    Candid("blob"),
]
text = Annotated[str, Candid("text")]

T = TypeVar("T")

# Only the first wrong element is reported, since a message for each would cost more than the body itself.
vec = Annotated[list[T], Field(fail_fast=True)]

MAX_FLAGS = 10_000
Flags = Annotated[vec[text], Field(max_length=MAX_FLAGS)]  # llama.cpp command-line flags


class Record(BaseModel):
    """A Candid record. Fields that a client sends beyond the known ones are ignored, as Candid subtyping does."""

    # Clients read all records and use few, so each is built when it is first used.
    model_config = ConfigDict(frozen=True, populate_by_name=True, extra="ignore", defer_build=True)

    candid_result: ClassVar[str | None] = None  # name of `variant {Ok: this; Err}`, if not <name>Result


class Variant(Record):
    """A Candid variant with payloads: exactly one field is set; its name is the tag."""

    @model_validator(mode="after")
    def _one_tag(self) -> Variant:
        if sum(getattr(self, name) is not None for name in type(self).model_fields) != 1:
            raise ValueError(f"exactly one of {', '.join(type(self).model_fields)} must be given")
        return self


class Tag(Enum):
    """A Candid variant without payloads."""

    @classmethod
    def _missing_(cls, value: object) -> Any:
        # {"AdminQuery": null} is the general JSON form of a variant.
        if isinstance(value, dict) and len(value) == 1:
            ((tag, payload),) = value.items()
            if payload is None and isinstance(tag, str) and tag in cls.__members__:
                return cls[tag]
        return None


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
