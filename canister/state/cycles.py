"""The cycles of a canister: the committed balance in memory, and its row.

The balance is changed by differences, so that calls may commit in any order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import bindparam, insert, select, update

from canister.metering.fees import INITIAL_CYCLES
from canister.store import tables
from canister.store.database import Database
from canister.store.statements import Prepared

if TYPE_CHECKING:
    from canister.store.transaction import Transaction

_CYCLES = "cycles"

_ADD = Prepared(
    update(tables.ledger)
    .where(tables.ledger.c.name == _CYCLES)
    .values(amount=tables.ledger.c.amount + bindparam("difference"))
)


class Ledger:
    """The committed balance in memory, and the row behind it."""

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

    def add(self, transaction: Transaction, cycles: int) -> None:
        """Change the balance by so many cycles, when this transaction commits."""
        if cycles:
            transaction.execute(_ADD, {"difference": cycles})

    def committed(self, cycles: int) -> None:
        """The balance has changed by so much."""
        self._balance += cycles
