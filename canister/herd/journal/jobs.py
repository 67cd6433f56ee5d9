"""The rows of jobs: accepted, assigned, queued again, refused, found."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

from sqlalchemy import Connection, Row, delete, select

from canister.errors import Conflict, InsufficientBalance
from canister.herd.journal import leading, money, statements
from canister.herd.journal.records import Accepted, Answer, JobRow, JobState, NewJob, Requeued, Settled
from canister.herd.journal.statements import Lookup, Rows, pipelined
from canister.herd.journal.tables import job as table

WAITING = ("queued", "running")
_PER_QUERY = 500  # ids; SQLite takes so many parameters at least


@dataclass(frozen=True, slots=True)
class Accept:
    """epoch: of who accepts it, and must lead; None: whoever leads will read it from the journal."""

    job: NewJob
    epoch: int | None


@dataclass(frozen=True, slots=True)
class Assign:
    id: bytes
    worker: str
    fence: int
    epoch: int


@dataclass(frozen=True, slots=True)
class Requeue:
    """answer: what the job is told when it has had its tries."""

    id: bytes
    fence: int
    epoch: int
    max_tries: int
    answer: Answer


@dataclass(frozen=True, slots=True)
class Refuse:
    id: bytes
    epoch: int
    answer: Answer


def accept(connection: Connection, steps: Sequence[Accept]) -> list[Accepted | Exception]:
    """New jobs into the journal, and what they pay for from their payers' free money into what is held."""
    payers = [step.job.payer for step in steps if step.job.payer is not None and step.job.hold]
    led, there, accounts = statements.fetch_together(
        connection, leading.EPOCH.asked(), _SEQ.asked([step.job.id for step in steps]), money.asked(payers)
    )
    epoch = leading.epoch_in(led)
    known = {row.id: row for row in find(connection, [id for id, _ in there])}
    books = money.Books(connection, payers, accounts)
    now_ns = time.time_ns()
    begun: dict[bytes, NewJob] = {}
    results: list[Accepted | Exception | None] = []
    for step in steps:
        job = step.job
        if job.id in known:
            results.append(_known(known[job.id], job))
        elif job.id in begun:
            results.append(None)  # told below, when it has a row
        elif step.epoch is not None and step.epoch != epoch:
            results.append(leading.lost())
        else:
            error = _held(books, job)
            results.append(error)
            if error is None:
                begun[job.id] = job
    with pipelined(connection):
        _INSERT.run(connection, [new_values(job, now_ns) for job in begun.values()])
        books.write(now_ns)
        seqs: dict[bytes, int] = {row[0]: row[1] for row in _SEQ.fetch(connection, list(begun))}
    rows = {id: _row_of_new(job, seqs[id], now_ns) for id, job in begun.items()}
    return [
        _begun(rows, begun, step.job) if result is None else result for step, result in zip(steps, results, strict=True)
    ]


def _held(books: money.Books, job: NewJob) -> Exception | None:
    if job.payer is None or not job.hold:
        return None
    try:
        books.hold(job.payer, job.hold, job.id)
    except InsufficientBalance as error:
        return error
    return None


def _begun(rows: dict[bytes, JobRow], begun: dict[bytes, NewJob], job: NewJob) -> Accepted | Exception:
    """A job that is new in this transaction; it is new to the first who asks."""
    if begun.pop(job.id, None) is not None:
        return Accepted(True, rows[job.id])
    return _known(rows[job.id], job)


def assign(connection: Connection, assigns: Sequence[Assign]) -> list[bool | Exception]:
    """Jobs to workers. False: another leads, the job does not wait, or it had a higher fence already."""
    epoch = leading.epoch(connection)
    rows = lock(connection, [step.id for step in assigns])
    now_ns = time.time_ns()
    changes: list[dict[str, Any]] = []
    results: list[bool | Exception] = []
    for step in assigns:
        row = rows.get(step.id)
        holds = row is not None and step.epoch == epoch and row.state == "queued" and step.fence > row.fence
        if row is not None and holds:
            row.state, row.fence = "running", step.fence
            row.tries += 1
            changes.append(
                {
                    "of_seq": row.seq,
                    "worker": step.worker,
                    "fence": step.fence,
                    "tries": row.tries,
                    "started_ns": now_ns,
                }
            )
        results.append(holds)
    _ASSIGN.run(connection, changes)
    return results


