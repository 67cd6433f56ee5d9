"""What starts, watches and ends workers: child processes of this machine (`local.py`), or others.

A launcher keeps each worker that was started alive: when its process ends, it begins another one, with a higher
generation. It knows nothing of jobs; whether a worker answers and may get work is the leader's affair.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """A worker as the herd wants it.

    id: unique in the herd, letters, digits and `-`; its data folder is named after it. secret: of the herd, signs what
    is asked of the worker's private door. options: flags of `canister serve` without their dashes, such as
    {"threads": "1", "canister": ["a", "b"], "confine": True}; never those that the launcher sets itself
    (data-dir, listen, host, port, supervise, herd-*). resources: what a cluster needs to place it, such as {"CPU": 2}.
    """

    id: str
    secret: bytes = field(repr=False)
    options: Mapping[str, str | bool | Sequence[str]]
    resources: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class WorkerRef:
    """A running worker. generation: higher than those of all former processes of this worker. url: of its private
    door, `unix:PATH` or `http://host:port`. pid: on its own machine.
    """

    id: str
    generation: int
    url: str
    pid: int


@dataclass(frozen=True, slots=True)
class WorkerStarted:
    """A process of a worker was begun; it may not answer yet."""

    ref: WorkerRef


@dataclass(frozen=True, slots=True)
class WorkerEnded:
    """A process of a worker ended. returns: another one is about to be started."""

    ref: WorkerRef
    reason: str
    returns: bool


WorkerEvent = WorkerStarted | WorkerEnded


class Launcher(Protocol):
    async def start(self, spec: WorkerSpec) -> WorkerRef:
        """Begin a worker and keep it alive. Raises CanisterError when it cannot be begun, with the way out."""
        ...

    async def stop(self, ref: WorkerRef, drain_seconds: float) -> None:
        """End a worker for good, in order within drain_seconds, else by force. Its data folder stays."""
        ...

    def events(self) -> AsyncIterator[WorkerEvent]:
        """What happens to workers from now on, those of `start` included; one listener."""
        ...

    async def close(self) -> None:
        """End all workers, and what the launcher holds."""
        ...
