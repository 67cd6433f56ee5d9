"""Update calls that come as IC messages: each is run once, however often it comes and whatever happens to the server.

    first time     run in a task of its own, which goes on when the client goes away
    meanwhile      whoever comes with the same id waits for that task
    afterwards     answered from the `requests` table, also after a restart, until the record is purged

The answer is committed in the transaction of the call's effects; it is for dispatch to see to that. A call that was cut
short, by a crash or by the end of the server, has neither effects nor an answer, and may come again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import bindparam, delete, insert, select
from sqlalchemy.engine import Connection

from canister.errors import CanisterStopping, Trap
from canister.store.database import Database
from canister.store.statements import Prepared
from canister.store.tables import requests
from canister.store.transaction import Transaction

KEPT_NS = 60 * 10**9  # after the request's expiry: clocks differ
POLLED_NS = 6 * 60 * 10**9  # after the answer: a call may take longer than its request is good for

Status = Literal["processing", "replied", "rejected"]

_BY_ID = select(requests).where(requests.c.id == bindparam("of_id"))
_INSERT = Prepared(
    insert(requests), *("id", "caller", "kept_until_ns", "reply", "reject_code", "reject_message", "error_code")
)
_PURGE = Prepared(delete(requests).where(requests.c.kept_until_ns < bindparam("now_ns")))


@dataclass(frozen=True, slots=True)
class Message:
    """id: the hash of its content. caller: principal in text form."""

    id: bytes
    caller: str
    expires_ns: int


@dataclass(frozen=True, slots=True)
class Answer:
    """reply: Candid; None: rejected, for the reason in the other fields."""

    reply: bytes | None
    reject_code: int | None = None
    reject_message: str | None = None
    error_code: str | None = None

    @classmethod
    def rejected(cls, trap: Trap) -> Answer:
        return cls(None, trap.reject_code, str(trap), trap.error_code)

    @property
    def status(self) -> Status:
        return "rejected" if self.reply is None else "replied"


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a message. answer None: not yet."""

    caller: str
    status: Status
    answer: Answer | None


Run = Callable[[], Awaitable[Answer]]


@dataclass(frozen=True, slots=True)
class _Running:
    caller: str
    task: asyncio.Task[Answer]


class Ingress:
    """The messages of one canister that are running or were answered a short time ago."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._running: dict[bytes, _Running] = {}

    def find(self, id: bytes) -> Known | None:
        """None for a message that never came, was purged, or left no trace."""
        running = self._running.get(id)
        if running is not None:
            return Known(running.caller, "processing", None)
        with self._database.read() as connection:
            row = connection.execute(_BY_ID, {"of_id": id}).first()
        if row is None or row.kept_until_ns < time.time_ns():
            return None
        answer = Answer(row.reply, row.reject_code, row.reject_message, row.error_code)
        return Known(row.caller, answer.status, answer)

    def submit(self, message: Message, begin: Callable[[], Run]) -> asyncio.Future[Answer]:
        """The answer to a message, sooner or later: by what `begin` gives if it is new. Never to be cancelled.

        begin: called at once; raises if the message is refused, of which nothing is known then. What it gives must
        have its answer recorded before it returns. The future has CanisterStopping when the message was not run, or
        was cut short.
        """
        known = self.find(message.id)
        if known is not None and known.answer is not None:
            answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
            answered.set_result(known.answer)
            return answered
        running = self._running.get(message.id)
        if running is not None:
            return running.task
        task = asyncio.create_task(self._run(message, begin()), name=f"message {message.id.hex()}")
        # Looked at also when nobody waits any more; what went wrong was logged where it happened.
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        self._running[message.id] = _Running(message.caller, task)
        return task

    async def _run(self, message: Message, run: Run) -> Answer:
        try:
            return await run()
        except asyncio.CancelledError:
            raise CanisterStopping(
                "the server is stopping and did not wait for this call, which left no trace; call again"
            ) from None
        finally:
            del self._running[message.id]

    def record(self, transaction: Transaction, message: Message, answer: Answer) -> None:
        """Make the answer durable when this transaction commits; old ones are forgotten then."""
        now_ns = time.time_ns()
        transaction.execute(_PURGE, {"now_ns": now_ns})
        transaction.execute(_INSERT, _row(message, answer, now_ns))

    async def record_alone(self, message: Message, answer: Answer) -> None:
        """Make the answer to a call durable that has changed nothing."""
        now_ns = time.time_ns()

        def write(connection: Connection) -> None:
            _PURGE.run(connection, {"now_ns": now_ns})
            _INSERT.run(connection, _row(message, answer, now_ns))

        await asyncio.wrap_future(self._database.submit(write))

    async def finished(self) -> None:
        """Wait until no message runs any more."""
        while self._running:
            tasks = [running.task for running in self._running.values()]
            await asyncio.gather(*tasks, return_exceptions=True)


def _row(message: Message, answer: Answer, now_ns: int) -> dict[str, object]:
    return {
        "id": message.id,
        "caller": message.caller,
        "kept_until_ns": max(message.expires_ns + KEPT_NS, now_ns + POLLED_NS),
        "reply": answer.reply,
        "reject_code": answer.reject_code,
        "reject_message": answer.reject_message,
        "error_code": answer.error_code,
    }
