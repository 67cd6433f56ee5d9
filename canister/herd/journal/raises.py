"""A job that waits is paid more for: the difference is held, and its row has the new fee, both or neither."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from canister.errors import BadRequest, Conflict, InsufficientBalance, NotFound
from canister.herd.journal import jobs, leading, money
from canister.herd.journal.statements import Rows
from canister.herd.journal.tables import job as table


@dataclass(frozen=True, slots=True)
class Raise:
    """hold: what the job is to hold from now on. epoch: of the leader that has it in its queue."""

    id: bytes
    hold: int
    multiplier: float
    epoch: int


def raise_holds(connection: Connection, steps: Sequence[Raise]) -> list[int | Exception]:
    """What each job holds now. A fee that it has already moves nothing, so that it may be asked for again."""
    epoch = leading.epoch(connection)
    rows = jobs.lock(connection, [step.id for step in steps])
    books = money.Books(connection, [row.payer for row in rows.values() if row.payer is not None])
    changes: dict[int, dict[str, Any]] = {}  # the last one of a job counts
    results: list[int | Exception] = []
    for step in steps:
        row = rows.get(step.id)
        error = _refusal(step, row, epoch)
        if row is None or row.payer is None or row.seq is None or error is not None:
            results.append(error or NotFound("no such job is paid for"))
            continue
        if step.hold > row.hold:
            try:
                books.hold(row.payer, step.hold - row.hold, row.id)
            except InsufficientBalance as poor:
                results.append(poor)
                continue
            row.hold = step.hold
            changes[row.seq] = {"of_seq": row.seq, "hold": step.hold, "multiplier": step.multiplier}
        results.append(row.hold)
    _RAISE.run(connection, list(changes.values()))
    books.write(time.time_ns())
    return results


def _refusal(step: Raise, row: jobs.LockedJob | None, epoch: int) -> Exception | None:
    if row is None:
        return NotFound("there is no such job")
    if step.epoch != epoch:
        return leading.lost()
    if row.has_ended:
        return Conflict("the job has ended: its fee stays as it is")
    if step.hold < row.hold:
        return BadRequest(f"the job holds {row.hold} units already: a fee can be raised, and {step.hold} are less")
    return None


_RAISE = Rows(table, ("hold", "multiplier"), key="seq")
