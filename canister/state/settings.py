"""The small durable state of a canister as one frozen record; each field is a row of the `settings` table."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.dialects.sqlite import insert

from canister.store import tables
from canister.store.database import Database
from canister.store.statements import Prepared
from canister.store.transaction import Transaction

_table = tables.settings
_SETTING = insert(_table)
_SET = Prepared(
    _SETTING.on_conflict_do_update(index_elements=["key"], set_={"value": _SETTING.excluded.value}), "key", "value"
)


@dataclass(frozen=True, slots=True)
class State:
    """The defaults are those of a new canister. Times are in ns since 1970."""

    access_level: int = 0
    max_tokens_update: int = 0
    max_tokens_query: int = 0
    chats_on: bool = False
    log_on: bool = True

    model_args: tuple[str, ...] | None = None  # flags of the last load_model that succeeded

    # what `update_settings` of the management canister sets; told again, and not acted upon
    compute_allocation: int = 0
    memory_allocation: int = 0
    freezing_threshold: int = 2_592_000
    reserved_cycles_limit: int = 5_000_000_000_000
    log_visibility: str = "controllers"
    wasm_memory_limit: int = 3_221_225_472
    wasm_memory_threshold: int = 0

    is_stopped: bool = False

    cleanup_on: bool = False
    cleanup_period_seconds: int = 600
    cleanup_ttl_seconds: int = 21_600
    cleanup_max_files: int = 256
    cleanup_runs: int = 0
    cleanup_last_run_ns: int = 0
    cleanup_files_examined: int = 0
    cleanup_files_deleted: int = 0
    cleanup_files_failed: int = 0

    cycle_timer_on: bool = False
    cycle_reading: int = 0
    cycle_reading_ns: int = 0


FIELDS = frozenset(field.name for field in dataclasses.fields(State))


def changed(state: State, changes: Mapping[str, object]) -> State:
    """The state with some fields set; TypeError for what is no field."""
    if not changes:
        return state
    return dataclasses.replace(state, **changes)  # type: ignore[arg-type]  # handlers name and type their fields


def to_rows(changes: Mapping[str, object]) -> list[dict[str, object]]:
    """Rows `{key, value}` of the settings table; KeyError for what is no field."""
    for name in changes:
        if name not in FIELDS:
            raise KeyError(name)
    return [{"key": name, "value": value} for name, value in changes.items()]


def from_rows(rows: Iterable[tuple[str, object]], first: State = State()) -> State:
    """`first` with what the rows tell; rows of a later version that this one does not know are left alone."""
    values: dict[str, object] = {}
    for name, value in rows:
        if name in FIELDS:
            values[name] = tuple(value) if isinstance(value, list) else value
    return changed(first, values)


def load(database: Database, first: State) -> State:
    """`first` with the values of the table."""
    with database.read() as connection:
        rows = connection.execute(select(_table.c.key, _table.c.value)).all()
    return from_rows(((row.key, row.value) for row in rows), first)


def record(transaction: Transaction, changes: Mapping[str, object]) -> None:
    """Make changes of the State durable when this transaction commits."""
    for row in to_rows(changes):
        transaction.execute(_SET, row)
