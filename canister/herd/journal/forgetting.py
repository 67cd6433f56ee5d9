"""Answers that their callers have deleted: the row stays for its time and tells so, and has nothing of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection

from canister.herd.journal import jobs, leading
from canister.herd.journal.statements import Rows
from canister.herd.journal.tables import job as table

DELETED = 404  # the HTTP status of such a row


@dataclass(frozen=True, slots=True)
class Forgetting:
    """epoch: of the leader."""

    id: bytes
    epoch: int


def forget(connection: Connection, steps: Sequence[Forgetting]) -> list[bool | Exception]:
    """False: there is no such job, it has not ended, or another leads."""
    epoch = leading.epoch(connection)
    rows = jobs.lock(connection, [step.id for step in steps])
    changes: dict[int, dict[str, object]] = {}
    results: list[bool | Exception] = []
    for step in steps:
        row = rows.get(step.id)
        holds = row is not None and row.seq is not None and row.has_ended and step.epoch == epoch
        if row is not None and row.seq is not None and holds:
            told = {"reject_message": "the answer was deleted", "http_status": DELETED, "error_code": "unknown_answer"}
            changes[row.seq] = {"of_seq": row.seq, "arg": b"", "reply": None, **told}
        results.append(holds)
    _FORGET.run(connection, list(changes.values()))
    return results


_FORGET = Rows(table, ("arg", "reply", "reject_message", "http_status", "error_code"), key="seq")
