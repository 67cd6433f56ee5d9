"""Answers that are kept, as Responses does by its default: where each is, and a copy of it in the journal.

    made in the background: accepted → told to its client → made at one worker after the other → its copy settled
    otherwise:              made → its copy settled

What is asked of a kept answer is asked of a worker that has it. If there is none any more, another one gets the copy.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from canister.api.herd_requests import AnswerQuery, job_of_key
from canister.dispatch.kept_answers import AnswerFailed
from canister.errors import CanisterBusy, CanisterTrapped, Trap
from canister.herd import replies
from canister.herd.asked_answers import KEPT_METHOD, Progress, encode
from canister.herd.journal.forgetting import DELETED
from canister.herd.journal.records import Answer, JobRow, NewJob, Settled
from canister.herd.tries import Deposed
from canister.herd.worker_client import WorkerLost, WorkerRefused
from canister.telemetry.logs import get_logger

if TYPE_CHECKING:
    from canister.herd.herd import Herd
    from canister.herd.workers import Worker

LOOK_SECONDS = 0.05
WAIT_SECONDS = 60.0  # for a worker that goes on with an answer that is asked for
MOST_NAMED = 64  # answers in one request
MOST_HOLDERS = 10_000  # answers of which is remembered who has them

_NAMED = re.compile(rb"(?:resp|msg|rs|fc)_([0-9a-f]{48})")

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Place:
    """Where an answer is. making: None: it has ended. row: of one that has ended, if the journal has it."""

    id: str
    caller: str
    worker: Worker
    making: Progress | None
    row: JobRow | None


class KeptAnswers:
    """Of one herd. choose: a worker for a caller."""

    def __init__(self, herd: Herd, choose: Callable[[Herd, str], Awaitable[Worker]]) -> None:
        self._herd = herd
        self._choose = choose
        self._made: dict[bytes, Progress] = {}  # those that are being made
        self._holders: dict[bytes, set[str]] = {}

    # -- while they are made

    def begin(self, progress: Progress) -> None:
        if progress.asked.keeping is not None:
            self._made[self._row_id(progress.asked.caller, progress.response_id)] = progress

    def end(self, progress: Progress) -> None:
        """It is made no more, however it has ended."""
        if progress.asked.keeping is not None:
            self._made.pop(self._row_id(progress.asked.caller, progress.response_id), None)
        progress.over.set()

    async def accept(self, progress: Progress) -> None:
        """Make an answer in the background durable, before its client is told of it. Raises LeadershipLost."""
        row = self._new(progress, encode(progress))
        await self._herd.journal.accept(row, epoch=self._herd.leader.epoch)
        progress.is_accepted = True

    async def settle(self, progress: Progress, worker: Worker, fence: int) -> None:
        """It has come to its end: have a copy of it in the journal. Raises WorkerLost, WorkerRefused, Deposed."""
        copy = await worker.client.answer(self._query(progress.asked.caller, progress.response_id))
        new = None if progress.is_accepted else self._new(progress, b"")
        id, now_ns = self._row_id(progress.asked.caller, progress.response_id), time.time_ns()
        ended = Settled(id, self._herd.leader.epoch, fence, worker.id, Answer(copy or b""), new=new)
        settled = replace(ended, started_ns=progress.now_ns, ended_ns=now_ns)
        if (await self._herd.journal.settle(settled)).outcome == "stale":
            raise Deposed
        self._note(id, worker.id)

    async def refuse(self, progress: Progress, error: Exception) -> None:
        """It came to no good end, and its caller is told why."""
        if progress.is_accepted:
            trap = (
                error if isinstance(error, Trap) else CanisterTrapped("internal error; the herd's log has the details")
            )
            id = self._row_id(progress.asked.caller, progress.response_id)
            await self._herd.journal.refuse(id, self._herd.leader.epoch, replies.to_answer(replies.of_trap(trap)))

    async def bring(self, caller: str, body: bytes, worker: Worker) -> None:
        """Let a worker have the answers that a request names. Raises WorkerLost, WorkerRefused."""
        for number in list(dict.fromkeys(_NAMED.findall(body)))[:MOST_NAMED]:
            id = f"resp_{number.decode()}"
            row_id = self._row_id(caller, id)
            if worker.id in self._holders.get(row_id, ()):
                continue
            row = await self._herd.journal.find(row_id)
            if row is not None and row.answer is not None and row.answer.reply and row.worker != worker.id:
                await self._put(caller, id, row.answer.reply, worker)

    # -- when they are asked for

    async def place(self, caller: str, id: str) -> Place:
        """The worker to be asked for an answer. Raises CanisterBusy, and AnswerFailed, which tells why it failed."""
        row_id, end = self._row_id(caller, id), time.monotonic() + WAIT_SECONDS
        while (making := self._made.get(row_id)) is not None:
            if making.at is not None and not making.at.is_gone:
                return Place(id, caller, making.at, making, None)
            if time.monotonic() > end:
                raise CanisterBusy("no worker goes on with this answer yet; ask again later")
            await asyncio.sleep(LOOK_SECONDS)
        row = await self._herd.journal.find(row_id)
        if row is None:
            return Place(id, caller, await self._choose(self._herd, caller), None, None)
        if row.answer is None:
            raise CanisterBusy("no worker goes on with this answer yet; ask again later")
        if row.answer.reply is None and row.answer.http_status == DELETED:
            worker = await self._choose(self._herd, caller)
            await worker.client.forget_answer(self._query(caller, id))  # it may have been away then
            return Place(id, caller, worker, None, None)
        if row.answer.reply is None:
            raise AnswerFailed(row.answer.reject_message or "", row.answer.http_status, row.answer.error_code or "")
        canister = self._herd.host.default.id
        for worker in self._herd.workers.all:
            has = worker.id in self._holders.get(row_id, {row.worker})
            if has and worker.may_run(canister, self._herd.control.rev(canister)):
                return Place(id, caller, worker, None, row)
        place = Place(id, caller, await self._choose(self._herd, caller), None, row)
        await self.restore(place)
        return place

    async def restore(self, place: Place) -> bool:
        """Let the worker have the journal's copy, as far as there is one. Raises WorkerLost, WorkerRefused."""
        copy = None if place.row is None or place.row.answer is None else place.row.answer.reply
        if not copy:
            return False
        await self._put(place.caller, place.id, copy, place.worker)
        return True

    async def over(self, place: Place) -> None:
        """Wait until an answer that was cancelled or deleted is made no more, and the journal has it."""
        if place.making is not None:
            await place.making.over.wait()

    async def removed(self, place: Place) -> None:
        """A worker has deleted it: nobody has it any more."""
        await self.over(place)
        row_id = self._row_id(place.caller, place.id)
        await self._herd.journal.forget(row_id, self._herd.leader.epoch)
        self._holders.pop(row_id, None)
        for worker in list(self._herd.workers.all):
            if worker is not place.worker and not worker.is_gone:
                try:
                    await worker.client.forget_answer(self._query(place.caller, place.id))
                except (WorkerLost, WorkerRefused) as error:
                    log.info("a copy of a deleted answer is left at a worker", worker=worker.id, reason=str(error))

    # -- how

    async def _put(self, caller: str, id: str, copy: bytes, worker: Worker) -> None:
        await worker.client.put_answer(self._query(caller, id), copy)
        self._note(self._row_id(caller, id), worker.id)

    def _note(self, row_id: bytes, worker: str) -> None:
        self._holders.setdefault(row_id, set()).add(worker)
        while len(self._holders) > MOST_HOLDERS:
            del self._holders[next(iter(self._holders))]

    def _new(self, progress: Progress, arg: bytes) -> NewJob:
        canister, caller = self._herd.host.default, progress.asked.caller
        kept_until_ns = progress.now_ns + round(canister.settings.keep_answers_days * 86_400e9)
        id = self._row_id(caller, progress.response_id)
        return NewJob(id, canister.id, caller, KEPT_METHOD, arg, kept_until_ns=kept_until_ns)

    def _row_id(self, caller: str, id: str) -> bytes:
        return job_of_key(self._herd.host.default.id, caller, f"response {id}")

    def _query(self, caller: str, id: str) -> AnswerQuery:
        return AnswerQuery(self._herd.host.default.id, caller, id)
