"""When a running decode of prompts is broken off, for a client that goes or one that comes, and how long one takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from time import perf_counter

from canister.engine.runner import Runner
from canister.engine.schedule.scheduler import SHORT, Scheduler, Step
from canister.engine.task import Task

JOIN_SHARE = 0.25  # of the time of a decode of prompts, within which it is begun anew for one that comes
MIN_TIMELY = 16  # tokens, of the chunk of a call that has its time
MOST_IMPATIENT = 1000  # callers that are remembered


class ChunkDecodes:
    """joins_begun: a decode that has begun may be begun anew with one more prompt. cut_matters: another cut of a prompt
    changes a chat's logits. `abort` and `coming` are for any thread, the others for the decode thread.
    """

    def __init__(self, runner: Runner, scheduler: Scheduler[Task], *, joins_begun: bool, cut_matters: bool) -> None:
        self._runner = runner
        self._scheduler = scheduler
        self._joins_begun = joins_begun
        self._cut_matters = cut_matters
        self._decoding: tuple[Task, ...] = ()  # whose chunks are being decoded
        self._coming: set[Task] = set()  # short prompts on their way to the decode thread
        self._joins_until = 0.0  # until when the running decode may be begun anew
        self._joins_since = 0.0  # when it was begun for the first time
        self._began_at = 0.0
        self._patience: dict[str, float] = {}  # seconds, of callers whose client went during a first chunk

    def abort(self, task: Task) -> None:
        """End the running decode if it is a prompt chunk of this call alone."""
        if self._decoding == (task,):
            self._runner.abort()

    @contextmanager
    def coming(self, task: Task) -> Iterator[None]:
        """While a call is submitted. For a short prompt a decode of chunks waits if it has not begun, and is begun anew
        if it has just begun, so that they share one.
        """
        may_join = self._joins_begun and 0 < len(task.request.prompt) <= SHORT and not task.is_alone
        if may_join:
            self._coming.add(task)
        try:
            yield
        except BaseException:
            self._coming.discard(task)  # it never arrives
            raise
        if may_join and perf_counter() < self._joins_until:
            self._runner.abort()

    def arrived(self, task: Task) -> None:
        """The decode thread has the call."""
        self._coming.discard(task)

    @contextmanager
    def of(self, step: Step[Task]) -> Iterator[list[Task]]:
        """The calls of a step whose chunks are to be decoded, while that may be broken off. None, where a call that is
        to share the decode has come since the step was scheduled.
        """
        self._runner.rearm()
        self._joins_until = self._join_time(step)
        # A cancel aborts the decode from here on; an earlier cancel is seen in the next line.
        self._decoding = step.chunks
        self._began_at = perf_counter()
        # From here on a call that comes breaks the decode off; an earlier one is seen here.
        is_early = bool(self._coming) and self._began_at < self._joins_until
        try:
            yield [] if is_early else [task for task in step.chunks if not task.is_cancelled]
        finally:
            self._decoding, self._joins_until = (), 0.0

    def ended(self, step: Step[Task], n_chunks: Sequence[int]) -> None:
        """So many tokens of each chunk were decoded."""
        if any(n_chunks):
            self._joins_since = 0.0
        for task, n in zip(step.chunks, n_chunks, strict=True):
            calls = task.request.ahead
            if calls is None:
                continue
            calls.has_decoded |= n > 0
            if task.is_cancelled and not calls.has_decoded:
                self._lose_patience(task.caller)
            elif n and not task.n_prompt:
                self._patience.pop(task.caller, None)  # its prompt is in

    def _lose_patience(self, caller: str) -> None:
        self._patience.pop(caller, None)
        if len(self._patience) >= MOST_IMPATIENT:
            del self._patience[next(iter(self._patience))]
        self._patience[caller] = (perf_counter() - self._began_at) / 2

    def _join_time(self, step: Step[Task]) -> float:
        """Until when a decode of chunks may be begun anew for calls that come. Little of its time may be lost."""
        if step.rows or not (step.chunks and self._joins_begun and self._scheduler.may_share(step.chunks[0])):
            return 0.0
        n_rows = len(step.chunks) * min(step.n_chunk, max(task.n_prompt for task in step.chunks))
        self._joins_since = self._joins_since or perf_counter()
        return self._joins_since + JOIN_SHARE * self._scheduler.chunk_sizer.chunks.seconds(n_rows, step.position)

    def timely(self, tasks: list[Task], n_each: int) -> int:
        """Of so many tokens of each call, as many as calls that have their time decode within it.

        A client that goes while its first chunk is decoded may ask again, and go again after as much time. So the
        chunks of its caller take half of that then, until a prompt is in. A chunk that shares its decode is not aborted
        when one of the clients goes, so that only its own part counts.
        """
        timed = [(task.request.seconds, task.caller) for task in tasks if task.request.seconds is not None]
        times = [min(seconds, self._patience.get(caller, seconds)) for seconds, caller in timed]
        if not times or self._cut_matters:
            return n_each
        position = max(task.sequence.position for task in tasks)
        n_fitting = self._scheduler.chunk_sizer.chunks.fitting(min(times), position, n_each)
        return min(n_each, max(MIN_TIMELY, n_fitting))
