"""The handlers of the management canister's methods; rows and records are in `api/management.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from canister.api.management import (
    CanisterIdRecord,
    CanisterRunningStatus,
    CanisterSettings,
    CanisterStatus,
    DefiniteCanisterSettings,
    FetchLogsRecord,
    LogFilter,
    LogLineRecord,
    LogRange,
    LogsRecord,
    LogVisibility,
    MemoryMetrics,
    ProvisionalCreateRecord,
    TopUpRecord,
    UpdateSettingsRecord,
)
from canister.api.service import module_hash
from canister.errors import BadArgument, CanisterTrapped
from canister.ic import principal as principals
from canister.metering.fees import INITIAL_CYCLES
from canister.state.canisters import Birth
from canister.telemetry import logs

if TYPE_CHECKING:
    from canister.runtime.call import Call
    from canister.runtime.host import Host

MAX_CONTROLLERS = 10


async def canister_status(call: Call, arg: CanisterIdRecord) -> CanisterStatus:
    _check_target(call, arg.canister_id)
    canister, state = call.canister, call.canister.state
    stable_bytes = canister.stable.total_bytes()
    return CanisterStatus(
        status=CanisterRunningStatus(canister.status),
        settings=DefiniteCanisterSettings(
            controllers=list(canister.controllers),
            compute_allocation=state.compute_allocation,
            memory_allocation=state.memory_allocation,
            freezing_threshold=state.freezing_threshold,
            reserved_cycles_limit=state.reserved_cycles_limit,
            log_visibility=LogVisibility(state.log_visibility),
            log_memory_limit=0,
            wasm_memory_limit=state.wasm_memory_limit,
            wasm_memory_threshold=state.wasm_memory_threshold,
            environment_variables=[],
        ),
        module_hash=module_hash(),
        memory_size=canister.model.heap_bytes() + stable_bytes,
        memory_metrics=MemoryMetrics(wasm_memory_size=canister.model.heap_bytes(), stable_memory_size=stable_bytes),
        cycles=max(0, canister.ledger.cycles),
    )


async def update_settings(call: Call, arg: UpdateSettingsRecord) -> None:
    _check_target(call, arg.canister_id)
    changes = _changes(arg.settings)
    if changes:
        call.change(**changes)
    if arg.settings.controllers is not None:
        call.canister.controllers.replace(call.work, _checked_controllers(arg.settings.controllers))


async def provisional_top_up_canister(call: Call, arg: TopUpRecord) -> None:
    _check_target(call, arg.canister_id)
    _add_cycles(call, arg.amount)


async def deposit_cycles(call: Call, arg: CanisterIdRecord) -> None:
    _check_target(call, arg.canister_id)


async def start_canister(call: Call, arg: CanisterIdRecord) -> None:
    _check_target(call, arg.canister_id)
    call.change(is_stopped=False)


async def stop_canister(call: Call, arg: CanisterIdRecord) -> None:
    _check_target(call, arg.canister_id)
    call.change(is_stopped=True)
    await call.canister.others_done(call)


async def provisional_create_canister_with_cycles(
    call: Call, arg: ProvisionalCreateRecord, *, host: Host, request_id: bytes
) -> CanisterIdRecord:
    if arg.specified_id is not None:
        raise BadArgument("specified_id: this server gives the ids itself; leave it out")
    settings = arg.settings or CanisterSettings()
    # An empty list would leave the canister without anybody in control.
    controllers = sorted(_checked_controllers(settings.controllers or [call.caller]))
    cycles = INITIAL_CYCLES if arg.amount is None else _checked_amount(arg.amount)
    canister = await host.create(request_id, Birth(controllers, cycles, _changes(settings)))
    if canister is None:
        raise CanisterTrapped("the canister that this message made was deleted since")
    return CanisterIdRecord(canister_id=canister.id)


async def fetch_canister_logs(call: Call, arg: FetchLogsRecord, *, host: Host) -> LogsRecord:
    _check_target(call, arg.canister_id)
    sees_all = all(call.caller in canister.controllers for canister in host.canisters)
    lines = logs.RECENT.lines(None if sees_all else call.canister.name)
    wanted = arg.filter or LogFilter()
    return LogsRecord(
        canister_log_records=[
            LogLineRecord(idx=line.index, timestamp_nanos=line.time_ns, content=line.text)
            for line in lines
            if _is_in(line.index, wanted.by_idx) and _is_in(line.time_ns, wanted.by_timestamp_nanos)
        ]
    )


def _is_in(number: int, wanted: LogRange | None) -> bool:
    return wanted is None or wanted.start <= number < wanted.end


async def delete_canister(call: Call, arg: CanisterIdRecord, *, host: Host, request_id: bytes) -> None:
    await host.delete(arg.canister_id, call.caller)


def _changes(settings: CanisterSettings) -> dict[str, object]:
    """The settings as fields of the State."""
    changes: dict[str, object] = settings.model_dump(exclude={"controllers", "log_visibility"}, exclude_none=True)
    if settings.log_visibility is not None:
        changes["log_visibility"] = settings.log_visibility.value
    return changes


def _checked_controllers(controllers: list[str]) -> set[str]:
    named = set(controllers)
    if len(named) > MAX_CONTROLLERS:
        raise BadArgument(f"a canister has at most {MAX_CONTROLLERS} controllers, not {len(named)}")
    if principals.ANONYMOUS in named:
        raise BadArgument(f"{principals.ANONYMOUS} is the anonymous caller; everybody would control the canister")
    return named


def _checked_amount(amount: int) -> int:
    if not 0 <= amount < 1 << 62:
        raise BadArgument(f"{amount} cycles are more than a canister can hold")
    return amount


def _add_cycles(call: Call, amount: int) -> None:
    ledger = call.canister.ledger
    _checked_amount(amount)
    ledger.add(call.tx, amount)
    call.on_commit(lambda: ledger.committed(amount))


def _check_target(call: Call, canister_id: str) -> None:
    # The door has sent the call to the canister in the URL; the argument must mean the same.
    if canister_id != call.canister.id:
        raise BadArgument(
            f"the argument is about canister {canister_id}, but the effective canister id is {call.canister.id}"
        )
