"""Processes: who owns one, how far it has come, what it publishes, when its timer is due."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from sqlalchemy import Connection, LargeBinary, delete, func, insert, select, update

from canister.ao.journal.codec import pack_entry, unpack_entry
from canister.ao.lua import values
from canister.ao.lua.calls import Entry, Snapshot
from canister.ao.lua.values import Value
from canister.ao.processes.messages import ProcessInfo, ProcessKind, pack_tags, unpack_tags
from canister.ao.signing.tags import Tag
from canister.store.tables import ao_calls as calls
from canister.store.tables import ao_processes as table
from canister.store.tables import ao_snapshots as snapshots

Tree = Mapping[bytes | int | float, Value]


@dataclass(frozen=True, slots=True)
class Used:
    """What a canister was charged for a process' model."""

    instructions: int
    cycles: int


def make(connection: Connection, id: str, owner: str, module: str, kind: ProcessKind, tags: Sequence[Tag]) -> None:
    row = {"id": id, "owner": owner, "module": module, "kind": kind, "tags": pack_tags(tags)}
    counts = {"n_slots": 0, "n_done": 0, "n_calls": 0, "instructions": 0, "cycles": 0}
    connection.execute(insert(table), row | counts)


def find(connection: Connection, id: str) -> ProcessInfo | None:
    row = connection.execute(select(table).where(table.c.id == id)).mappings().one_or_none()
    if row is None:
        return None
    kind = cast(ProcessKind, row["kind"])
    is_monitored = row["cron_ms"] is not None
    return ProcessInfo(
        row["id"], row["owner"], row["module"], unpack_tags(row["tags"]), kind, row["n_slots"], is_monitored
    )


def exists(connection: Connection, id: str) -> bool:
    return connection.execute(select(table.c.id).where(table.c.id == id)).first() is not None


def count(connection: Connection) -> int:
    return int(connection.execute(select(func.count()).select_from(table)).scalar_one())


def waiting(connection: Connection) -> list[str]:
    """Those with messages that were not run."""
    return list(connection.execute(select(table.c.id).where(table.c.n_done < table.c.n_slots)).scalars())


def backlog(connection: Connection, id: str) -> int:
    query = select(table.c.n_slots - table.c.n_done).where(table.c.id == id)
    return int(connection.execute(query).scalar_one_or_none() or 0)


def log(connection: Connection, id: str, first: int = 0, end: int | None = None) -> list[Entry]:
    """Calls from `first` on, up to `end`."""
    query = select(calls.c.entry).where(calls.c.process == id, calls.c.number >= first).order_by(calls.c.number)
    if end is not None:
        query = query.where(calls.c.number < end)
    return [unpack_entry(data) for data in connection.execute(query).scalars()]


def snapshot(connection: Connection, id: str) -> Snapshot | None:
    data = snapshots.c.data.cast(LargeBinary).label("data")  # whatever somebody's SQL has made of it
    wanted = select(snapshots.c.n_calls, snapshots.c.world, snapshots.c.digest, data)
    row = connection.execute(wanted.where(snapshots.c.process == id)).one_or_none()
    return None if row is None else Snapshot(row.n_calls, row.world, row.digest, row.data)


def keep_snapshot(connection: Connection, id: str, kept: Snapshot) -> None:
    """In place of the one before."""
    connection.execute(delete(snapshots).where(snapshots.c.process == id))
    row = {"process": id, "n_calls": kept.n_calls, "world": kept.world, "digest": kept.digest, "data": kept.data}
    connection.execute(insert(snapshots), row)


def append_log(connection: Connection, id: str, entries: Sequence[Entry]) -> None:
    if not entries:
        return
    n = int(connection.execute(select(table.c.n_calls).where(table.c.id == id)).scalar_one())
    rows = [{"process": id, "number": n + i, "entry": pack_entry(entry)} for i, entry in enumerate(entries)]
    connection.execute(insert(calls), rows)
    connection.execute(update(table).where(table.c.id == id).values(n_calls=n + len(rows)))


def kept(connection: Connection, id: str) -> bytes | None:
    found: bytes | None = connection.execute(select(table.c.kept).where(table.c.id == id)).scalar_one_or_none()
    return found


def keep(connection: Connection, id: str, data: bytes, used: Used) -> None:
    """What its model has read and said, and what that cost on top."""
    change = {
        "kept": data,
        "instructions": table.c.instructions + used.instructions,
        "cycles": table.c.cycles + used.cycles,
    }
    connection.execute(update(table).where(table.c.id == id).values(change))


def used(connection: Connection, id: str) -> Used:
    row = connection.execute(select(table.c.instructions, table.c.cycles).where(table.c.id == id)).one()
    return Used(row[0], row[1])


def published(connection: Connection, id: str) -> dict[bytes | int | float, Value]:
    data = connection.execute(select(table.c.published).where(table.c.id == id)).scalar_one_or_none()
    (found,) = values.decode(data) if data else ({},)
    return dict(found) if isinstance(found, Mapping) else {}


def publish(connection: Connection, id: str, tree: Tree) -> None:
    connection.execute(update(table).where(table.c.id == id).values(published=values.encode(tree)))


# -- timers


def set_timer(connection: Connection, id: str, every_ms: int | None, due_ms: int | None) -> None:
    """every_ms: None: no timer."""
    connection.execute(update(table).where(table.c.id == id).values(cron_ms=every_ms, cron_due_ms=due_ms))


def due(connection: Connection, now_ms: int) -> list[tuple[str, int, int]]:
    """Processes whose timer is due: their id, when it was, and the interval."""
    query = select(table.c.id, table.c.cron_due_ms, table.c.cron_ms).where(table.c.cron_due_ms <= now_ms)
    return [(row[0], row[1], row[2]) for row in connection.execute(query)]


def next_due_ms(connection: Connection) -> int | None:
    found: int | None = connection.execute(select(func.min(table.c.cron_due_ms))).scalar_one()
    return found
