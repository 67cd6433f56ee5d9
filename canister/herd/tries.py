"""One try of a job at one worker: asked on the present state of its chats, then settled in the journal.

The worker gets a chat's present state first if it has another one. The journal takes the end of a job only on top of
the head that the job began from; so whatever a worker has done that nobody waited for any more changes nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from canister.api.herd_frames import CallEnded, Text
from canister.api.herd_requests import job_of_answer
from canister.api.herd_wire import ChatAt, Done, Run
from canister.herd import replies
from canister.herd.jobs import Job
from canister.herd.journal.records import Answer, NewJob, Settled
from canister.herd.worker_client import WorkerConflict, WorkerLost
from canister.telemetry.logs import get_logger

if TYPE_CHECKING:
    from canister.herd.journal.journal import Journal
    from canister.herd.known_chats import KnownChats
    from canister.herd.prefixes import Prefixes
    from canister.herd.transfers import Transfers
    from canister.herd.workers import Worker

FENCE_BITS = 32  # of a fence below the epoch
MAX_MOVES = 4  # of chats to a worker for one try

log = get_logger(__name__)


class Deposed(Exception):
    """Another process leads this herd."""


class Tries:
    """Of one epoch of a leader."""

    def __init__(
        self, journal: Journal, chats: KnownChats, transfers: Transfers, prefixes: Prefixes, epoch: int
    ) -> None:
        self._journal = journal
        self._prefixes = prefixes
        self._chats = chats
        self._transfers = transfers
        self._epoch = epoch
        self._n_fences = 0
        self.n_settled = 0

    def next_fence(self) -> int:
        """Higher than those of all tries before, of this and of former leaders."""
        self._n_fences += 1
        return self._epoch << FENCE_BITS | self._n_fences

    async def run(self, job: Job, worker: Worker) -> Done:
        """The end of a job, durable if it settles. Raises WorkerConflict: not begun; WorkerLost, WorkerRefused,
        Deposed.
        """
        job.fence = self.next_fence()
        if job.accepted and not await self._journal.assign(job.id, worker.id, job.fence, self._epoch):
            raise Deposed
        if job.beginnings:
            async with _lease(job, worker):
                await self._prefixes.bring(job, worker)
        for _ in range(MAX_MOVES):
            started_ns = time.time_ns()
            done = await self._asked(job, worker)
            settled = await self.settle(job, worker.id, done, started_ns) if job.settles else done
            if settled is not None:
                self._prefixes.note(job, worker.id)
                return settled
        raise WorkerLost(f"worker {worker.id} does not get on with the chat of the call")

    async def _asked(self, job: Job, worker: Worker) -> Done:
        """The worker's answer, on the present state of its chats."""
        for _ in range(MAX_MOVES):
            heads = [(await self._chats.of(key)).head for key in job.keys]
            message = Run(
                job=job.id,
                epoch=self._epoch,
                fence=job.fence,
                rev=job.rev,
                canister=job.canister,
                caller=job.caller,
                method=job.method.name,
                arg=job.arg,
                seed=job.seed,
                now_ns=job.now_ns,
                stream=job.text is not None,
                chats=tuple(map(ChatAt, job.chats, heads)),
                detached=job.goes_on,
            )
            try:
                async with _lease(job, worker):
                    return await worker.client.run(message, _teller(job))
            except WorkerConflict as error:
                path = error.conflict.path
                if error.conflict.why != "head" or path is None:
                    raise
                chat = await self._chats.of((job.canister, job.caller, path))
                async with _lease(job, worker):
                    await self._transfers.bring(chat, worker)
        raise WorkerLost(f"worker {worker.id} does not take the chat of the call")

    async def settle(self, job: Job, worker: str, done: Done, started_ns: int) -> Done | None:
        """Make the end of a job durable. Returns it, or the one that it had before; None: its chat is another one by
        now, so it has to run again.
        """
        settled = Settled(
            id=job.id,
            epoch=self._epoch,
            fence=job.fence,
            worker=worker,
            answer=replies.to_answer(done),
            outcome=replies.outcome_of(done),
            charge=replies.to_charge(done) if done.charged else None,
            chats=done.chats,
            saved=done.saved,
            is_refunded=bool(job.hold) and done.reply is None,
            started_ns=started_ns,
            ended_ns=time.time_ns(),
            new=None if job.accepted else job.as_new(),
            is_passing=not job.is_kept,
            receipt=done.receipt,
        )
        outcome = await self._journal.settle(settled)
        if outcome.outcome == "known" and outcome.answer is not None:
            return replies.of_answer(outcome.answer)
        if outcome.outcome == "done":
            self.n_settled += 1
            for change in done.chats:
                self._chats.changed((job.canister, job.caller, change.path), change, worker)
            return replace(done, receipt=None, receipt_id="" if outcome.answer is None else outcome.answer.receipt)
        for key in job.keys:
            self._chats.forget(key)
        if outcome.why in ("epoch", "fence"):
            raise Deposed
        log.warning("a call has to run again", job=job.id.hex(), worker=worker, why=outcome.why, path=outcome.path)
        return None

    async def settle_answer(
        self,
        id: bytes,
        caller: str,
        worker: str,
        fence: int,
        calls: Sequence[tuple[int, CallEnded]],
        row: NewJob | None = None,
    ) -> list[str]:
        """Make calls of a whole answer durable, each with its number, and return the ids of their receipts; "": it has
        none. row: left by the same commit. Raises Deposed.
        """
        steps = [self._of_answer(id, n, caller, worker, fence, call) for n, call in calls]
        if row is not None:
            now_ns = time.time_ns()
            ended = Settled(row.id, self._epoch, fence, worker, Answer(b""), new=row)
            steps.append(replace(ended, started_ns=now_ns, ended_ns=now_ns))
        found = await asyncio.gather(*map(self._journal.settle, steps))
        if any(outcome.outcome != "done" for outcome in found):
            raise Deposed
        self.n_settled += len(calls)
        return ["" if outcome.answer is None else outcome.answer.receipt for outcome in found[: len(calls)]]

    def _of_answer(self, id: bytes, n: int, caller: str, worker: str, fence: int, call: CallEnded) -> Settled:
        job = job_of_answer(id, n)
        return Settled(
            id=job,
            epoch=self._epoch,
            fence=fence,
            worker=worker,
            answer=replies.to_answer(call.done),
            outcome=replies.outcome_of(call.done),
            charge=replies.to_charge(call.done),
            started_ns=call.started_ns,
            ended_ns=call.ended_ns,
            new=NewJob(job, call.canister, caller, call.method, b""),
            is_passing=True,
            receipt=call.done.receipt,
        )


@asynccontextmanager
async def _lease(job: Job, worker: Worker) -> AsyncIterator[None]:
    """Wait for a worker only as long as it is there and the job is wanted. Raises WorkerLost."""
    async with worker.leased() as lease:
        if job.is_dropped:
            raise WorkerLost("nobody waits for the job any more", was_asked=False)
        job.lease = lease
        try:
            yield
        finally:
            job.lease = None


def _teller(job: Job) -> Callable[[Text], None] | None:
    """What the client of a stream has not read yet goes to it at once."""
    text = job.text
    if text is None:
        return None
    text.begin()
    return lambda piece: text.take(piece.text, piece.echo)
