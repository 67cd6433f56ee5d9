"""Workers as child processes of this machine, each in a data folder of its own, on unix sockets."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from asyncio.subprocess import DEVNULL, Process, create_subprocess_exec
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

from canister.errors import Conflict
from canister.herd.launch import folder as folders
from canister.herd.launch.launcher import WorkerEnded, WorkerEvent, WorkerRef, WorkerSpec, WorkerStarted
from canister.telemetry.logs import get_logger

WINDOW_SECONDS = 60.0  # in which ends are counted
FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS = 0.1, 30.0
END_SECONDS = 10.0  # a worker that has not ended so long after its time to drain hangs, and is killed

log = get_logger(__name__)


@dataclass(slots=True)
class _Kept:
    """A worker that is kept alive. ends: when its processes ended, lately."""

    spec: WorkerSpec
    folder: Path
    ref: WorkerRef
    process: Process
    ends: deque[float] = field(default_factory=deque)
    ending: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None


class LocalLauncher:
    """A `Launcher`. workers: holds the workers' folders. Used from one event loop, that of the process's first thread,
    since the kernel ends children together with the thread that started them.
    """

    def __init__(self, workers: Path) -> None:
        self._workers = workers
        self._kept: dict[str, _Kept] = {}
        self._events: asyncio.Queue[WorkerEvent | None] = asyncio.Queue()

    async def start(self, spec: WorkerSpec) -> WorkerRef:
        if spec.id in self._kept:
            raise Conflict(f"worker {spec.id} runs already; stop it first, or give the new one another id")
        folder = await asyncio.to_thread(folders.prepare, self._workers, spec)
        await asyncio.to_thread(folders.end_orphan, folder)
        process, ref = await self._begin(spec, folder)
        kept = _Kept(spec, folder, ref, process)
        self._kept[spec.id] = kept
        kept.task = asyncio.create_task(self._keep(kept), name=f"worker {spec.id}")
        self._events.put_nowait(WorkerStarted(ref))
        return ref

    async def stop(self, ref: WorkerRef, drain_seconds: float) -> None:
        kept = self._kept.get(ref.id)
        if kept is None or kept.task is None:
            return
        kept.ending.set()
        _send(kept.process, signal.SIGTERM)
        _send(kept.process, signal.SIGCONT)  # somebody may have stopped it, and a stopped process handles no signal
        await asyncio.wait([kept.task], timeout=drain_seconds + END_SECONDS)
        _send(kept.process, signal.SIGKILL)
        await asyncio.wait([kept.task])
        self._kept.pop(ref.id, None)

    async def events(self) -> AsyncIterator[WorkerEvent]:
        while (event := await self._events.get()) is not None:
            yield event

    async def close(self) -> None:
        await asyncio.gather(*(self.stop(kept.ref, 0.0) for kept in list(self._kept.values())))
        self._events.put_nowait(None)

    async def _begin(self, spec: WorkerSpec, folder: Path) -> tuple[Process, WorkerRef]:
        generation = await asyncio.to_thread(folders.next_generation, folder)
        descriptor = await asyncio.to_thread(folders.open_log, folder)
        try:
            process = await create_subprocess_exec(
                *folders.command(folder, spec, generation),
                stdin=DEVNULL,
                stdout=DEVNULL,
                stderr=descriptor,
                cwd=folder,
                env=folders.environment(),
                start_new_session=True,  # Ctrl-C at the terminal reaches the herd alone, and workers through it
            )
        finally:
            os.close(descriptor)
        return process, WorkerRef(spec.id, generation, f"unix:{folder / folders.SOCKET}", process.pid)

    async def _keep(self, kept: _Kept) -> None:
        """Wait for the worker's end, and start it again, until it is to end."""
        while True:
            code = await kept.process.wait()
            reason = _how(code)
            if not kept.ending.is_set():
                words = await asyncio.to_thread(folders.last_words, kept.folder)
                log.error("a worker ended", worker=kept.spec.id, how=reason, last=words)
            self._events.put_nowait(WorkerEnded(kept.ref, reason, returns=not kept.ending.is_set()))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(kept.ending.wait(), _pause(kept.ends))
            if kept.ending.is_set():
                return
            kept.process, kept.ref = await self._begin(kept.spec, kept.folder)
            self._events.put_nowait(WorkerStarted(kept.ref))
            if kept.ending.is_set():  # `stop` came meanwhile, and told the former process
                _send(kept.process, signal.SIGTERM)


def _pause(ends: deque[float]) -> float:
    """Seconds before the next start: none the first time, then more each time within a minute."""
    now = time.monotonic()
    ends.append(now)
    while now - ends[0] > WINDOW_SECONDS:
        ends.popleft()
    n = len(ends)
    return min(FIRST_PAUSE_SECONDS * 2.0 ** (n - 2), MAX_PAUSE_SECONDS) if n > 1 else 0.0


def _how(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


def _send(process: Process, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        if process.returncode is None:
            process.send_signal(number)