def requeue(connection: Connection, steps: Sequence[Requeue]) -> list[Requeued | Exception]:
    """Jobs whose worker is lost, back into the queue; those that have had their tries are refused."""
    epoch = leading.epoch(connection)
    rows = lock(connection, [step.id for step in steps])
    results: list[Requeued | Exception] = []
    again: list[dict[str, Any]] = []
    over: list[tuple[LockedJob, Answer]] = []
    for step in steps:
        row = rows.get(step.id)
        if row is None or step.epoch != epoch or row.state != "running" or step.fence != row.fence:
            results.append("stale")
        elif row.tries >= step.max_tries:
            row.state = "refused"
            over.append((row, step.answer))
            results.append("refused")
        else:
            row.state = "queued"
            again.append({"of_seq": row.seq})
            results.append("queued")
    _REQUEUE.run(connection, again)
    _end(connection, over)
    return results


def refuse(connection: Connection, steps: Sequence[Refuse]) -> list[bool | Exception]:
    """Jobs that are given up, with the reason; what they hold goes back. False: another leads, or it has ended."""
    epoch = leading.epoch(connection)
    rows = lock(connection, [step.id for step in steps])
    results: list[bool | Exception] = []
    over: list[tuple[LockedJob, Answer]] = []
    for step in steps:
        row = rows.get(step.id)
        holds = row is not None and step.epoch == epoch and row.state in WAITING
        if row is not None and holds:
            row.state = "refused"
            over.append((row, step.answer))
        results.append(holds)
    _end(connection, over)
    return results


def _end(connection: Connection, over: Sequence[tuple[LockedJob, Answer]]) -> None:
    if not over:
        return
    now_ns = time.time_ns()
    books = money.Books(connection, [row.payer for row, _ in over if row.payer is not None])
    for row, _ in over:
        if row.payer is not None and row.hold:
            books.refund(row.payer, row.hold, row.id)
    values: list[dict[str, Any]] = [
        {"of_seq": row.seq, **end_values("refused", answer, now_ns, is_refunded=True)} for row, answer in over
    ]
    _END.run(connection, values)
    books.write(now_ns)


# -- for those who end jobs


@dataclass(slots=True)
class LockedJob:
    """What decides about a job, locked until the transaction ends. Whoever changes the row changes this too.

    seq None: it has no row yet.
    """

    seq: int | None
    id: bytes
    canister: str
    caller: str
    method: str
    state: str
    fence: int
    tries: int
    hold: int
    payer: str | None

    @property
    def has_ended(self) -> bool:
        return self.state not in WAITING


def lock(connection: Connection, ids: Sequence[bytes]) -> dict[bytes, LockedJob]:
    """The jobs of these ids that have rows."""
    return locked(LOCK.fetch(connection, ids))


def locked(rows: Sequence[statements.Row]) -> dict[bytes, LockedJob]:
    """What LOCK has found."""
    found: dict[bytes, LockedJob] = {}
    for seq, id, canister, caller, method, state, fence, tries, hold, payer in rows:
        found[id] = LockedJob(seq, id, canister, caller, method, state, fence, tries, int(hold), payer)
    return found


def not_yet(job: NewJob) -> LockedJob:
    """A job that is written when it ends. It holds no money, which needs a job that was accepted."""
    return LockedJob(None, job.id, job.canister, job.caller, job.method, "queued", 0, 0, 0, None)


def end_values(state: JobState, answer: Answer, ended_ns: int, *, is_refunded: bool) -> dict[str, Any]:
    """The columns that a job ends with."""
    return {
        "state": state,
        "ended_ns": ended_ns,
        "is_refunded": is_refunded,
        "reply": answer.reply,
        "reject_code": answer.reject_code,
        "reject_message": answer.reject_message,
        "error_code": answer.error_code,
        "http_status": answer.http_status,
        "receipt": answer.receipt or None,
    }


def settled_values(step: Settled, answer: Answer) -> dict[str, Any]:
    """The columns that a job ends with whose call has run."""
    return {
        **end_values("done", answer, step.ended_ns, is_refunded=step.is_refunded),
        "worker": step.worker,
        "fence": step.fence,
        "started_ns": step.started_ns,
        "instructions": None if step.charge is None else step.charge.instructions,
        "cycles": None if step.charge is None else step.charge.cycles,
    }


def write_settled(connection: Connection, ended: Sequence[dict[str, Any]], new: Sequence[dict[str, Any]]) -> None:
    """ended: settled_values with of_seq. new: those of whole rows."""
    _SETTLE.run(connection, ended)
    _INSERT_SETTLED.run(connection, new)


# -- reading


