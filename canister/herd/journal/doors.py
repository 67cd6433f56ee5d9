"""The doors beside the leader, and what all of them have alike, so that a caller cannot tell which one leads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, delete, insert, select

from canister.herd.journal import leading
from canister.herd.journal.records import Door
from canister.herd.journal.tables import door, shared


@dataclass(frozen=True, slots=True)
class Share:
    """What is to be had by all doors, by name; another leader's is left alone."""

    epoch: int
    contents: Mapping[str, bytes]


def stand_by(connection: Connection, doors: Sequence[Door]) -> list[Exception | None]:
    """Note that these doors are there."""
    for one in doors:
        connection.execute(delete(door).where(door.c.address == one.address))
        connection.execute(insert(door).values(address=one.address, holder=one.holder, seen_ns=one.seen_ns))
    return [None] * len(doors)


def seen(connection: Connection, since_ns: int) -> list[Door]:
    """The doors that have been there since then, by address."""
    query = select(door.c.holder, door.c.address, door.c.seen_ns).where(door.c.seen_ns >= since_ns)
    return [Door(*row) for row in connection.execute(query.order_by(door.c.address))]


def share(connection: Connection, steps: Sequence[Share]) -> list[Exception | None]:
    epoch = leading.epoch(connection)
    results: list[Exception | None] = []
    for step in steps:
        if step.epoch != epoch:
            results.append(leading.lost())
            continue
        for name, content in step.contents.items():
            connection.execute(delete(shared).where(shared.c.name == name))
            connection.execute(insert(shared).values(name=name, content=content))
        results.append(None)
    return results


def contents(connection: Connection) -> dict[str, bytes]:
    return {row.name: bytes(row.content) for row in connection.execute(select(shared.c.name, shared.c.content))}
