"""The control log of each canister: the updates of its small state, numbered from 1 without gaps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, insert, select, update

from canister.herd.journal import canisters, leading
from canister.herd.journal.records import ControlEntry
from canister.herd.journal.tables import canister, control


@dataclass(frozen=True, slots=True)
class Append:
    """object: SHA-256 of the argument, where that lies in the objects; arg is None then. job: that may ask again."""

    epoch: int
    canister: str
    caller: str
    method: str
    arg: bytes | None
    object: bytes | None
    now_ns: int
    job: bytes | None = None


def append(connection: Connection, entries: Sequence[Append]) -> list[int | Exception]:
    """The number of each entry."""
    epoch = leading.epoch(connection)
    results: list[int | Exception] = []
    for entry in entries:
        if entry.epoch != epoch:
            results.append(leading.lost())
            continue
        canisters.lock(connection, entry.canister)
        rev = rev_of(connection, entry.canister) + 1
        connection.execute(update(canister).where(canister.c.name == entry.canister).values(rev=rev))
        values: dict[str, object] = {
            "caller": entry.caller,
            "method": entry.method,
            "arg": entry.arg,
            "object": entry.object,
        }
        values |= {"now_ns": entry.now_ns, "job": entry.job}
        connection.execute(insert(control).values(canister=entry.canister, rev=rev, **values))
        results.append(rev)
    return results


def rev_of(connection: Connection, name: str) -> int:
    """The number of the newest entry; 0 for none."""
    found = connection.execute(select(canister.c.rev).where(canister.c.name == name)).scalar_one_or_none()
    return 0 if found is None else int(found)


def since(connection: Connection, name: str, rev: int, max_entries: int) -> list[ControlEntry]:
    """The entries after `rev`, oldest first."""
    c = control.c
    query = select(control).where(c.canister == name, c.rev > rev).order_by(c.rev).limit(max_entries)
    return [_entry(row) for row in connection.execute(query)]


def of_job(connection: Connection, name: str, job: bytes) -> ControlEntry | None:
    """The entry that was made for a job."""
    row = connection.execute(select(control).where(control.c.canister == name, control.c.job == job)).first()
    return None if row is None else _entry(row)


def _entry(row: Row[Any]) -> ControlEntry:
    return ControlEntry(row.canister, row.rev, row.caller, row.method, row.arg, row.object, row.now_ns)
