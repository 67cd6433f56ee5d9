"""How far a worker of a herd has come with one canister: the leader's epoch, and the entry of the control log.

Both only grow. The entry is marked in the transaction that commits it, so no entry is run twice or left out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Literal

from sqlalchemy import select
from sqlalchemy.dialects.sqlite import insert

from canister.store import tables
from canister.store.database import Database
from canister.store.statements import Prepared

Statement = tuple[Prepared, Mapping[str, object]]

_table = tables.herd_marks
_SET = insert(_table)
_MARK = Prepared(
    _SET.on_conflict_do_update(index_elements=["name"], set_={"value": _SET.excluded.value}), "name", "value"
)


class HerdMarks:
    """The committed marks. epoch: the highest that a leader has shown. rev: of the last entry that was run."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.epoch = 0
        self.rev = 0

    def load(self) -> None:
        with self._database.read() as connection:
            rows = connection.execute(select(_table.c.name, _table.c.value)).all()
        found: dict[str, int] = {row.name: row.value for row in rows}
        self.epoch, self.rev = found.get("epoch", 0), found.get("rev", 0)

    async def see_epoch(self, epoch: int) -> None:
        """From now on, also after a crash, leaders of lower epochs do not count."""
        if epoch > self.epoch:
            statement, row = mark("epoch", epoch)
            await asyncio.wrap_future(self._database.submit(lambda connection: statement.run(connection, row)))
            self.epoch = max(self.epoch, epoch)


def mark(name: Literal["epoch", "rev"], value: int) -> Statement:
    """The statement that sets a mark, and its values, for the transaction in which it holds."""
    return _MARK, {"name": name, "value": value}