def find(connection: Connection, ids: Iterable[bytes]) -> list[JobRow]:
    rows: list[JobRow] = []
    for part in _parts(list(ids)):
        rows += map(_job_row, connection.execute(select(table).where(table.c.id.in_(part))))
    return rows


def waiting(connection: Connection) -> list[JobRow]:
    """All jobs that have not ended, in the order in which they came."""
    query = select(table).where(table.c.state.in_(WAITING)).order_by(table.c.seq)
    return [_job_row(row) for row in connection.execute(query)]


def answer_of(row: Row[Any]) -> Answer:
    told = (row.reply, row.reject_code, row.reject_message, row.error_code, row.http_status or 200)
    return Answer(*told, row.receipt or "")


def purge(connection: Connection, now_ns: int) -> int:
    """Drop the jobs that have ended and need not be kept any more; returns their number."""
    ended = table.c.state.not_in(WAITING)
    return connection.execute(delete(table).where(ended, table.c.kept_until_ns < now_ns)).rowcount


def _known(row: JobRow, job: NewJob) -> Accepted | Exception:
    if (row.canister, row.caller, row.method, row.arg) != (job.canister, job.caller, job.method, job.arg):
        return Conflict(
            f"the same id was used for another call, of {row.method}; take a new idempotency key for each call"
        )
    return Accepted(False, row)


def new_values(job: NewJob, now_ns: int) -> dict[str, Any]:
    """The columns of a job that waits."""
    return {
        "id": job.id,
        "canister": job.canister,
        "caller": job.caller,
        "method": job.method,
        "arg": job.arg,
        "chats": list(job.chats),
        "multiplier": job.multiplier,
        "hold": job.hold,
        "payer": job.payer,
        "due_ns": job.due_ns,
        "kept_until_ns": job.kept_until_ns,
        "state": "queued",
        "worker": None,
        "fence": 0,
        "tries": 0,
        "made_ns": now_ns,
        "is_refunded": False,
    }


def _row_of_new(job: NewJob, seq: int, now_ns: int) -> JobRow:
    return JobRow(
        seq=seq,
        id=job.id,
        canister=job.canister,
        caller=job.caller,
        method=job.method,
        arg=job.arg,
        chats=tuple(job.chats),
        multiplier=job.multiplier,
        hold=job.hold,
        payer=job.payer,
        due_ns=job.due_ns,
        kept_until_ns=job.kept_until_ns,
        state="queued",
        worker=None,
        fence=0,
        tries=0,
        made_ns=now_ns,
        ended_ns=None,
        is_refunded=False,
        answer=None,
    )


def _job_row(row: Row[Any]) -> JobRow:
    values = {name: getattr(row, name) for name in _SAME}
    return JobRow(chats=tuple(row.chats), answer=None if row.state in WAITING else answer_of(row), **values)


def _parts(ids: Sequence[bytes]) -> Iterable[Sequence[bytes]]:
    return (ids[start : start + _PER_QUERY] for start in range(0, len(ids), _PER_QUERY))


_SAME = tuple(name for name in (field.name for field in fields(JobRow)) if name not in ("chats", "answer"))
_c = table.c
_NEW_COLUMNS = (
    *("id", "canister", "caller", "method", "arg", "chats", "multiplier", "hold", "payer", "due_ns", "kept_until_ns"),
    *("state", "worker", "fence", "tries", "made_ns", "is_refunded"),
)
_END_COLUMNS = (
    *("state", "ended_ns", "is_refunded"),
    *("reply", "reject_code", "reject_message", "error_code", "http_status", "receipt"),
)
_SETTLE_COLUMNS = (*_END_COLUMNS, "worker", "fence", "started_ns", "instructions", "cycles")


LOCK = Lookup(
    select(_c.seq, _c.id, _c.canister, _c.caller, _c.method, _c.state, _c.fence, _c.tries, _c.hold, _c.payer)
    .order_by(_c.seq)
    .with_for_update(),
    _c.id,
)
_SEQ = Lookup(select(_c.id, _c.seq), _c.id)
_INSERT = Rows(table, _NEW_COLUMNS)
_INSERT_SETTLED = Rows(table, tuple(dict.fromkeys((*_NEW_COLUMNS, *_SETTLE_COLUMNS))))
_ASSIGN = Rows(table, ("worker", "fence", "tries", "started_ns"), key="seq", state="running")
_REQUEUE = Rows(table, (), key="seq", state="queued", worker=None)
_END = Rows(table, _END_COLUMNS, key="seq")
_SETTLE = Rows(table, _SETTLE_COLUMNS, key="seq")
