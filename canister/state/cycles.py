"""What calls cost: the canister's cycles, and the log of its calls. Charged in the transaction of the call itself.

The balance is changed by differences, so that calls may commit in any order; the log keeps the newest KEPT_CALLS.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import bindparam, delete, func, insert, select, update

from canister.metering.fees import INITIAL_CYCLES, Charge, Outcome
from canister.store import tables
from canister.store.database import Database
from canister.store.statements import Prepared

if TYPE_CHECKING:
    from canister.store.transaction import Transaction

KEPT_CALLS = 10_000
_CYCLES = "cycles"

_ADD = Prepared(
    update(tables.ledger)
    .where(tables.ledger.c.name == _CYCLES)
    .values(amount=tables.ledger.c.amount + bindparam("difference"))
)
_LOG = Prepared(
    insert(tables.call_log),
    *("caller", "method", "timestamp_ns", "outcome", "instructions", "cycles", "limit", "parts"),
)
_PRUNE = Prepared(
    delete(tables.call_log).where(
        tables.call_log.c.id <= select(func.max(tables.call_log.c.id)).scalar_subquery() - KEPT_CALLS
    )
)


@dataclass(frozen=True, slots=True)
class LoggedCall:
    """A row of the call log; ids rise with time."""

    id: int
    caller: str
    method: str
    timestamp_ns: int
    outcome: Outcome
    charge: Charge


class Ledger:
    """The committed balance in memory, and the rows behind it."""

    def __init__(self, database: Database, initial_cycles: int = INITIAL_CYCLES) -> None:
        self._database = database
        self._balance = initial_cycles

    @property
    def cycles(self) -> int:
        """The balance; below zero when it is tracked only and was overdrawn."""
        return self._balance

    def load(self) -> None:
        """Read the balance; a new canister gets its first cycles."""

        def first_or_known(connection) -> int:  # type: ignore[no-untyped-def]
            table = tables.ledger
            amount = connection.execute(select(table.c.amount).where(table.c.name == _CYCLES)).scalar()
            if amount is None:
                connection.execute(insert(table).values(name=_CYCLES, amount=self._balance))
                return self._balance
            return int(amount)

        self._balance = self._database.submit(first_or_known).result()

    def charge(
        self, transaction: Transaction, caller: str, method: str, now_ns: int, outcome: Outcome, charge: Charge
    ) -> None:
        """Draw the cycles and log the call, when this transaction commits; `committed` is to be called then."""
        self.add(transaction, -charge.cycles)
        row = {
            "caller": caller,
            "method": method,
            "timestamp_ns": now_ns,
            "outcome": outcome,
            "instructions": charge.instructions,
            "cycles": charge.cycles,
            "limit": charge.limit,
            "parts": dict(charge.parts),
        }
        transaction.execute(_LOG, row)
        transaction.execute(_PRUNE)

    def add(self, transaction: Transaction, cycles: int) -> None:
        """Change the balance by so many cycles, when this transaction commits."""
        if cycles:
            transaction.execute(_ADD, {"difference": cycles})

    def committed(self, cycles: int) -> None:
        """The balance has changed by so much."""
        self._balance += cycles

    def calls(self, caller: str | None, before_id: int | None, max_entries: int) -> list[LoggedCall]:
        """The newest calls first. caller: None for those of all. before_id: only calls with a smaller id."""
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
                Charge(row.instructions, row.cycles, row.limit, row.parts),
            )
            for row in rows
        ]
