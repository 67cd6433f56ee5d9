"""The admin roles of a canister: committed rows in memory, changed through a call's transaction."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from sqlalchemy import delete, select
from sqlalchemy.dialects.sqlite import insert

from canister.state.unit_of_work import UnitOfWork
from canister.store import tables
from canister.store.database import Database


@dataclass(frozen=True, slots=True)
class Assignment:
    """principal: any text. role: AdminQuery or AdminUpdate. assigned_at: ns since 1970."""

    principal: str
    role: str
    note: str
    assigned_by: str
    assigned_at: int


class Roles:
    """The committed roles: `principal in roles` and `roles.get(principal)`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._rows: dict[str, Assignment] = {}

    def load(self) -> None:
        table = tables.admin_roles.c
        with self._database.read() as connection:
            rows = connection.execute(
                select(table.principal, table.role, table.note, table.assigned_by, table.assigned_at).order_by(table.id)
            ).all()
        self._rows = {row.principal: Assignment(*row) for row in rows}

    def __contains__(self, principal: str) -> bool:
        return principal in self._rows

    def get(self, principal: str) -> str | None:
        row = self._rows.get(principal)
        return row.role if row is not None else None

    def all(self) -> list[Assignment]:
        """All roles in the order in which they were first assigned."""
        return list(self._rows.values())

    def assign(self, work: UnitOfWork, principal: str, role: str, note: str) -> None:
        """Give the role instead of the principal's present one. Its place in the order stays."""
        assignment = Assignment(principal, role, note, assigned_by=work.caller, assigned_at=work.now_ns)
        values = asdict(assignment)
        statement = insert(tables.admin_roles).values(**values)
        work.tx.execute(statement.on_conflict_do_update(index_elements=["principal"], set_=values))
        work.on_commit(lambda: self._rows.update({principal: assignment}))

    def revoke(self, work: UnitOfWork, principal: str) -> None:
        work.tx.execute(delete(tables.admin_roles).where(tables.admin_roles.c.principal == principal))

        def forget() -> None:
            self._rows.pop(principal, None)

        work.on_commit(forget)
