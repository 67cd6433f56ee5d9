"""Whole answers that are kept: what was requested, the status, and the results of each committed call.

A call adds its row in its own transaction, so the
kept tokens of an answer are those of its prompt cache. Time, number and bytes are bounded for each caller.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

from sqlalchemy import ColumnElement, and_, bindparam, delete, func, insert, null, or_, select, update
from sqlalchemy.engine import Connection

from canister.errors import CallerBusy, NotFound, StorageFull
from canister.store import tables
from canister.store.database import Database
from canister.store.statements import Prepared
from canister.store.transaction import Transaction

Status = Literal["running", "left", "done", "failed", "cancelled"]
"""running → done | cancelled | failed | left → running

left: its client has gone, and it does not go on without one.
"""

TOLD = 2**31 - 1
"""In the place of a call's number: what was told of a call that came to nothing."""

_ROW_BYTES = 512  # of a row beside its contents, generously

_answers, _calls = tables.answers, tables.answer_calls
_COLUMNS = tuple(column.name for column in _answers.columns)

_INSERT = Prepared(insert(_answers), *_COLUMNS)
_DELETE = Prepared(delete(_answers).where(_answers.c.id == bindparam("of_id")))
_PURGE = Prepared(
    delete(_answers).where(_answers.c.kept_until_ns < bindparam("now_ns"), _answers.c.ended_ns.is_not(None))
)
_END = Prepared(
    update(_answers)
    .where(_answers.c.id == bindparam("of_id"), _answers.c.ended_ns.is_(None))
    .values(
        status=bindparam("new_status"),
        error=bindparam("new_error", type_=_answers.c.error.type),
        ended_ns=bindparam("now_ns"),
    )
)
_GO_ON = Prepared(
    update(_answers)
    .where(_answers.c.id == bindparam("of_id"), or_(_answers.c.status == "left", _answers.c.status == "failed"))
    .values(status="running", error=null(), ended_ns=None)
)
_LEAVE = Prepared(
    update(_answers)
    .where(_answers.c.ended_ns.is_(None), _answers.c.goes_on.is_(False))
    .values(status="left", ended_ns=bindparam("now_ns"))
)
_GROWN = Prepared(
    update(_answers).where(_answers.c.id == bindparam("of_id")).values(n_bytes=_answers.c.n_bytes + bindparam("n_more"))
)
_ADD_CALL = Prepared(insert(_calls), "answer_id", "choice", "number", "tokens", "taken")
_FORGET_TOLD = Prepared(
    delete(_calls).where(_calls.c.answer_id == bindparam("of_id"), _calls.c.number == bindparam("told_number"))
)
_BY_ID = select(_answers).where(_answers.c.id == bindparam("of_id"))
_BY_KEY = select(_answers).where(
    _answers.c.caller == bindparam("of_caller"), _answers.c.idempotency_key == bindparam("of_key")
)
_OF_CALLER = (
    select(_answers.c.id, _answers.c.ended_ns, _answers.c.n_bytes)
    .where(_answers.c.caller == bindparam("of_caller"))
    .order_by(_answers.c.created_ns)
)
_CALLS = (
    select(_calls.c.choice, _calls.c.number, _calls.c.tokens, _calls.c.taken)
    .where(_calls.c.answer_id == bindparam("of_id"))
    .order_by(_calls.c.choice, _calls.c.number)
)


@dataclass(frozen=True, slots=True)
class StoredRequest:
    """The kept part of a request. kind: the interface of the request. caller: principal in text form.

    request: JSON of the door. wanted: JSON of dispatch, what the tokens depend on except the prompt. prompt: token ids.
    is_listed: found by its id, otherwise only by its key. goes_on: it continues without its client.
    """

    id: str
    caller: str
    kind: str
    body_hash: bytes
    request: str
    wanted: str
    prompt: bytes
    created_ns: int
    idempotency_key: str | None = None
    is_listed: bool = True
    goes_on: bool = False


@dataclass(frozen=True, slots=True)
class KeptAnswer:
    """error: of a failed answer, in dispatch's form. ended_ns: None while it is running."""

    asked: StoredRequest
    status: Status = "running"
    error: Mapping[str, object] | None = None
    ended_ns: int | None = None


@dataclass(frozen=True, slots=True)
class KeptCall:
    """number: 0, 1, … within the choice. tokens: JSON of dispatch. taken: the totals after the call, of dispatch."""

    choice: int
    number: int
    tokens: str
    taken: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class AnswerLimits:
    """Limits for the answers of one caller. kept_seconds: since the request."""

    kept_seconds: float
    max_answers: int
    max_bytes: int


