"""Is the canister alive and ready, who is asking, what does it use; and its housekeeping timers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from canister.api.record_types import text
from canister.api.records import (
    CacheCleanupActionRecord,
    CacheCleanupConfigInput,
    CacheCleanupConfigRecord,
    CacheCleanupStatsRecord,
    CycleBalanceRecord,
    MemoryStatusRecord,
    StatusCodeRecord,
)
from canister.errors import Conflict, NotFound
from canister.handlers.prompt_cache import clean_up

if TYPE_CHECKING:
    from canister.runtime.call import Call

WASM_PAGE_BYTES = 64 * 1024
MAX_FILES_PER_RUN = 10_000


async def health(call: Call) -> StatusCodeRecord:
    return StatusCodeRecord()


async def ready(call: Call) -> StatusCodeRecord:
    if call.canister.model.engine is None:
        raise NotFound("Model not yet loaded")
    return StatusCodeRecord()


async def whoami(call: Call) -> text:
    return call.caller


async def get_memory_status(call: Call) -> MemoryStatusRecord:
    return MemoryStatusRecord(
        wasm_heap_bytes=_whole_pages(call.canister.model.heap_bytes()),
        stable_bytes=_whole_pages(call.canister.stable.total_bytes()),
    )


def _whole_pages(n_bytes: int) -> int:
    return max(1, -(-n_bytes // WASM_PAGE_BYTES)) * WASM_PAGE_BYTES


# -- clean-up of old prompt caches


async def cache_cleanup_start_timer(call: Call) -> CacheCleanupActionRecord:
    call.change(cleanup_on=True)
    return CacheCleanupActionRecord(ok=True, is_running=True)


async def cache_cleanup_stop_timer(call: Call) -> CacheCleanupActionRecord:
    call.change(cleanup_on=False)
    return CacheCleanupActionRecord(ok=True, is_running=False)


async def cache_cleanup_now(call: Call) -> CacheCleanupStatsRecord:
    await call.lock("cleanup")
    state = call.state
    outcome = await clean_up(call, state.cleanup_ttl_seconds, state.cleanup_max_files)
    run = {
        "cleanup_runs": state.cleanup_runs + 1,
        "cleanup_last_run_ns": call.now_ns,
        "cleanup_files_examined": outcome.examined,
        "cleanup_files_deleted": outcome.deleted,
        "cleanup_files_failed": outcome.failed,
    }
    call.change(**run)
    return CacheCleanupStatsRecord(
        runs=state.cleanup_runs + 1,
        files_examined=outcome.examined,
        files_deleted=outcome.deleted,
        files_failed=outcome.failed,
        last_run_ns=call.now_ns,
        period_seconds=state.cleanup_period_seconds,
        ttl_seconds=state.cleanup_ttl_seconds,
        max_files_per_run=state.cleanup_max_files,
        is_running=state.cleanup_on,
    )


async def get_cache_cleanup_stats(call: Call) -> CacheCleanupStatsRecord:
    state = call.state
    return CacheCleanupStatsRecord(
        runs=state.cleanup_runs,
        files_examined=state.cleanup_files_examined,
        files_deleted=state.cleanup_files_deleted,
        files_failed=state.cleanup_files_failed,
        last_run_ns=state.cleanup_last_run_ns,
        period_seconds=state.cleanup_period_seconds,
        ttl_seconds=state.cleanup_ttl_seconds,
        max_files_per_run=state.cleanup_max_files,
        is_running=state.cleanup_on,
    )


async def set_cache_cleanup_config(call: Call, arg: CacheCleanupConfigInput) -> CacheCleanupConfigRecord:
    state = call.state
    period = arg.period_seconds or state.cleanup_period_seconds
    ttl = state.cleanup_ttl_seconds if arg.ttl_seconds is None else arg.ttl_seconds
    files = state.cleanup_max_files
    if arg.max_files_per_run is not None:
        files = min(max(arg.max_files_per_run, 1), MAX_FILES_PER_RUN)
    call.change(cleanup_period_seconds=period, cleanup_ttl_seconds=ttl, cleanup_max_files=files)
    return CacheCleanupConfigRecord(
        period_seconds=period, ttl_seconds=ttl, max_files_per_run=files, is_running=state.cleanup_on
    )


# -- cycle balance


async def cycle_balance_start_timer(call: Call) -> StatusCodeRecord:
    call.change(cycle_timer_on=True, cycle_reading=call.canister.ledger.cycles, cycle_reading_ns=call.now_ns)
    return StatusCodeRecord()


async def cycle_balance_stop_timer(call: Call) -> StatusCodeRecord:
    call.change(cycle_timer_on=False)
    return StatusCodeRecord()


async def get_cycle_balance(call: Call) -> CycleBalanceRecord:
    if not call.state.cycle_timer_on:
        raise Conflict("cycle balance tracking is off — an admin must call cycle_balance_start_timer")
    return CycleBalanceRecord(cycle_balance=call.state.cycle_reading, updated_at_ns=call.state.cycle_reading_ns)
