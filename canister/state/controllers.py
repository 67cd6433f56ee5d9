"""Who controls a canister: the principals that the operator configured, until `update_settings` names others.

From then on only the rows of the `controllers` table count. An empty list gives control back to the configured ones, so
no canister is ever without controllers.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from sqlalchemy import delete, insert, select

from canister.state.unit_of_work import UnitOfWork
from canister.store import tables
from canister.store.database import Database


class Controllers(Collection[str]):
    """The committed controllers: `principal in controllers`, and iteration in sorted order."""

    def __init__(self, database: Database, configured: Iterable[str]) -> None:
        self._database = database
        self._configured = frozenset(configured)
        self._named: frozenset[str] = frozenset()

    def load(self) -> None:
        with self._database.read() as connection:
            self._named = frozenset(connection.execute(select(tables.controllers.c.principal)).scalars())

    def __contains__(self, principal: object) -> bool:
        return principal in (self._named or self._configured)

    def __len__(self) -> int:
        return len(self._named or self._configured)

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._named or self._configured))

    def replace(self, work: UnitOfWork, principals: Iterable[str]) -> None:
        """Give control to these principals only, when the call commits."""
        named = frozenset(principals)
        work.tx.execute(delete(tables.controllers))
        for principal in sorted(named):
            work.tx.execute(insert(tables.controllers).values(principal=principal))

        def apply() -> None:
            self._named = named

        work.on_commit(apply)
