"""Messages in their slots: each comes once, waits, and is run once, in order. And what came of it."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, RowMapping, insert, select, update

from canister.ao.processes.messages import (
    OFFSPRING,
    Delivered,
    Done,
    Incoming,
    Page,
    Place,
    Result,
    pack_result,
    pack_tags,
    unpack_result,
    unpack_tags,
)
from canister.store.tables import ao_messages as table
from canister.store.tables import ao_processes as processes


def deliver(
    connection: Connection, process: str, message: Incoming, sender: str, now_ms: int, offspring: int = OFFSPRING
) -> Place | None:
    """The next slot of a process that is there; None when this message has one already."""
    if at(connection, process, message.id) is not None:
        return None
    query = select(processes.c.n_slots).where(processes.c.id == process)
    slot = int(connection.execute(query).scalar_one())
    connection.execute(
        insert(table),
        {
            "process": process,
            "slot": slot,
            "id": message.id,
            "owner": message.owner,
            "sender": sender,
            "target": message.target,
            "data": message.data,
            "tags": pack_tags(message.tags),
            "anchor": message.anchor,
            "timestamp_ms": now_ms,
            "offspring": offspring,
        },
    )
    connection.execute(update(processes).where(processes.c.id == process).values(n_slots=slot + 1))
    return Place(process, slot, message.id)


def at(connection: Connection, process: str, id: str) -> Place | None:
    query = select(table.c.slot).where(table.c.process == process, table.c.id == id)
    slot = connection.execute(query).scalar_one_or_none()
    return None if slot is None else Place(process, int(slot), id)


def next_waiting(connection: Connection, process: str) -> Delivered | None:
    """The first that was not run."""
    found = waiting(connection, process, 1)
    return found[0] if found else None


def waiting(connection: Connection, process: str, limit: int) -> list[Delivered]:
    """The first ones that were not run, in order."""
    query = (
        select(table)
        .join(processes, processes.c.id == table.c.process)
        .where(table.c.process == process, table.c.slot >= processes.c.n_done)
        .order_by(table.c.slot)
        .limit(limit)
    )
    return [_delivered(row) for row in connection.execute(query).mappings()]


def finish(connection: Connection, place: Place, result: Result) -> bool:
    """It was run. False when it had been before, so that what is done with its result must not be done again."""
    where = (processes.c.id == place.process, processes.c.n_done == place.slot)
    if not connection.execute(update(processes).where(*where).values(n_done=place.slot + 1)).rowcount:
        return False
    change = update(table).where(table.c.process == place.process, table.c.slot == place.slot)
    connection.execute(change.values(result=pack_result(result)))
    return True


def find(connection: Connection, id: str) -> Delivered | None:
    """A message of any process, where it came first: there it is from whoever sent it."""
    query = select(table).where(table.c.id == id)
    first = query.order_by(table.c.timestamp_ms, table.c.slot).limit(1)
    row = connection.execute(first).mappings().one_or_none()
    return None if row is None else _delivered(row)


def known(connection: Connection, process: str, which: int | str) -> tuple[Place, Done | None] | None:
    """By its slot or its id, and what came of it, if it was run. None: there is no such message."""
    column = table.c.slot if isinstance(which, int) else table.c.id
    query = select(table.c.slot, table.c.id, table.c.timestamp_ms, table.c.result)
    row = connection.execute(query.where(table.c.process == process, column == which)).one_or_none()
    if row is None:
        return None
    place = Place(process, row[0], row[1])
    return place, None if row[3] is None else Done(place, row[2], unpack_result(row[3]))


def page(
    connection: Connection, process: str, after: int | None, before: int | None, newest_first: bool, limit: int
) -> Page:
    """Those that were run, between two slots, neither of which is part of it."""
    query = select(table.c.slot, table.c.id, table.c.timestamp_ms, table.c.result).where(
        table.c.process == process, table.c.result.is_not(None)
    )
    if after is not None:
        query = query.where(table.c.slot < after if newest_first else table.c.slot > after)
    if before is not None:
        query = query.where(table.c.slot > before if newest_first else table.c.slot < before)
    order: Any = table.c.slot.desc() if newest_first else table.c.slot
    rows = connection.execute(query.order_by(order).limit(limit + 1)).all()
    done = tuple(Done(Place(process, row[0], row[1]), row[2], unpack_result(row[3])) for row in rows[:limit])
    return Page(done, len(rows) > limit)


def _delivered(row: RowMapping) -> Delivered:
    tags = unpack_tags(row["tags"])
    message = Incoming(row["id"], row["owner"], row["target"], row["data"], tags, row["anchor"])
    place = Place(row["process"], row["slot"], row["id"])
    return Delivered(place, message, row["sender"], row["timestamp_ms"], row["offspring"])
