"""Whole answers, such as those of OpenAI's clients: made by one worker, gone on with by another if that one is lost.

    asked of a worker → events to the client as they come → its calls are settled, in one commit → the end

Each try is asked for under the same id, from which the worker takes ids and seeds. So in an exact pool another worker
gives the same answer, and the client gets from it what it does not have yet. The calls of the try that comes to the end
are settled, with their receipts, and those that had ended when the client went; those of a worker that was lost count
for nothing.

An answer with a key is made once at a time: who asks for it meanwhile joins it, whichever workers come and go. The
commit of its calls leaves a row under its id, so when it has to be made again later, since its worker is gone, nothing
is charged. The same holds for answers in the background, of which `kept_answers.py` has the rest.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from canister.api.herd_frames import Body, Broken, CallEnded, FrameReader
from canister.api.herd_requests import FRAMED_HEADER, AnswerQuery, AnswerTry, job_of_key
from canister.api.herd_wire import WireError
from canister.dispatch.durable_answers import OtherRequest
from canister.errors import CanisterBusy, CanisterStopping, JournalUnavailable, LeadershipLost, Trap
from canister.herd.asked_answers import Asked, Head, Live, Progress, decode
from canister.herd.jobs import StreamBroken
from canister.herd.journal.records import NewJob
from canister.herd.losses import BUSY_SECONDS, WorkersLost
from canister.herd.told_events import ToldEvents
from canister.herd.tries import Deposed
from canister.herd.worker_client import WorkerLost, WorkerRefused
from canister.telemetry.logs import get_logger

if TYPE_CHECKING:
    import aiohttp

    from canister.herd.herd import Herd
    from canister.herd.journal.records import JobRow
    from canister.herd.kept_answers import KeptAnswers
    from canister.herd.workers import Worker

WAIT_SECONDS = 60.0  # for a worker that goes on with an answer
LOOK_SECONDS = 0.05
METHOD = "answer"  # of the row of one whose calls are settled
_NAMES = re.compile(rb"herd-[0-9a-f]{32}-[0-9]+")
_RECEIPTS = "x-ic-receipts"

log = get_logger(__name__)


@dataclass(slots=True)
class _Calls:
    """Of one try. ended: that nobody has begun to settle. n_before: the calls before them."""

    worker: str
    fence: int
    ended: list[CallEnded] = field(default_factory=list)
    n_before: int = 0


class WholeAnswers:
    """Of one herd. choose: a worker for a caller; CanisterBusy while none is ready."""

    def __init__(self, herd: Herd, choose: Callable[[Herd, str], Awaitable[Worker]], kept: KeptAnswers) -> None:
        self._herd = herd
        self._choose = choose
        self._kept = kept
        self._live: dict[bytes, tuple[Asked, Live]] = {}  # those with a key

    async def told(self, asked: Asked) -> AsyncGenerator[Head | bytes]:
        """The head, then the body as it comes. An answer that goes on is made to its end, also if this is closed.

        Raises Trap, OtherRequest of a key that is another request's, and after the head StreamBroken or another Trap
        for what ends it.
        """
        live = self._joined(asked)
        async with aclosing(live.listen()) as listened:
            async for one in listened:
                yield one
        if live.failure is not None:
            raise live.failure

    def take_up(self, rows: Sequence[JobRow]) -> None:
        """Go on with answers in the background that the leader before this one has accepted."""
        for row in rows:
            try:
                progress = decode(row.caller, row.arg)
            except (ValueError, KeyError, TypeError):
                log.exception("an answer that was accepted cannot be read", job=row.id.hex())
                continue
            self._begun(progress)

    def _joined(self, asked: Asked) -> Live:
        """The answer as it is made; begun, if nobody has."""
        id = self._id_of(asked)
        if id in self._live:
            first, live = self._live[id]
            if first.body_hash != asked.body_hash:
                raise OtherRequest(str(asked.key))
            return live
        return self._begun(Progress(asked, id, time.time_ns()))

    def _begun(self, progress: Progress) -> Live:
        asked, id = progress.asked, progress.id
        live = Live(goes_on=asked.goes_on)
        if asked.key is not None:
            self._live[id] = asked, live
        self._kept.begin(progress)
        live.task = self._herd.leader.spawn(self._pumped(progress, live), "whole answer")

        def over(task: asyncio.Task[None]) -> None:
            if task.cancelled():
                live.failure = _stopping()
            self._live.pop(id, None)
            self._kept.end(progress)
            live.over()

        live.task.add_done_callback(over)
        return live

    def _id_of(self, asked: Asked) -> bytes:
        if asked.key is None:
            return secrets.token_bytes(32)
        return job_of_key(self._herd.host.default.id, asked.caller, f"answer {asked.path}\n{asked.key}")

    async def _pumped(self, progress: Progress, live: Live) -> None:
        try:
            async for one in self._made(progress):
                live.add(one)
        except (Deposed, LeadershipLost):
            self._herd.leader.depose()
            live.failure = CanisterStopping("another process leads this herd now; send the request again")
        except Exception as error:
            if not isinstance(error, Trap):
                log.exception("a whole answer failed", path=progress.asked.path)
            live.failure = error
            if not isinstance(error, CanisterStopping):  # then whoever leads next goes on
                await self._kept.refuse(progress, error)

    async def _made(self, progress: Progress) -> AsyncGenerator[Head | bytes]:
        herd, asked = self._herd, progress.asked
        herd.leader.check_leads()
        if not progress.is_accepted:
            await herd.balance.check_call(herd.host.default.id, len(asked.body))
        worker = await self._able(progress)
        while True:
            try:
                await self._recall(progress)
                async for one in self._tried(progress, worker):
                    yield one
                return
            except WorkerRefused as error:
                raise WorkersLost(str(error)) from error
            except JournalUnavailable:
                if not progress.is_accepted:
                    raise
                await asyncio.sleep(LOOK_SECONDS)
            except WorkerLost as error:
                worker = await self._next(progress, worker, error)

    async def _able(self, progress: Progress) -> Worker:
        """A worker. What a leader before has accepted waits for one."""
        while True:
            try:
                return await self._choose(self._herd, progress.asked.caller)
            except CanisterBusy:
                if not progress.is_accepted:
                    raise
            await asyncio.sleep(LOOK_SECONDS)

    async def _recall(self, progress: Progress) -> None:
        """Are the calls of an answer settled that may have to be made again? Raises OtherRequest."""
        asked = progress.asked
        row = await self._herd.journal.find(progress.id) if asked.key is not None or progress.is_accepted else None
        if row is None:
            return
        if row.arg != asked.body_hash:
            raise OtherRequest(str(asked.key))
        progress.n_settled = sys.maxsize

    async def _next(self, progress: Progress, worker: Worker, error: WorkerLost) -> Worker:
        """The worker that goes on, after this one was lost. Raises why there is none."""
        progress.at = None
        await self._herd.workers.suspect(worker)
        process = (worker.id, worker.ref.generation)
        log.warning("the worker of a whole answer was lost", process=process, reason=str(error))
        if error.was_asked:
            progress.lost_with.add(process)
        can_move = progress.can_move and worker.is_exact(self._herd.host.default.id)
        if not can_move and progress.asked.is_unheard:
            progress.events = ToldEvents()  # nobody has read it, so it may become another one
        elif progress.events.have_begun and not can_move:
            told = "its model is not exact, so no other worker can go on with this text: send the request again"
            raise StreamBroken(f"{error}; {told}")
        if len(progress.lost_with) >= self._herd.settings.limits.max_tries:
            told = f"the request was given to {len(progress.lost_with)} workers, and each was lost with it"
            raise WorkersLost(f"{told}; nothing of it was kept or charged")
        end = time.monotonic() + WAIT_SECONDS
        while True:
            await asyncio.sleep(BUSY_SECONDS)  # one that dies still takes connections for a moment
            try:
                found = await self._choose(self._herd, progress.asked.caller)
            except CanisterBusy:
                if time.monotonic() > end and not progress.is_accepted:
                    raise
                await asyncio.sleep(LOOK_SECONDS)
                continue
            if (found.id, found.ref.generation) not in progress.lost_with or time.monotonic() > end:
                return found

    async def _tried(self, progress: Progress, worker: Worker) -> AsyncGenerator[Head | bytes]:
        """One try. Raises WorkerLost, WorkerRefused, Deposed, StreamBroken."""
        asked = progress.asked
        answer_try = AnswerTry(progress.id, self._herd.leader.tries.next_fence(), progress.now_ns)
        headers = {**asked.headers, "Accept-Encoding": "identity"}
        calls = _Calls(worker.id, answer_try.fence)
        is_begun = is_ended = False
        await self._prepare(progress, worker)
        async with (
            self._paid(progress, calls),
            worker.answering(),
            worker.client.passed_on(
                asked.method, asked.target, asked.body, headers, asked.caller, answer_try
            ) as response,
            aclosing(_frames(response)) as frames,
        ):
            progress.can_move = progress.can_move and FRAMED_HEADER in response.headers
            async for frame in frames:
                if isinstance(frame, CallEnded):
                    calls.ended.append(frame)
                elif isinstance(frame, Broken):
                    worker.is_draining = True
                    raise WorkerLost(f"worker {worker.id}: {frame.why}", was_asked=False)
                if not isinstance(frame, Body):
                    continue
                if calls.ended and (frame.is_over or frame.is_end):
                    await asyncio.shield(self._settling(progress, calls))
                if not is_begun:
                    await self._begins(progress, worker, response.status)
                    progress.events.begin(response.headers.get("Content-Type", ""))
                    is_begun = True
                if frame.is_end and asked.keeping is not None and response.status == 200:
                    await self._kept.settle(progress, worker, answer_try.fence)
                data = frame.data
                if calls.n_before:
                    data = _NAMES.sub(lambda name: progress.ids.get(name[0], b""), data)
                new = progress.events.take(data) if data else b""
                if not progress.has_head:
                    progress.has_head = True
                    length = len(new) if frame.is_end else None
                    yield Head(response.status, _headers(response, progress.ids), length)
                if new:
                    yield new
                is_ended = frame.is_end
            if not is_ended:
                raise WorkerLost(f"worker {worker.id}: its answer broke off")

    async def _prepare(self, progress: Progress, worker: Worker) -> None:
        """Let a worker have what a try needs, and nothing of another try, whose calls nobody could tell any more."""
        asked = progress.asked
        is_kept = asked.key is not None or asked.keeping is not None
        may_be_there = asked.key is not None or progress.n_tries > 0 or progress.is_accepted
        progress.n_tries += 1
        async with worker.leased():
            is_replayed = asked.key is not None and progress.n_settled == sys.maxsize
            if is_kept and may_be_there and not is_replayed:
                id = None if asked.keeping is None else progress.response_id
                of = AnswerQuery(self._herd.host.default.id, asked.caller, id, asked.key)
                await worker.client.forget_answer(of)
            if asked.keeping is not None:
                await self._kept.bring(asked.caller, asked.body, worker)

    async def _begins(self, progress: Progress, worker: Worker, status: int) -> None:
        """A worker has taken the request, or refused it. Raises WorkersLost when it was accepted before."""
        if status != 200:
            if progress.is_accepted:
                raise WorkersLost(f"worker {worker.id} refused, with {status}, what another one has begun")
            return
        if progress.asked.is_in_background and not progress.is_accepted:
            await self._kept.accept(progress)
        progress.at = worker

    @asynccontextmanager
    async def _paid(self, progress: Progress, calls: _Calls) -> AsyncIterator[None]:
        """Settle also the calls that had ended when the client went: it has had what they decoded."""
        try:
            yield
        except asyncio.CancelledError:
            if calls.ended:
                self._settling(progress, calls).add_done_callback(_log_failure)
            raise

    def _settling(self, progress: Progress, calls: _Calls) -> asyncio.Task[None]:
        """Begin to settle the calls that have ended. It goes on when nobody waits for it, so each is settled once."""
        ended, first = calls.ended, calls.n_before
        calls.ended, calls.n_before = [], first + len(ended)
        return self._herd.leader.spawn(self._settle(progress, calls, first, ended), "calls of a whole answer")

    async def _settle(self, progress: Progress, of: _Calls, first: int, calls: Sequence[CallEnded]) -> None:
        """Settle calls of a try, the first of which is its n-th, unless a try before has settled so many."""
        new = list(enumerate(calls, first))[max(0, progress.n_settled - first) :]
        if not new:
            return
        caller, tries = progress.asked.caller, self._herd.leader.tries
        row = self._row_of(progress) if progress.n_settled == 0 else None
        try:
            found = await tries.settle_answer(progress.id, caller, of.worker, of.fence, new, row)
        except (Deposed, LeadershipLost):
            self._herd.leader.depose()
            raise
        progress.ids |= {call.name.encode(): id.encode() for (_, call), id in zip(new, found, strict=True)}
        progress.n_settled = first + len(calls)
        for canister in {call.canister for call in calls}:
            self._herd.host.find(canister).logged.tell()

    def _row_of(self, progress: Progress) -> NewJob | None:
        """What tells that the calls of an answer are settled; None: nobody can ask for it again."""
        asked = progress.asked
        if not asked.goes_on:
            return None
        canister = self._herd.host.default
        kept_until_ns = progress.now_ns + round(canister.settings.keep_answers_days * 86_400e9)
        return NewJob(progress.id, canister.id, asked.caller, METHOD, asked.body_hash, kept_until_ns=kept_until_ns)


def _log_failure(settling: asyncio.Task[None]) -> None:
    error = None if settling.cancelled() else settling.exception()
    if error is not None:
        log.error("calls of a client that went could not be settled", reason=str(error), exc_info=error)


def _stopping() -> CanisterStopping:
    return CanisterStopping("the herd is stopping; send the request again")


async def _frames(response: aiohttp.ClientResponse) -> AsyncGenerator[object]:
    """What a worker tells; of one that knows of no frames, its body alone, as it comes."""
    if FRAMED_HEADER not in response.headers:
        async for piece in response.content.iter_any():
            yield Body(piece)
        yield Body(b"", is_end=True)
        return
    reader = FrameReader()
    async for piece in response.content.iter_any():
        try:
            frames = reader.feed(piece)
        except WireError as error:
            raise WorkerRefused(f"a worker answered what is no message of this herd: {error}") from error
        for frame in frames:
            yield frame


def _headers(response: aiohttp.ClientResponse, ids: Mapping[bytes, bytes]) -> dict[str, str]:
    told = {name: value for name, value in response.headers.items() if name.lower() != FRAMED_HEADER.lower()}
    return {
        name: _NAMES.sub(lambda found: ids.get(found[0], b""), value.encode()).decode()
        if name.lower() == _RECEIPTS
        else value
        for name, value in told.items()
    }
