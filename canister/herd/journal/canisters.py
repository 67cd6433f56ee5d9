"""What callers see of a canister beside its chats: cycles, call log, saved chats."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, bindparam, delete, insert, select, text, update

from canister.api.herd_wire import Saved
from canister.herd.journal.statements import Rows, Statement
from canister.herd.journal.tables import call_log, canister, saved_chat
from canister.metering.fees import INITIAL_CYCLES, CallOutcome, Charge
from canister.state.call_log import KEPT_CALLS, LoggedCall, charge_of
from canister.state.saved_chats import KEPT_PER_CALLER, SavedChat


@dataclass(frozen=True, slots=True)
class Found:
    """A canister that is served. cycles: its first ones, if it is new."""

    name: str
    cycles: int = INITIAL_CYCLES


@dataclass(frozen=True, slots=True)
class Entry:
    """A call that is no job, or cycles that came (charge None)."""

    canister: str
    caller: str
    method: str
    now_ns: int
    outcome: CallOutcome
    charge: Charge | None
    cycles_added: int = 0
    saved: Saved | None = None


class Diary:
    """Calls of a transaction: what they cost, and their rows in the call log."""

    def __init__(self) -> None:
        self._rows: list[dict[str, Any]] = []
        self._cycles: Counter[str] = Counter()

    def add(
        self, canister: str, caller: str, method: str, now_ns: int, outcome: CallOutcome, charge: Charge | None
    ) -> None:
        if charge is None:
            return
        self._cycles[canister] -= charge.cycles
        self._rows.append(
            {
                "canister": canister,
                "caller": caller,
                "method": method,
                "timestamp_ns": now_ns,
                "outcome": outcome,
                "instructions": charge.instructions,
                "cycles": charge.cycles,
                "limit": charge.limit,
                "parts": dict(charge.parts),
                "n_prompt": charge.n_prompt,
                "n_generated": charge.n_generated,
            }
        )

    def add_cycles(self, canister: str, cycles: int) -> None:
        self._cycles[canister] += cycles

    def write(self, connection: Connection) -> None:
        for name, difference in sorted(self._cycles.items()):
            row = {"name": name, "first": INITIAL_CYCLES + difference, "difference": difference}
            _ADD_CYCLES.run(connection, [row])
        _LOG.run(connection, self._rows)


def log(connection: Connection, entries: Sequence[Entry]) -> list[Exception | None]:
    """Calls that were run without a job: their rows, and their cycles."""
    diary = Diary()
    for entry in entries:
        diary.add(entry.canister, entry.caller, entry.method, entry.now_ns, entry.outcome, entry.charge)
        if entry.cycles_added:
            diary.add_cycles(entry.canister, entry.cycles_added)
        if entry.saved is not None:
            save_chat(connection, entry.canister, entry.caller, entry.saved, entry.now_ns)
    diary.write(connection)
    return [None] * len(entries)


def found(connection: Connection, canisters: Sequence[Found]) -> list[int | Exception]:
    """The cycles of canisters; a new one gets its first."""
    return [lock(connection, one.name, one.cycles) for one in canisters]


def lock(connection: Connection, name: str, first_cycles: int = INITIAL_CYCLES) -> int:
    """Lock a canister's row, made if need be; returns its cycles."""
    found = _LOCK.fetch(connection, {"of_name": name})
    if found:
        return int(found[0][0])
    _NEW.run(connection, [{"name": name, "rev": 0, "cycles": first_cycles}])
    return first_cycles


def save_chat(connection: Connection, name: str, caller: str, saved: Saved, now_ns: int) -> None:
    """Begin a saved chat, or set the text of the newest one. The caller's oldest beyond KEPT_PER_CALLER go."""
    c = saved_chat.c
    newest = select(c.id).where(c.canister == name, c.caller == caller).order_by(c.id.desc()).limit(KEPT_PER_CALLER)
    ids = list(connection.scalars(newest))
    if saved.started or (saved.chat is not None and not ids):
        started = f"{dt.datetime.fromtimestamp(now_ns / 1e9, dt.UTC):%Y-%m-%d_%H-%M-%S}"
        row = {"canister": name, "caller": caller, "timestamp": started, "created_ns": now_ns, "chat": saved.chat or ""}
        connection.execute(insert(saved_chat), row)
        if len(ids) == KEPT_PER_CALLER:
            gone = delete(saved_chat).where(c.canister == name, c.caller == caller, c.id <= ids[-1])
            connection.execute(gone)
    elif saved.chat is not None:
        connection.execute(update(saved_chat).where(c.id == ids[0]).values(chat=saved.chat))


# -- reading


def cycles(connection: Connection, name: str) -> int | None:
    found = connection.execute(select(canister.c.cycles).where(canister.c.name == name)).scalar_one_or_none()
    return None if found is None else int(found)


def saved_chats(connection: Connection, name: str, caller: str) -> list[SavedChat]:
    """The caller's chats, newest first."""
    c = saved_chat.c
    query = select(c.timestamp, c.chat).where(c.canister == name, c.caller == caller).order_by(c.id.desc())
    return [SavedChat(*row) for row in connection.execute(query)]


def calls(
    connection: Connection, name: str, caller: str | None, before_id: int | None, max_entries: int
) -> list[LoggedCall]:
    """The newest calls first. caller None: of all callers. before_id: only calls with a smaller id."""
    c = call_log.c
    query = select(call_log).where(c.canister == name).order_by(c.id.desc()).limit(max_entries)
    if caller is not None:
        query = query.where(c.caller == caller)
    if before_id is not None:
        query = query.where(c.id < before_id)
    return [
        LoggedCall(row.id, row.caller, row.method, row.timestamp_ns, row.outcome, charge_of(row))
        for row in connection.execute(query)
    ]


def purge(connection: Connection) -> None:
    """Drop the calls of each canister beyond the newest KEPT_CALLS."""
    c = call_log.c
    for name in connection.scalars(select(canister.c.name)).all():
        last = select(c.id).where(c.canister == name).order_by(c.id.desc()).offset(KEPT_CALLS).limit(1)
        oldest = connection.execute(last).scalar_one_or_none()
        if oldest is not None:
            connection.execute(delete(call_log).where(c.canister == name, c.id <= oldest))


_of_name = canister.c.name == bindparam("of_name")
_LOCK = Statement(select(canister.c.cycles).where(_of_name).with_for_update())
_NEW = Statement(insert(canister), ("name", "rev", "cycles"))
_ADD_CYCLES = Statement(
    text(
        "INSERT INTO canister (name, rev, cycles) VALUES (:name, 0, :first) "
        "ON CONFLICT (name) DO UPDATE SET cycles = canister.cycles + :difference"
    )
)
_LOG = Rows(
    call_log,
    (
        *("canister", "caller", "method", "timestamp_ns", "outcome"),
        *("instructions", "cycles", "limit", "parts", "n_prompt", "n_generated"),
    ),
)
