"""An agent: keeps one worker's process alive on the machine where it is, and ends it. Nothing of it is durable.

It is made to be a Ray actor, but knows nothing of Ray. The worker outlives it: a new agent on the same machine adopts
the process that the one before has left running.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from canister.errors import CanisterError, Trap
from canister.herd.launch import worker_process
from canister.herd.launch.launcher import WorkerSpec
from canister.herd.launch.orphans import PATIENCE_SECONDS, Orphans, note_agent
from canister.herd.launch.worker_process import WorkerProcess

_FIRST_PAUSE_SECONDS, _MAX_PAUSE_SECONDS = 0.1, 30.0
_LONG_SECONDS = 60.0  # a process that lived so long has not failed to start

Phase = Literal["idle", "starting", "running", "failed", "ended"]


@dataclass(frozen=True, slots=True)
class AgentStatus:
    """phase: idle as long as nobody has said what shall run; failed while it waits to start it again. reason: of the
    last end. agent_pid, address: of the agent and its machine.
    """

    phase: Phase
    agent_pid: int
    address: str
    generation: int = 0
    url: str = ""
    pid: int = 0
    was_adopted: bool = False
    reason: str = ""


class Agent:
    """One worker. All methods may be called again and again; they are coroutines, as Ray's async actors want it."""

    def __init__(self, workers: Path, address: str = "127.0.0.1", patience_seconds: float = PATIENCE_SECONDS) -> None:
        """workers: the folder of the workers' folders on this machine. address: of this machine, to listen on.
        patience_seconds: before workers of this machine are ended whose agents are gone.
        """
        self._workers = workers.expanduser().absolute()
        self._orphans = Orphans(self._workers, patience_seconds)
        self._looking: asyncio.Task[None] | None = None
        self._status = AgentStatus("idle", os.getpid(), address)
        self._wanted: WorkerSpec | None = None
        self._floor = 0
        self._process: WorkerProcess | None = None
        self._keeping: asyncio.Task[None] | None = None

    async def begin(self, wanted: WorkerSpec, floor: int) -> AgentStatus:
        """Keep such a process alive from now on, in a generation of at least `floor` if it is new. Returns at once."""
        if self._wanted != wanted or self._keeping is None:
            await self._stop_keeping()
            self._wanted, self._floor = wanted, floor
            self._keeping = asyncio.create_task(self._keep(wanted))
        if self._looking is None:
            self._looking = asyncio.create_task(self._orphans.run())
        return self._status

    async def status(self) -> AgentStatus:
        return self._status

    async def end(self, drain_seconds: float) -> AgentStatus:
        """End the process, in order within drain_seconds, else by force; its folder stays."""
        await self._stop_keeping()
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None
        if self._process is not None:
            await worker_process.end(self._process, drain_seconds)
            self._process = None
        self._wanted = None
        self._status = replace(self._status, phase="ended", reason="it was told to end")
        return self._status

    async def _keep(self, wanted: WorkerSpec) -> None:
        pause = _FIRST_PAUSE_SECONDS
        loop = asyncio.get_running_loop()
        while True:
            begun = loop.time()
            self._status = replace(self._status, phase="starting")
            try:
                self._process = process = await worker_process.run(
                    self._workers, wanted, self._status.address, self._floor
                )
                self._floor = process.generation + 1
                await asyncio.to_thread(note_agent, self._workers / wanted.id)
                self._status = replace(
                    self._status,
                    phase="running",
                    generation=process.generation,
                    url=process.url,
                    pid=process.pid,
                    was_adopted=process.was_adopted,
                )
                await process.ended()
                reason = f"process {process.pid} ended"
            except (CanisterError, Trap, OSError) as error:
                reason = str(error)
            self._process = None
            pause = _FIRST_PAUSE_SECONDS if loop.time() - begun > _LONG_SECONDS else pause
            self._status = replace(self._status, phase="failed", reason=reason)
            await asyncio.sleep(pause)
            pause = min(2 * pause, _MAX_PAUSE_SECONDS)

    async def _stop_keeping(self) -> None:
        if self._keeping is not None:
            self._keeping.cancel()
            with suppress(asyncio.CancelledError):
                await self._keeping
            self._keeping = None
