"""The management canister `aaaaa-aa`, as far as tools need it: making, deleting, status, settings, cycles, start, stop.

Its methods are rows like those of `methods.py`. Dispatch runs them on the canister that they are about, also while it
is stopped, and those about the server on its default canister. Methods without meaning here are refused by name. Types
and texts are those of the IC interface specification, "The IC management canister".
"""

from __future__ import annotations

import dataclasses
from types import NoneType
from typing import Annotated

from pydantic import Field

from canister.api.methods import BY_NAME, Access, Method, query, update
from canister.api.record_types import Candid, Record, Tag, Variant, blob, nat, nat64, text, vec
from canister.errors import MethodNotFound
from canister.ic import principal as principals

ID = principals.MANAGEMENT

principal = Annotated[str, Candid("principal")]

MAX_CONTROLLERS_READ = 1_000  # `update_settings` limits how many there may be


class CanisterRunningStatus(Tag):
    running = "running"
    stopping = "stopping"
    stopped = "stopped"


class LogVisibility(Tag):
    controllers = "controllers"
    public = "public"


class CanisterIdRecord(Record):
    canister_id: principal


class TopUpRecord(Record):
    canister_id: principal
    amount: nat


class EnvironmentVariable(Record):
    name: text
    value: text


class CanisterSettings(Record):
    """Settings that are absent stay as they are."""

    controllers: Annotated[vec[principal], Field(max_length=MAX_CONTROLLERS_READ)] | None = None
    compute_allocation: nat | None = None
    memory_allocation: nat | None = None
    freezing_threshold: nat | None = None
    reserved_cycles_limit: nat | None = None
    log_visibility: LogVisibility | None = None
    wasm_memory_limit: nat | None = None
    wasm_memory_threshold: nat | None = None


class ProvisionalCreateRecord(Record):
    amount: nat | None = None
    settings: CanisterSettings | None = None
    specified_id: principal | None = None
    sender_canister_version: nat64 | None = None


class UpdateSettingsRecord(Record):
    canister_id: principal
    settings: CanisterSettings
    sender_canister_version: nat64 | None = None


class DefiniteCanisterSettings(Record):
    controllers: vec[principal]
    compute_allocation: nat
    memory_allocation: nat
    freezing_threshold: nat
    reserved_cycles_limit: nat
    log_visibility: LogVisibility
    log_memory_limit: nat
    wasm_memory_limit: nat
    wasm_memory_threshold: nat
    environment_variables: vec[EnvironmentVariable]


class MemoryMetrics(Record):
    wasm_memory_size: nat
    stable_memory_size: nat
    global_memory_size: nat = 0
    wasm_binary_size: nat = 0
    custom_sections_size: nat = 0
    canister_history_size: nat = 0
    wasm_chunk_store_size: nat = 0
    snapshots_size: nat = 0


class LogRange(Record):
    """From start to before end."""

    start: nat64
    end: nat64


class LogFilter(Variant):
    by_idx: LogRange | None = None
    by_timestamp_nanos: LogRange | None = None


class FetchLogsRecord(Record):
    canister_id: principal
    filter: LogFilter | None = None


class LogLineRecord(Record):
    """content: a line of JSON."""

    idx: nat64
    timestamp_nanos: nat64
    content: blob


class LogsRecord(Record):
    canister_log_records: vec[LogLineRecord]


class QueryStats(Record):
    num_calls_total: nat = 0
    num_instructions_total: nat = 0
    request_payload_bytes_total: nat = 0
    response_payload_bytes_total: nat = 0


class CanisterStatus(Record):
    status: CanisterRunningStatus
    ready_for_migration: bool = False
    version: nat64 = 0
    settings: DefiniteCanisterSettings
    module_hash: blob | None = None
    memory_size: nat
    memory_metrics: MemoryMetrics
    cycles: nat
    reserved_cycles: nat = 0
    idle_cycles_burned_per_day: nat = 0
    query_stats: QueryStats = Field(default_factory=QueryStats)


# -- methods

# A row is a line, and its text another where they do not fit in one.
# fmt: off
_ROWS = (
    query("canister_status", "management", "controller", CanisterIdRecord, CanisterStatus,
        "Status, settings, memory and cycles of a canister.", bare=True),
    update("update_settings", "management", "controller", UpdateSettingsRecord, NoneType,
        "Change controllers and other settings.", bare=True),
    update("provisional_top_up_canister", "management", "anyone", TopUpRecord, NoneType,
        "Give a canister cycles that come from nowhere.", bare=True),
    update("deposit_cycles", "management", "anyone", CanisterIdRecord, NoneType,
        "Give a canister the cycles that came with the call; a message from outside brings none.", bare=True),
    update("start_canister", "management", "controller", CanisterIdRecord, NoneType, "Let calls in again.", bare=True),
    update("stop_canister", "management", "controller", CanisterIdRecord, NoneType,
        "Let no calls in any more, and wait for those that run.", bare=True),
    update("provisional_create_canister_with_cycles", "management", "named",
        ProvisionalCreateRecord, CanisterIdRecord,
        "Make a canister with cycles that come from nowhere.", bare=True, is_of_server=True),
    update("delete_canister", "management", "named", CanisterIdRecord, NoneType,
        "Delete a stopped canister and all that it holds.", bare=True, is_of_server=True),
    query("fetch_canister_logs", "management", "log_reader", FetchLogsRecord, LogsRecord,
        "What was logged last about a canister; for who controls all canisters of the server, about that too.",
        bare=True, knows_server=True),
)
# fmt: on

# The reject of a caller without access, in the IC's own words.
_REFUSALS: dict[Access, str] = {
    "controller": "Only controllers of canister {canister} can call ic00 method {method}",
    "named": "The anonymous caller cannot call ic00 method {method}",
    "log_reader": "Caller {caller} is not allowed to access canister logs: they are for the controllers of "
    "{canister}, until update_settings makes log_visibility public",
}

METHODS = tuple(dataclasses.replace(row, runs_stopped=True, refusal=_REFUSALS.get(row.access)) for row in _ROWS)

_BY_NAME = {method.name: method for method in METHODS}

_REFUSED = {
    "create_canister": "only canisters can call it; call provisional_create_canister_with_cycles, or name the canister "
    "when the server starts: canister serve --canister NAME",
    "install_code": "every canister of this server runs the same program, which cannot be replaced",
}
_REFUSED |= dict.fromkeys(
    ("uninstall_code", "upload_chunk", "install_chunked_code", "clear_chunk_store"), _REFUSED["install_code"]
)


def find_method(name: str, mode: str = "update") -> Method:
    """A method of the management canister. MethodNotFound says why a method of the IC is missing here."""
    method = _BY_NAME.get(name)
    if method is None or (mode == "query" and method.mode != "query"):
        why = f": {_REFUSED[name]}" if name in _REFUSED else ""
        raise ManagementMethodNotFound(f"Management canister has no {mode} method '{name[:100]}'{why}")
    return method


def find_row(name: str) -> Method:
    """A row of the interface of a canister, or of the management canister. Raises MethodNotFound."""
    return BY_NAME[name] if name in BY_NAME else find_method(name)


class ManagementMethodNotFound(MethodNotFound):
    error_code = "IC0515"