class Answers:
    """The answers of one canister. n_bytes: of all of them."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.n_bytes = 0

    def load(self) -> None:
        """Read the answers. Running ones that do not continue without their clients become `left`, since the server has
        restarted.
        """
        values = {"now_ns": time.time_ns()}
        self._database.submit(lambda connection: _LEAVE.run(connection, values)).result()
        with self._database.read() as connection:
            self.n_bytes = connection.execute(select(func.coalesce(func.sum(_answers.c.n_bytes), 0))).scalar_one()

    # -- looking

    def find(self, id: str) -> KeptAnswer | None:
        return self._one(_BY_ID, {"of_id": id})

    def find_key(self, caller: str, key: str) -> KeptAnswer | None:
        """The answer that a caller has begun with an idempotency key."""
        return self._one(_BY_KEY, {"of_caller": caller, "of_key": key})

    def calls(self, id: str) -> list[KeptCall]:
        """The results of an answer's calls, by choice and number."""
        with self._database.read() as connection:
            return [KeptCall(*row) for row in connection.execute(_CALLS, {"of_id": id})]

    def running(self) -> list[KeptAnswer]:
        """The running answers, the oldest first."""
        query = select(_answers).where(_answers.c.ended_ns.is_(None)).order_by(_answers.c.created_ns)
        with self._database.read() as connection:
            return [_answer(row._mapping) for row in connection.execute(query)]

    def _one(self, query: object, values: Mapping[str, object]) -> KeptAnswer | None:
        with self._database.read() as connection:
            row = connection.execute(query, values).first()  # type: ignore[call-overload]  # a select
        return None if row is None else _answer(row._mapping)

    # -- changing

    async def begin(self, asked: StoredRequest, limits: AnswerLimits) -> KeptAnswer:
        """Keep a request, or find the answer that its caller has begun with the same idempotency key.

        Raises CallerBusy and StorageFull when it would pass a limit, and has then changed nothing.
        """
        row = {column: getattr(asked, column, None) for column in _COLUMNS}
        n_bytes = _ROW_BYTES + len(asked.request.encode()) + len(asked.wanted.encode()) + len(asked.prompt)
        kept_until_ns = asked.created_ns + round(limits.kept_seconds * 1e9)
        row |= {"status": "running", "kept_until_ns": kept_until_ns, "n_bytes": n_bytes}

        def work(connection: Connection) -> tuple[KeptAnswer | None, int]:
            n_freed = self._purge(connection)
            if asked.idempotency_key is not None:
                values = {"of_caller": asked.caller, "of_key": asked.idempotency_key}
                known = connection.execute(_BY_KEY, values).first()
                if known is not None:
                    return _answer(known._mapping), -n_freed
            n_freed += _make_room(connection, asked.caller, n_bytes, limits)
            _INSERT.run(connection, row)
            return None, n_bytes - n_freed

        known, n_more = await asyncio.wrap_future(self._database.submit(work))
        self.n_bytes += n_more
        return KeptAnswer(asked) if known is None else known

    def add_call(self, transaction: Transaction, id: str, call: KeptCall) -> None:
        """Keep the results of a call, when this transaction commits."""
        row = {"answer_id": id, "choice": call.choice, "number": call.number, "tokens": call.tokens}
        n_bytes = _ROW_BYTES + len(call.tokens.encode())
        transaction.execute(_ADD_CALL, row | {"taken": dict(call.taken)})
        transaction.execute(_GROWN, {"of_id": id, "n_more": n_bytes})

        def grown() -> None:
            self.n_bytes += n_bytes

        transaction.on_commit(grown)

    async def end(
        self, id: str, status: Status, error: Mapping[str, object] | None = None, told: Iterable[KeptCall] = ()
    ) -> None:
        """Record how a running answer ended. An ended answer stays as it is.

        told: tokens that listeners were told beyond the kept calls, with the number TOLD.
        """
        values = {"of_id": id, "new_status": status, "new_error": error, "now_ns": time.time_ns()}
        rows = [
            {
                "answer_id": id,
                "choice": one.choice,
                "number": one.number,
                "tokens": one.tokens,
                "taken": dict(one.taken),
            }
            for one in told
        ]

        def work(connection: Connection) -> int:
            if not _END.run(connection, values).rowcount:
                return 0  # it has ended before, with what was told then, or it was removed
            _FORGET_TOLD.run(connection, {"of_id": id, "told_number": TOLD})
            for row in rows:
                _ADD_CALL.run(connection, row)
            n_more = sum(_ROW_BYTES + len(str(row["tokens"]).encode()) for row in rows)
            _GROWN.run(connection, {"of_id": id, "n_more": n_more})
            return n_more

        self.n_bytes += await asyncio.wrap_future(self._database.submit(work))

    async def go_on(self, id: str) -> None:
        """An answer that was left, or that failed, is running again."""

        def work(connection: Connection) -> None:
            if _GO_ON.run(connection, {"of_id": id}).rowcount:
                _FORGET_TOLD.run(connection, {"of_id": id, "told_number": TOLD})

        await asyncio.wrap_future(self._database.submit(work))

    async def remove(self, id: str) -> None:
        """Forget an answer. NotFound."""

        def work(connection: Connection) -> int:
            row = connection.execute(_BY_ID, {"of_id": id}).first()
            if row is None:
                raise NotFound(f"no answer {id!r}")
            _DELETE.run(connection, {"of_id": id})
            return int(row.n_bytes)

        self.n_bytes -= await asyncio.wrap_future(self._database.submit(work))

    async def put(self, kept: KeptAnswer, calls: Sequence[KeptCall], kept_seconds: float) -> None:
        """Have this answer, made elsewhere, in place of what there is of its id or its key."""
        asked = kept.asked
        row: dict[str, Any] = {column: getattr(asked, column, None) for column in _COLUMNS}
        n_bytes = _ROW_BYTES + len(asked.request.encode()) + len(asked.wanted.encode()) + len(asked.prompt)
        n_bytes += sum(_ROW_BYTES + len(call.tokens.encode()) for call in calls)
        kept_until_ns = asked.created_ns + round(kept_seconds * 1e9)
        row |= {"status": kept.status, "error": kept.error, "ended_ns": kept.ended_ns}
        row |= {"kept_until_ns": kept_until_ns, "n_bytes": n_bytes}

        same_key = and_(_answers.c.caller == asked.caller, _answers.c.idempotency_key == asked.idempotency_key)

        def work(connection: Connection) -> int:
            n_freed = _forget(connection, _answers.c.id == asked.id)
            if asked.idempotency_key is not None:
                n_freed += _forget(connection, same_key)
            _INSERT.run(connection, row)
            for call in calls:
                own = {"choice": call.choice, "number": call.number, "tokens": call.tokens, "taken": dict(call.taken)}
                _ADD_CALL.run(connection, {"answer_id": asked.id, **own})
            return n_bytes - n_freed

        self.n_bytes += await asyncio.wrap_future(self._database.submit(work))

    def ids(self, caller: str, id: str | None, key: str | None) -> list[str]:
        """The caller's answers of this id, and those that were begun with this key, also as parts of one request."""
        with self._database.read() as connection:
            return list(connection.execute(select(_answers.c.id).where(_of(caller, id, key))).scalars())

    async def forget(self, caller: str, id: str | None, key: str | None) -> None:
        """Remove what `ids` finds."""
        where = _of(caller, id, key)
        self.n_bytes -= await asyncio.wrap_future(self._database.submit(lambda to: _forget(to, where)))

    async def purge(self) -> None:
        """Forget expired answers."""
        self.n_bytes -= await asyncio.wrap_future(self._database.submit(self._purge))

    def _purge(self, connection: Connection) -> int:
        """Returns how many bytes were freed."""
        now_ns = time.time_ns()
        old = _answers.c.kept_until_ns < now_ns, _answers.c.ended_ns.is_not(None)
        n_freed = connection.execute(select(func.coalesce(func.sum(_answers.c.n_bytes), 0)).where(*old)).scalar_one()
        if n_freed:
            _PURGE.run(connection, {"now_ns": now_ns})
        return int(n_freed)


