"""The canisters of a server: a row for each name or message that made one. Rows stay when canisters are deleted."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Connection, func, insert, select, update

from canister.ic import principal as principals
from canister.store.database import Database
from canister.store.tables import canisters

_table = canisters.c
_KNOWN = select(_table.id, _table.name, _table.deleted_ns, _table.birth)


@dataclass(frozen=True, slots=True)
class Birth:
    """What a canister begins with that a message makes. state: fields of the State."""

    controllers: Sequence[str]
    cycles: int
    state: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class KnownCanister:
    """birth: of a canister that a message made; None for one that the settings name."""

    id: str
    name: str
    is_deleted: bool
    birth: Birth | None


class Canisters:
    """The rows, in the server's database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def ids_of(self, names: Sequence[str]) -> dict[str, str]:
        """The id of each name: its own, or the next free one. A name keeps its id while it is not served."""
        return self._database.submit(lambda connection: _ids_of(connection, names)).result()

    def all(self) -> list[KnownCanister]:
        """Existing and deleted canisters, the oldest first."""
        with self._database.read() as connection:
            rows = connection.execute(
                select(_table.id, _table.name, _table.deleted_ns, _table.birth).order_by(_table.created_ns)
            ).all()
        return [
            KnownCanister(
                row.id, row.name, row.deleted_ns is not None, None if row.birth is None else Birth(**row.birth)
            )
            for row in rows
        ]

    def made_by(self, request_id: bytes) -> KnownCanister | None:
        """The canister that this message made."""
        with self._database.read() as connection:
            row = connection.execute(_KNOWN.where(_table.request_id == request_id)).first()
        return None if row is None else _known(*row)

    async def add(self, request_id: bytes, birth: Birth) -> KnownCanister:
        """A canister that a message makes; its name is its id."""

        def write(connection: Connection) -> str:
            canister_id = _free_id(connection)
            row = {"name": canister_id, "id": canister_id, "created_ns": time.time_ns()}
            connection.execute(insert(canisters).values(**row, request_id=request_id, birth=asdict(birth)))
            return canister_id

        canister_id = await asyncio.wrap_future(self._database.submit(write))
        return KnownCanister(canister_id, canister_id, False, birth)

    async def mark_deleted(self, canister_id: str) -> None:
        """Mark it as deleted, whatever happens to its folder. Its id is never given again."""
        mark = update(canisters).where(_table.id == canister_id).values(deleted_ns=time.time_ns())
        await asyncio.wrap_future(self._database.submit(lambda connection: connection.execute(mark).rowcount))


def _known(id: str, name: str, deleted_ns: int | None, birth: dict[str, Any] | None) -> KnownCanister:
    return KnownCanister(id, name, deleted_ns is not None, None if birth is None else Birth(**birth))


def _ids_of(connection: Connection, names: Sequence[str]) -> dict[str, str]:
    known = {row.name: row.id for row in connection.execute(select(_table.name, _table.id))}
    for name in names:
        if name not in known:
            known[name] = _free_id(connection)
            connection.execute(insert(canisters).values(name=name, id=known[name], created_ns=time.time_ns()))
    return known


def _free_id(connection: Connection) -> str:
    taken = set(connection.execute(select(_table.id)).scalars())
    index = connection.execute(select(func.count()).select_from(canisters)).scalar_one()
    while principals.canister_id(index) in taken:
        index += 1
    return principals.canister_id(index)
