"""What happens by the clock: messages of processes' timers, and workers of herders that take too long."""

from __future__ import annotations

import re

from canister.ao.journal import messages, money, processes
from canister.ao.journal.connection import Connection
from canister.ao.native import herder
from canister.ao.processes.messages import Incoming, derived_id, tags_of
from canister.ao.units.settling import MAX_WAITING
from canister.errors import BadRequest

_UNITS = {"second": 1, "minute": 60, "hour": 3600, "day": 86400, "week": 604800, "month": 2592000, "year": 31536000}
_INTERVAL = re.compile(r"([1-9][0-9]{0,8})-([a-z]+?)s?")


def interval_ms(text: str | None) -> int:
    """Of a tag Cron-Interval, as `5-minutes`. Raises BadRequest."""
    found = _INTERVAL.fullmatch((text or "").lower())
    if found is None or found[2] not in _UNITS:
        shown = "no such tag" if text is None else repr(text[:40])
        raise BadRequest(f"a timer needs the tag Cron-Interval, such as 5-minutes; the process has {shown}")
    return int(found[1]) * _UNITS[found[2]] * 1000


def send_due(connection: Connection, node: str, now_ms: int, *, has_room: bool = True) -> tuple[int | None, set[str]]:
    """Send what timers are due for. When to look again, and which processes have something to do now.

    has_room: for messages of programs' timers.
    """
    woken: set[str] = set()
    for process, due_ms, every_ms in processes.due(connection, now_ms):
        info = processes.find(connection, process)
        assert info is not None
        tags = tuple((name[9:], value) for name, value in info.tags if name[:9].lower() == b"cron-tag-")
        message = Incoming(derived_id(process, "cron", due_ms), info.owner, process, b"", tags)
        if has_room and processes.backlog(connection, process) < MAX_WAITING:
            messages.deliver(connection, process, message, info.owner, now_ms)
            woken.add(process)
        processes.set_timer(connection, process, every_ms, max(due_ms + every_ms, now_ms + 1))
    soonest = now_ms
    for process, since_ms in money.herders_due(connection, now_ms):
        id = derived_id(process, herder.LEASES_OVER, since_ms)
        over = Incoming(id, node, process, b"", tags_of(Action=herder.LEASES_OVER))
        messages.deliver(connection, process, over, node, now_ms)
        woken.add(process)
        soonest = now_ms + 1000  # until the herder has seen it
    found = [due for due in (processes.next_due_ms(connection), money.next_due_ms(connection)) if due is not None]
    return (max(min(found), soonest) if found else None), woken
