"""The log of a canister's calls and their costs. A call is logged in its own transaction, and the newest are kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Row, bindparam, delete, insert, select

from canister.metering.fees import CallOutcome, Charge
from canister.store import tables
from canister.store.database import Database
from canister.store.statements import Prepared

if TYPE_CHECKING:
    from canister.store.transaction import Transaction

KEPT_CALLS = 10_000
PRUNED_AT_ONCE = 64  # calls; so many more may be there

_LOG = Prepared(
    insert(tables.call_log),
    *("caller", "method", "timestamp_ns", "outcome"),
    *("instructions", "cycles", "limit", "parts", "n_prompt", "n_generated"),
)
_PRUNE = Prepared(delete(tables.call_log).where(tables.call_log.c.id <= bindparam("last")))


@dataclass(frozen=True, slots=True)
class LoggedCall:
    """A row of the call log; ids rise with time."""

    id: int
    caller: str
    method: str
    timestamp_ns: int
    outcome: CallOutcome
    charge: Charge


def charge_of(row: Row[Any]) -> Charge:
    """What a row of `call_columns` cost."""
    tokens = {"n_prompt": row.n_prompt, "n_generated": row.n_generated}
    return Charge(row.instructions, row.cycles, row.limit, row.parts, **tokens)


class CallLog:
    def __init__(self, database: Database) -> None:
        self._database = database

    def add(
        self, transaction: Transaction, caller: str, method: str, now_ns: int, outcome: CallOutcome, charge: Charge
    ) -> None:
        """Log a call when this transaction commits, and now and then drop the oldest beyond KEPT_CALLS."""
        row = {
            "caller": caller,
            "method": method,
            "timestamp_ns": now_ns,
            "outcome": outcome,
            "instructions": charge.instructions,
            "cycles": charge.cycles,
            "limit": charge.limit,
            "parts": dict(charge.parts),
            "n_prompt": charge.n_prompt,
            "n_generated": charge.n_generated,
        }

        def log(connection: Connection) -> None:
            id = _LOG.run(connection, row).lastrowid
            if id is not None and id % PRUNED_AT_ONCE == 0:
                _PRUNE.run(connection, {"last": id - KEPT_CALLS})

        transaction.run(log)

    def newest(self, caller: str | None, before_id: int | None, max_entries: int) -> list[LoggedCall]:
        """The newest calls first. caller: None for all callers. before_id: only calls with a smaller id."""
        table = tables.call_log
        query = select(table).order_by(table.c.id.desc()).limit(max_entries)
        if caller is not None:
            query = query.where(table.c.caller == caller)
        if before_id is not None:
            query = query.where(table.c.id < before_id)
        with self._database.read() as connection:
            rows = connection.execute(query).all()
        return [
            LoggedCall(
                row.id,
                row.caller,
                row.method,
                row.timestamp_ns,
                row.outcome,
                charge_of(row),
            )
            for row in rows
        ]
