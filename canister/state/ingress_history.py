"""The answers to messages that were run, for messages that come again. Kept until they are purged."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import bindparam, delete, select
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.engine import Connection

from canister.errors import Trap
from canister.store.database import Database
from canister.store.statements import Prepared
from canister.store.tables import requests
from canister.store.transaction import Transaction

KEPT_NS = 60 * 10**9  # after the request's expiry: clocks differ
POLLED_NS = 6 * 60 * 10**9  # after the answer: a call may take longer than its request is good for

Status = Literal["processing", "replied", "rejected"]
Also = Sequence[tuple[Prepared, Mapping[str, object]]]

_BY_ID = Prepared(
    select(
        requests.c.caller,
        requests.c.kept_until_ns,
        requests.c.reply,
        requests.c.reject_code,
        requests.c.reject_message,
        requests.c.error_code,
    ).where(requests.c.id == bindparam("of_id"))
)
_COLUMNS = ("id", "caller", "kept_until_ns", "reply", "reject_code", "reject_message", "error_code")
_NEW = insert(requests)
_INSERT = Prepared(
    _NEW.on_conflict_do_update(  # only of a message that is run anew
        index_elements=["id"], set_={name: _NEW.excluded[name] for name in _COLUMNS[1:]}
    ),
    *_COLUMNS,
)
_PURGE = Prepared(delete(requests).where(requests.c.kept_until_ns < bindparam("now_ns")))


@dataclass(frozen=True, slots=True)
class IngressMessage:
    """id: the hash of the message's content. caller: principal in text form."""

    id: bytes
    caller: str
    expires_ns: int


@dataclass(frozen=True, slots=True)
class RecordedAnswer:
    """reply: Candid; None: rejected, for the reason in the other fields."""

    reply: bytes | None
    reject_code: int | None = None
    reject_message: str | None = None
    error_code: str | None = None

    @classmethod
    def rejected(cls, trap: Trap) -> RecordedAnswer:
        return cls(None, trap.reject_code, str(trap), trap.error_code)

    @property
    def status(self) -> Status:
        return "rejected" if self.reply is None else "replied"


@dataclass(frozen=True, slots=True)
class KnownMessage:
    """What is known of a message. answer None: it is still running."""

    caller: str
    status: Status
    answer: RecordedAnswer | None


class IngressHistory:
    """The rows of one canister."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def find(self, id: bytes) -> KnownMessage | None:
        """None for a message that never came, was purged, or was rolled back."""
        row = self._database.first(_BY_ID, {"of_id": id})
        if row is None:
            return None
        caller, kept_until_ns, *recorded = row
        if kept_until_ns < time.time_ns():
            return None
        answer = RecordedAnswer(*recorded)
        return KnownMessage(caller, answer.status, answer)

    def record(self, transaction: Transaction, message: IngressMessage, answer: RecordedAnswer) -> None:
        """Make the answer durable when this transaction commits, and purge old ones."""
        now_ns = time.time_ns()
        transaction.execute(_PURGE, {"now_ns": now_ns})
        transaction.execute(_INSERT, _row(message, answer, now_ns))

    async def record_alone(self, message: IngressMessage, answer: RecordedAnswer, also: Also = ()) -> None:
        """Make the answer durable of a call that has changed nothing. also: statements of the same transaction."""
        now_ns = time.time_ns()

        def write(connection: Connection) -> None:
            _PURGE.run(connection, {"now_ns": now_ns})
            _INSERT.run(connection, _row(message, answer, now_ns))
            for statement, values in also:
                statement.run(connection, values)

        await asyncio.wrap_future(self._database.submit(write))


def _row(message: IngressMessage, answer: RecordedAnswer, now_ns: int) -> dict[str, object]:
    return {
        "id": message.id,
        "caller": message.caller,
        "kept_until_ns": max(message.expires_ns + KEPT_NS, now_ns + POLLED_NS),
        "reply": answer.reply,
        "reject_code": answer.reject_code,
        "reject_message": answer.reject_message,
        "error_code": answer.error_code,
    }