def _of(caller: str, id: str | None, key: str | None) -> ColumnElement[bool]:
    c = _answers.c
    parts = or_(c.idempotency_key == key, c.idempotency_key.startswith(f"{key}\n", autoescape=True))
    return and_(c.caller == caller, or_(c.id == id, parts) if key is not None else c.id == id)


def _forget(connection: Connection, where: ColumnElement[bool]) -> int:
    """Remove answers; how many bytes were freed."""
    n_freed = connection.execute(select(func.coalesce(func.sum(_answers.c.n_bytes), 0)).where(where)).scalar_one()
    connection.execute(delete(_answers).where(where))
    return int(n_freed)


def _make_room(connection: Connection, caller: str, n_bytes: int, limits: AnswerLimits) -> int:
    """Remove a caller's oldest answers that have ended, until one more fits; how many bytes were freed."""
    rows = connection.execute(_OF_CALLER, {"of_caller": caller}).all()
    n_answers, n_used, n_freed = len(rows), sum(row.n_bytes for row in rows), 0
    for row in rows:
        if n_answers < limits.max_answers and n_used + n_bytes <= limits.max_bytes:
            break
        if row.ended_ns is not None:
            _DELETE.run(connection, {"of_id": row.id})
            n_answers, n_used, n_freed = n_answers - 1, n_used - row.n_bytes, n_freed + row.n_bytes
    if n_answers >= limits.max_answers:
        raise CallerBusy(
            f"{n_answers} answers of this caller are not finished (max_answers_per_caller = {limits.max_answers}); "
            "wait for some of them, or cancel some"
        )
    if n_used + n_bytes > limits.max_bytes:
        raise StorageFull(
            f"the unfinished answers of this caller have {n_used} bytes and this one would add {n_bytes}, over the "
            f"limit (max_answer_bytes_per_caller = {limits.max_bytes}); ask for less, or do not have it stored"
        )
    return n_freed


def _answer(row: Mapping[Any, Any]) -> KeptAnswer:
    asked = StoredRequest(**{field.name: row[field.name] for field in fields(StoredRequest)})
    return KeptAnswer(asked, row["status"], row["error"], row["ended_ns"])
