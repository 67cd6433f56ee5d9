"""The commit that ends jobs: answer, chats, money, cycles, log and receipt of each, all of it or nothing.

Jobs that end at the same time are settled in few statements. First everything that decides is locked and read: the
epoch, the jobs, their chats, the accounts. A job that is stale drops out there, so it spoils nobody else's commit.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy import Connection

from canister.errors import StoreDamaged
from canister.herd.journal import canisters, chats, jobs, leading, money, receipts
from canister.herd.journal.records import Settled, SettleOutcome, StaleReason
from canister.herd.journal.statements import fetch_together, pipelined


@dataclass(slots=True)
class _Batch:
    """Jobs that are written together: no chat is changed by two of them."""

    ended: list[dict[str, Any]] = field(default_factory=list)
    new: list[dict[str, Any]] = field(default_factory=list)
    changes: list[chats.CheckedChange] = field(default_factory=list)
    keys: set[chats.Key] = field(default_factory=set)


class Settling:
    """Settles jobs. It knows the states of chats that were settled of late."""

    def __init__(self, states: chats.States) -> None:
        self._states = states
        self._terms = receipts.Terms()

    def __call__(self, connection: Connection, steps: Sequence[Settled]) -> list[SettleOutcome | Exception]:
        paths = {change.path for step in steps for change in step.chats}
        led, found_jobs, found_chats = fetch_together(
            connection,
            leading.EPOCH.asked(),
            jobs.LOCK.asked([step.id for step in steps if step.new is None or not step.is_passing]),
            chats.LOCK.asked(sorted(paths)),
        )
        epoch, rows = leading.epoch_in(led), jobs.locked(found_jobs)
        for step in steps:
            if step.new is not None and step.id not in rows:
                rows[step.id] = jobs.not_yet(step.new)
        locked = chats.locked(found_chats, [key for step in steps for key in _keys(step, rows)])
        books = money.Books(connection, [row.payer for row in rows.values() if row.payer is not None and row.hold])
        known = {
            row.id: row.answer for row in jobs.find(connection, [row.id for row in rows.values() if row.has_ended])
        }
        diary = canisters.Diary()
        page = receipts.Page(connection, self._terms)
        batch = _Batch()
        outcomes: list[SettleOutcome | Exception] = []
        for step in steps:
            if batch.keys & set(_keys(step, rows)):
                self._write(connection, batch)
                batch = _Batch()
            try:
                outcome = self._decide(connection, step, rows.get(step.id), epoch, locked, batch, page)
            except StoreDamaged as error:  # of this chat alone
                outcomes.append(error)
                continue
            if outcome.outcome == "done":
                row = rows[step.id]
                known[step.id] = outcome.answer
                _pay(books, step, row)
                diary.add(row.canister, row.caller, row.method, step.ended_ns, step.outcome, step.charge)
                if step.saved is not None:
                    canisters.save_chat(connection, row.canister, row.caller, step.saved, step.ended_ns)
            elif outcome.outcome == "known":
                outcome = SettleOutcome("known", known[step.id])
            outcomes.append(outcome)
        with pipelined(connection):
            self._write(connection, batch)
            books.write(time.time_ns())
            diary.write(connection)
            page.write()
        return outcomes

    def _decide(
        self,
        connection: Connection,
        step: Settled,
        row: jobs.LockedJob | None,
        epoch: int,
        locked: dict[chats.Key, chats.LockedChat],
        batch: _Batch,
        page: receipts.Page,
    ) -> SettleOutcome:
        """Take the step into the batch, or say why not."""
        if row is None:
            return _stale("fence")
        if row.has_ended:
            return SettleOutcome("known")
        if step.epoch != epoch:
            return _stale("epoch")
        if not (step.fence > row.fence or (step.fence == row.fence and row.state == "running")):
            return _stale("fence")
        checked: list[chats.CheckedChange] = []
        for change in step.chats:
            chat = locked[row.canister, row.caller, change.path]
            if chat.head != change.head_before:
                return _stale("head", change.path)
            try:
                checked.append(chats.check(connection, self._states, chat, change, step.worker, step.ended_ns))
            except chats.BadChange as error:
                return SettleOutcome("stale", None, "chat", change.path, str(error))
        if len({change.path for change in step.chats}) < len(step.chats):
            return SettleOutcome("stale", None, "chat", None, "it changes a chat twice")
        answer = step.answer
        if step.receipt is not None:
            answer = replace(answer, receipt=page.add(row.canister, step.receipt, step.fence))
        values = jobs.settled_values(step, answer)
        if row.seq is None:
            assert step.new is not None
            if not step.is_passing:
                batch.new.append(jobs.new_values(step.new, step.started_ns) | values)
        else:
            batch.ended.append({"of_seq": row.seq, **values})
        batch.changes += checked
        batch.keys |= {change.chat.key for change in checked}
        row.state, row.fence = "done", step.fence
        return SettleOutcome("done", answer)

    def _write(self, connection: Connection, batch: _Batch) -> None:
        jobs.write_settled(connection, batch.ended, batch.new)
        chats.write(connection, self._states, batch.changes)


def _keys(step: Settled, rows: dict[bytes, jobs.LockedJob]) -> list[chats.Key]:
    row = rows.get(step.id)
    return [] if row is None else [(row.canister, row.caller, change.path) for change in step.chats]


def _pay(books: money.Books, step: Settled, row: jobs.LockedJob) -> None:
    if row.payer is None or not row.hold:
        return
    if step.is_refunded:
        books.refund(row.payer, row.hold, row.id)
    else:
        books.settle(row.payer, row.hold, row.id)


def _stale(why: StaleReason, path: str | None = None) -> SettleOutcome:
    return SettleOutcome("stale", None, why, path)
