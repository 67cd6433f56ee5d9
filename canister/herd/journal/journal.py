"""The journal: the herd's truth, as its leader uses it. Everything here may be called from the event loop.

What changes something returns when it is durable, and is committed together with all else that waits (`writer.py`).
While the database does not answer, new changes fail with JournalUnavailable after a few seconds, and so does reading;
what settles a job waits until the database is back, so that no answer is lost.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from sqlalchemy import Connection

from canister.api.herd_wire import Saved
from canister.errors import BadRequest, JournalUnavailable
from canister.herd.journal import (
    canisters,
    chats,
    control,
    doors,
    forgetting,
    jobs,
    leading,
    migrations,
    money,
    raises,
    receipts,
    settle,
)
from canister.herd.journal.databases import DatabasePair, Unreachable, clear_errors, connect_to, reading, unavailable
from canister.herd.journal.receipts import ReceiptChain
from canister.herd.journal.records import (
    Accepted,
    Answer,
    Balance,
    Chat,
    ControlEntry,
    Door,
    JobRow,
    Leader,
    NewJob,
    Payment,
    Requeued,
    Settled,
    SettleOutcome,
    Supply,
)
from canister.herd.journal.writer import Kind, Writer
from canister.metering.fees import INITIAL_CYCLES, CallOutcome, Charge
from canister.state.call_log import LoggedCall
from canister.state.saved_chats import SavedChat
from canister.store.container import Conversation

PATIENCE_SECONDS = 5.0
N_READERS = 4  # threads
SYS_TRANSIENT = 2

V = TypeVar("V")
T = TypeVar("T")


class Journal:
    """One herd's journal, open. `open` makes it; close it with `close`."""

    def __init__(self, pair: DatabasePair, patience_seconds: float) -> None:
        self._pair = pair
        self._patience_seconds = patience_seconds
        self._states = chats.States()
        self._settle: Kind[Settled, SettleOutcome] = Kind("settle", 50, settle.Settling(self._states))
        self._lock = leading.LeaderLock(pair)
        self._writer = Writer(pair)
        self._threads = ThreadPoolExecutor(N_READERS, "herd journal reader")

    @classmethod
    async def open(cls, url: str, *, patience_seconds: float | None = None) -> Journal:
        """sqlite:///PATH or postgresql://…; makes the tables, or brings them to this version.

        patience_seconds: of what is asked for while the database does not answer, but for what settles jobs.
        Raises BadRequest (no such kind of URL, no driver), JournalUnavailable (cannot be reached), Conflict (written by
        a newer version), StoreDamaged, StorageFull.
        """
        patience = PATIENCE_SECONDS if patience_seconds is None else patience_seconds
        return await asyncio.to_thread(cls._open, url, patience)

    @classmethod
    def _open(cls, url: str, patience_seconds: float) -> Journal:
        pair = connect_to(url)
        try:
            with clear_errors(pair.name), pair.writers.connect() as connection:
                migrations.bring_up(connection, pair.name)
                connection.commit()
            journal = cls(pair, patience_seconds)
            journal._writer.start()
        except Unreachable as error:
            pair.dispose()
            raise unavailable(error) from error
        except BaseException:
            pair.dispose()
            raise
        return journal

    async def close(self) -> None:
        """Finish what waits, give the lead up, and let go of the database. May be called twice."""
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        self._writer.close()
        self._threads.shutdown()
        self._lock.release()
        self._pair.dispose()

    # -- leading

    async def lead(self, holder: str, address: str) -> int | None:
        """Become the leader: the new epoch, or None while another one leads. The lead ends with this process.

        holder: a name of this process, for people. address: where the doors of others find it.
        """
        if not await self._taken():
            return None
        return await self._do(_LEAD, leading.Lead(holder, address))

    async def renew(self, epoch: int) -> bool:
        """Does this process lead, still in this epoch? If its session was lost and nobody else came, it leads on.

        Raises JournalUnavailable while that cannot be known.
        """
        if not await self._taken():
            return False
        leader = await self.leader()
        return leader is not None and leader.epoch == epoch

    async def resign(self) -> None:
        """Let another one lead."""
        await self._aside(self._lock.release)

    async def leader(self) -> Leader | None:
        """Who led last, and does still unless it died; None before anybody did."""
        return await self._read(leading.current)

    async def stand_by(self, door: Door) -> None:
        """Note that a door waits for the lead."""
        await self._do(_STAND_BY, door)

    async def doors(self, since_ns: int) -> list[Door]:
        """The doors that waited for the lead since then."""
        return await self._read(lambda connection: doors.seen(connection, since_ns))

    async def share(self, contents: Mapping[str, bytes], epoch: int) -> None:
        """What the door of each process is to have alike, by name. Raises LeadershipLost."""
        await self._do(_SHARE, doors.Share(epoch, contents))

    async def shared(self) -> dict[str, bytes]:
        """What was shared last, by name."""
        return await self._read(doors.contents)

    async def _taken(self) -> bool:
        try:
            return await self._aside(self._lock.take)
        except Unreachable as error:
            raise unavailable(error) from error

    # -- jobs

    async def accept(self, job: NewJob, *, epoch: int | None = None) -> Accepted:
        """Make a call durable before it runs (T1), and hold what is paid for it.

        A job whose id is known is not accepted again: its state and answer are told. epoch: of the leader that takes it
        into its queue, so that nothing is accepted by a leader that is none any more (LeadershipLost). Raises Conflict
        when the id was used for another call, and InsufficientBalance.
        """
        if job.hold < 0 or (job.hold and job.payer is None):
            raise BadRequest(f"a hold of {job.hold} needs a payer, and is not negative")
        return await self._do(_ACCEPT, jobs.Accept(job, epoch))

    async def find(self, id: bytes) -> JobRow | None:
        """The job; None for one that never came, or was purged."""
        found = await self._read(lambda connection: jobs.find(connection, [id]))
        return found[0] if found else None

    async def waiting(self) -> list[JobRow]:
        """All jobs that have not ended, in the order in which they came; for a leader that begins."""
        return await self._read(jobs.waiting)

    async def assign(self, id: bytes, worker: str, fence: int, epoch: int) -> bool:
        """The job is given to a worker. False: it does not wait, was given away under a higher fence, or another leads.

        A job that was not accepted (it is settled with `new`) needs no assignment. It need not be waited for: a job may
        be settled under a higher fence than the journal knows.
        """
        return await self._do(_ASSIGN, jobs.Assign(id, worker, fence, epoch))

    async def requeue(
        self, id: bytes, fence: int, epoch: int, max_tries: int, answer: Answer | None = None
    ) -> Requeued:
        """A running job whose worker is lost waits again; after max_tries it is refused with `answer`, and refunded."""
        told = answer or Answer(
            None, SYS_TRANSIENT, f"{max_tries} workers died while they ran this call; it was not charged", "IC0202", 503
        )
        return await self._do(_REQUEUE, jobs.Requeue(id, fence, epoch, max_tries, told), math.inf)

    async def refuse(self, id: bytes, epoch: int, why: Answer) -> bool:
        """A job that waits or runs is given up and refunded. False: it has ended, is not known, or another leads."""
        return await self._do(_REFUSE, jobs.Refuse(id, epoch, why), math.inf)

    async def raise_hold(self, id: bytes, hold: int, multiplier: float, epoch: int) -> int:
        """Hold more for a job that has not ended; returns what it holds. Less is BadRequest. Raises Conflict for one
        that has ended, InsufficientBalance, NotFound, LeadershipLost.
        """
        return await self._do(_RAISE, raises.Raise(id, hold, multiplier, epoch))

    async def forget(self, id: bytes, epoch: int) -> bool:
        """Have nothing of a job that has ended but that it was deleted. False: there is none, or another leads."""
        return await self._do(_FORGET, forgetting.Forgetting(id, epoch))

    async def settle(self, settled: Settled) -> SettleOutcome:
        """End a job whose call has run (T3): answer, chats, money, cycles, log and saved chat, all of it or nothing.

        Returns when it is durable, together with all that waits. Waits for a database that does not answer. Raises
        StoreDamaged when the chat that the call went on with is damaged in the database.
        """
        if settled.new is not None and (settled.new.hold or settled.new.id != settled.id):
            raise BadRequest("a job that is paid for must be accepted before it runs, and has one id")
        return await self._do(self._settle, settled, math.inf)

    async def purge(self, now_ns: int, keep_receipts: int = 0) -> int:
        """Drop ended jobs that need not be kept any more, and old calls of the log; returns the number of jobs.

        keep_receipts: of each canister; 0: all.
        """
        return await self._do(_PURGE, (now_ns, keep_receipts))

    def receipts(self, canister: str) -> ReceiptChain:
        """The chain of a canister's receipts. Reading it is for another thread than that of the event loop."""
        return ReceiptChain(self._pair, canister)

    # -- chats

    async def chat(self, canister: str, caller: str, path: str) -> Chat | None:
        """The state of a chat; None for one that is not there, whose head is b""."""
        return await self._read(lambda connection: chats.find(connection, (canister, caller, path)))

    async def container(self, canister: str, caller: str, path: str) -> tuple[bytes, bytes] | None:
        """Head, and a container of the whole chat without KV rows; None for a chat that is not there."""
        key = (canister, caller, path)
        return await self._read(lambda connection: chats.container(connection, self._states, key))

    def tokens(self, canister: str, caller: str, path: str) -> Conversation | None:
        """As `container`, for another thread than that of the event loop."""
        with reading(self._pair) as connection:
            return chats.tokens(connection, self._states, (canister, caller, path))

    async def newest_chats(
        self, canister: str, caller: str, before: tuple[int, int] | None, n_most: int | None
    ) -> tuple[list[tuple[int, Chat]], int]:
        """A page of a caller's chats as `chats.newest` has it, and how many the caller has."""
        return await self._read(
            lambda connection: (
                chats.newest(connection, canister, caller, before, n_most),
                chats.count(connection, canister, caller),
            )
        )

    async def oldest_chats(self, canister: str, n_most: int) -> list[Chat]:
        """The chats of all callers that were not changed for longest, these first."""
        return await self._read(lambda connection: chats.oldest(connection, canister, n_most))

    async def remove_chats(self, epoch: int, found: Sequence[Chat]) -> list[Chat]:
        """Remove chats without a call, as far as they are as they were found. Returns those. Raises LeadershipLost."""
        return await self._do(_REMOVE, chats.Removal(epoch, found))

    async def stored(self, canister: str, caller: str, path: str, head: bytes) -> bool:
        """The objects have the KV rows of this state. False: the chat has gone on meanwhile."""
        return await self._do(_STORED, chats.Stored((canister, caller, path), head))

    async def saved_chats(self, canister: str, caller: str) -> list[SavedChat]:
        """The caller's saved chats, newest first."""
        return await self._read(lambda connection: canisters.saved_chats(connection, canister, caller))

    # -- canisters

    async def found(self, canister: str, cycles: int = INITIAL_CYCLES) -> int:
        """A canister is served; a new one gets its first cycles. Returns its cycles."""
        return await self._do(_FOUND, canisters.Found(canister, cycles))

    async def cycles(self, canister: str) -> int | None:
        """The balance, below zero when it was overdrawn; None for a canister that was never found."""
        return await self._read(lambda connection: canisters.cycles(connection, canister))

    async def log(
        self,
        canister: str,
        caller: str,
        method: str,
        now_ns: int,
        outcome: CallOutcome = "ok",
        charge: Charge | None = None,
        *,
        cycles_added: int = 0,
        saved: Saved | None = None,
    ) -> None:
        """A call that was no job, as those of the control log are: its cost, and cycles that came with it."""
        entry = canisters.Entry(canister, caller, method, now_ns, outcome, charge, cycles_added, saved)
        await self._do(_LOG, entry)

    async def call_log(
        self, canister: str, caller: str | None, before_id: int | None, max_entries: int
    ) -> list[LoggedCall]:
        """The newest calls first. caller None: of all callers. before_id: only calls with a smaller id."""
        return await self._read(
            lambda connection: canisters.calls(connection, canister, caller, before_id, max_entries)
        )

    async def append_control(
        self,
        epoch: int,
        canister: str,
        caller: str,
        method: str,
        arg: bytes | None,
        now_ns: int,
        *,
        object: bytes | None = None,
        job: bytes | None = None,
    ) -> int:
        """The next number of the canister's control log, for this update. Numbers begin with 1 and have no gaps.

        object: SHA-256 of the argument, where it lies in the objects; arg is None then. job: that it is made for, if
        `control_of` is to find it. Raises LeadershipLost.
        """
        if (arg is None) == (object is None):
            raise BadRequest("an update has its argument here or in the objects, one of them")
        return await self._do(_APPEND, control.Append(epoch, canister, caller, method, arg, object, now_ns, job))

    async def control_of(self, canister: str, job: bytes) -> ControlEntry | None:
        """The entry that was made for a job."""
        return await self._read(lambda connection: control.of_job(connection, canister, job))

    async def control_since(self, canister: str, rev: int, max_entries: int = 256) -> list[ControlEntry]:
        """The entries after `rev`, oldest first."""
        return await self._read(lambda connection: control.since(connection, canister, rev, max_entries))

    async def control_rev(self, canister: str) -> int:
        """The number of the newest entry; 0 for none."""
        return await self._read(lambda connection: control.rev_of(connection, canister))

    # -- money

    async def mint(self, account: str, amount: int, *, note: str = "", key: bytes | None = None) -> bool:
        """New money. key: a second time with the same key does nothing, and is False. Raises BadRequest, Conflict."""
        return await self._move(money.Transfer(None, account, amount, key, note))

    async def transfer(
        self, source: str, target: str, amount: int, *, note: str = "", key: bytes | None = None
    ) -> bool:
        """Free money from one account to another; as `mint`. Raises InsufficientBalance."""
        return await self._move(money.Transfer(source, target, amount, key, note))

    async def _move(self, transfer: money.Transfer) -> bool:
        money.check_amount(transfer.amount)
        money.check_names(transfer.source, transfer.target)
        return await self._do(_MOVE, transfer)

    async def balance(self, account: str) -> Balance:
        """Of an account; nothing for one that never had money."""
        return await self._read(lambda connection: money.balance(connection, account))

    async def balances(self) -> dict[str, Balance]:
        """Of all accounts, by name."""
        return await self._read(money.balances)

    async def payments(
        self, account: str | None = None, before_id: int | None = None, max_entries: int = 100
    ) -> list[Payment]:
        """The newest payments first, of one account or of all."""
        return await self._read(lambda connection: money.payments(connection, account, before_id, max_entries))

    async def supply(self) -> Supply:
        """All money there is. Reads every account."""
        return await self._read(money.supply)

    # -- how

    async def _do(self, kind: Kind[V, T], value: V, patience_seconds: float | None = None) -> T:
        patience = self._patience_seconds if patience_seconds is None else patience_seconds
        return await asyncio.wrap_future(self._writer.submit(kind, value, patience))

    async def _read(self, read: Callable[[Connection], T]) -> T:
        def work() -> T:
            with reading(self._pair) as connection:
                return read(connection)

        return await self._aside(work)

    async def _aside(self, work: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        except RuntimeError:
            if not self._writer.is_open:
                raise JournalUnavailable("the journal is closed") from None
            raise


def _purge(connection: Connection, steps: Sequence[tuple[int, int]]) -> list[int | Exception]:
    canisters.purge(connection)
    if kept := [n_kept for _, n_kept in steps if n_kept]:
        receipts.purge(connection, max(kept))
    return [jobs.purge(connection, now_ns) for now_ns, _ in steps]


# Lower ranks run first. Accounts are locked before jobs end, jobs in order of arrival: the same in every process.
_LEAD: Kind[leading.Lead, int] = Kind("lead", 0, leading.begin)
_FOUND: Kind[canisters.Found, int] = Kind("found", 5, canisters.found)
_MOVE: Kind[money.Transfer, bool] = Kind("move", 10, money.move)
_ACCEPT: Kind[jobs.Accept, Accepted] = Kind("accept", 20, jobs.accept)
_ASSIGN: Kind[jobs.Assign, bool] = Kind("assign", 30, jobs.assign)
_REQUEUE: Kind[jobs.Requeue, Requeued] = Kind("requeue", 40, jobs.requeue)
_REFUSE: Kind[jobs.Refuse, bool] = Kind("refuse", 45, jobs.refuse)
_RAISE: Kind[raises.Raise, int] = Kind("raise", 47, raises.raise_holds)
_FORGET: Kind[forgetting.Forgetting, bool] = Kind("forget", 48, forgetting.forget)
_STORED: Kind[chats.Stored, bool] = Kind("stored", 60, chats.stored)
_REMOVE: Kind[chats.Removal, list[Chat]] = Kind("remove", 65, chats.remove)
_APPEND: Kind[control.Append, int] = Kind("append", 70, control.append)
_LOG: Kind[canisters.Entry, None] = Kind("log", 80, canisters.log)
_STAND_BY: Kind[Door, None] = Kind("stand by", 82, doors.stand_by)
_SHARE: Kind[doors.Share, None] = Kind("share", 84, doors.share)
_PURGE: Kind[tuple[int, int], int] = Kind("purge", 90, _purge)
