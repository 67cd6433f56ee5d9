"""Workers whose agents are gone for good: their machine was lost to the herd, and came back without them.

Such a worker has an old generation, so nobody asks it for anything, but it holds memory and cores. Each agent of a
machine looks for them, and ends those whose own agent was not there all the time for long: an agent that is merely
restarted adopts its worker before that.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from pathlib import Path

from canister.herd.launch import worker_process
from canister.system import atomic_file
from canister.telemetry.logs import get_logger

PATIENCE_SECONDS = 600.0
LOOK_SECONDS = 30.0
_AGENT = "agent.json"

log = get_logger(__name__)


def note_agent(folder: Path) -> None:
    """This process is the agent of the worker in this folder from now on."""
    content = {"pid": os.getpid(), "begun": worker_process.start_of(os.getpid())}
    atomic_file.write(folder / _AGENT, json.dumps(content).encode("ascii"))


class Orphans:
    """Of one machine's workers. patience_seconds: that a worker may be without its agent."""

    def __init__(self, workers: Path, patience_seconds: float = PATIENCE_SECONDS) -> None:
        self._workers = workers
        self._patience_seconds = patience_seconds
        self._since: dict[Path, float] = {}  # when a worker was first seen without its agent

    async def run(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            await asyncio.sleep(min(LOOK_SECONDS, self._patience_seconds))
            await self.look()

    async def look(self) -> None:
        """End those whose time is over."""
        alone = await asyncio.to_thread(self._alone)
        now = time.monotonic()
        self._since = {folder: self._since.get(folder, now) for folder in alone}
        for folder, since in self._since.items():
            if now - since >= self._patience_seconds:
                log.warning("a worker is ended, since its agent is gone", folder=str(folder))
                await worker_process.end_recorded(folder)

    def _alone(self) -> list[Path]:
        folders = self._workers.iterdir() if self._workers.is_dir() else ()
        return [folder for folder in folders if worker_process.runs_in(folder) and not _has_agent(folder)]


def _has_agent(folder: Path) -> bool:
    """Is its agent alive? Where nobody knows, it is."""
    try:
        content = json.loads((folder / _AGENT).read_bytes())
        return worker_process.start_of(int(content["pid"])) == str(content["begun"])
    except (OSError, ValueError, KeyError, TypeError):
        return True
