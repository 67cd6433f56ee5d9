"""The management canister `aaaaa-aa`, as far as tools need it: making, deleting, status, settings, cycles, start, stop.

Its methods are rows like those of `interface.py`; they are run on the canister that they are about, through dispatch,
also while it is stopped. Those of OF_SERVER are bound to the host and run on its default canister. What has no meaning
here is refused by name. Types and texts are those of the IC interface specification, "The IC management canister".
"""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from canister.api.methods import Method, query, update
from canister.api.records import Candid, Record, Tag, Variant, blob, nat, nat64, text
from canister.errors import BadArgument, CanisterTrapped, MethodNotFound, NotController
from canister.ic import principal as principals
from canister.metering.fees import INITIAL_CYCLES
from canister.runtime.call import Call
from canister.telemetry import logs

if TYPE_CHECKING:
    from canister.runtime.host import Host
else:
    Host = object  # clients read these rows too, and need no server for it

ID = principals.MANAGEMENT
MAX_CONTROLLERS = 10

principal = Annotated[str, Candid("principal")]


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
    """What is absent stays as it is."""

    controllers: list[principal] | None = None
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
    controllers: list[principal]
    compute_allocation: nat
    memory_allocation: nat
    freezing_threshold: nat
    reserved_cycles_limit: nat
    log_visibility: LogVisibility
    log_memory_limit: nat
    wasm_memory_limit: nat
    wasm_memory_threshold: nat
    environment_variables: list[EnvironmentVariable]


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
    canister_log_records: list[LogLineRecord]


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


# -- who may


def _controller(call: Call) -> None:
    if call.caller not in call.canister.controllers:
        raise NotController(f"Only controllers of canister {call.canister.id} can call ic00 method {call.method}")


def _anyone(call: Call) -> None:
    pass


def _named(call: Call) -> None:
    if call.caller == principals.ANONYMOUS:
        raise NotController(f"The anonymous caller cannot call ic00 method {call.method}")


def _may_read_logs(call: Call) -> None:
    if call.state.log_visibility != LogVisibility.public.value and call.caller not in call.canister.controllers:
        raise NotController(
            f"Caller {call.caller} is not allowed to access canister logs: they are for the controllers of "
            f"{call.canister.id}, until update_settings makes log_visibility public"
        )


# -- methods


async def canister_status(call: Call, arg: CanisterIdRecord) -> CanisterStatus:
    """Status, settings, memory and cycles of a canister."""
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
        memory_size=canister.model.heap_bytes() + stable_bytes,
        memory_metrics=MemoryMetrics(wasm_memory_size=canister.model.heap_bytes(), stable_memory_size=stable_bytes),
        cycles=max(0, canister.ledger.cycles),
    )


async def update_settings(call: Call, arg: UpdateSettingsRecord) -> None:
    """Change controllers and other settings."""
    _check_target(call, arg.canister_id)
    changes = _changes(arg.settings)
    if changes:
        call.change(**changes)
    if arg.settings.controllers is not None:
        call.canister.controllers.replace(call.work, _checked_controllers(arg.settings.controllers))


async def provisional_top_up_canister(call: Call, arg: TopUpRecord) -> None:
    """Give a canister cycles that come from nowhere."""
    _check_target(call, arg.canister_id)
    _add_cycles(call, arg.amount)


async def deposit_cycles(call: Call, arg: CanisterIdRecord) -> None:
    """Give a canister the cycles that came with the call; a message from outside brings none."""
    _check_target(call, arg.canister_id)


async def start_canister(call: Call, arg: CanisterIdRecord) -> None:
    """Let calls in again."""
    _check_target(call, arg.canister_id)
    call.change(is_stopped=False)


async def stop_canister(call: Call, arg: CanisterIdRecord) -> None:
    """Let no calls in any more, and wait for those that run."""
    _check_target(call, arg.canister_id)
    call.change(is_stopped=True)
    await call.canister.others_done(call)


async def provisional_create_canister_with_cycles(
    call: Call, arg: ProvisionalCreateRecord, *, host: Host, request_id: bytes
) -> CanisterIdRecord:
    """Make a canister with cycles that come from nowhere."""
    from canister.runtime.host import Birth

    if arg.specified_id is not None:
        raise BadArgument("specified_id: this server gives the ids itself; leave it out")
    settings = arg.settings or CanisterSettings()
    # An empty list would leave nobody in control, and the folder to nobody.
    controllers = sorted(_checked_controllers(settings.controllers or [call.caller]))
    cycles = INITIAL_CYCLES if arg.amount is None else _checked_amount(arg.amount)
    canister = await host.create(request_id, Birth(controllers, cycles, _changes(settings)))
    if canister is None:
        raise CanisterTrapped("the canister that this message made was deleted since")
    return CanisterIdRecord(canister_id=canister.id)


async def fetch_canister_logs(call: Call, arg: FetchLogsRecord, *, host: Host) -> LogsRecord:
    """What was logged last about a canister; for who controls all canisters of the server, about that too."""
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
    """Delete a stopped canister and all that it holds."""
    await host.delete(arg.canister_id, call.caller)


def _changes(settings: CanisterSettings) -> dict[str, object]:
    """Settings as fields of the State."""
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


_ROWS = (
    query(canister_status, _controller, err=None),
    update(update_settings, _controller, err=None),
    update(provisional_top_up_canister, _anyone, err=None),
    update(deposit_cycles, _anyone, err=None),
    update(start_canister, _controller, err=None),
    update(stop_canister, _controller, err=None),
    update(provisional_create_canister_with_cycles, _named, err=None),
    update(delete_canister, _named, err=None),
    query(fetch_canister_logs, _may_read_logs, err=None),
)

METHODS = tuple(dataclasses.replace(row, runs_stopped=True) for row in _ROWS)

KNOWS_SERVER = frozenset({"fetch_canister_logs"})  # run on the canister that they are about, and given the host
OF_SERVER = frozenset({"provisional_create_canister_with_cycles", "delete_canister"})

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
    """A method of the management canister. MethodNotFound tells why one that the IC has is not here."""
    method = _BY_NAME.get(name)
    if method is None or (mode == "query" and method.mode != "query"):
        why = f": {_REFUSED[name]}" if name in _REFUSED else ""
        raise ManagementMethodNotFound(f"Management canister has no {mode} method '{name[:100]}'{why}")
    return method


def bound(method: Method, host: Host, request_id: bytes) -> Method:
    """A method of OF_SERVER for one message to this host."""
    return dataclasses.replace(method, handler=functools.partial(method.handler, host=host, request_id=request_id))


def with_host(method: Method, host: Host) -> Method:
    """A method of KNOWS_SERVER for this host."""
    return dataclasses.replace(method, handler=functools.partial(method.handler, host=host))


class ManagementMethodNotFound(MethodNotFound):
    error_code = "IC0515"
