"""What the launcher and the process that talks to Ray say to each other: a line of JSON each. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Order:
    """A worker that is wanted. floor: the least generation of a new process. leaves_in: seconds to drain; None: it
    stays.

    resources: what Ray calls so: CPU, GPU, memory in bytes, and names of one's own. secret: in hex.
    """

    worker: str
    secret: str = field(repr=False)
    options: Mapping[str, str | bool | Sequence[str]]
    resources: Mapping[str, float]
    floor: int = 0
    leaves_in: float | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, said: dict[str, Any]) -> Self:
        return cls(**said)


@dataclass(frozen=True, slots=True)
class WorkerReport:
    """A worker as it is. phase: of its agent; `waiting`: the agent does not answer, or has no machine yet, and the
    fields behind it are the last that were known; `left`: it has ended for good.
    """

    worker: str
    phase: str
    generation: int = 0
    url: str = ""
    pid: int = 0
    address: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """All workers that are wanted, as they are. error: why there is nothing to tell."""

    workers: tuple[WorkerReport, ...] = ()
    error: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, said: dict[str, Any]) -> Self:
        return cls(tuple(WorkerReport(**worker) for worker in said["workers"]), said["error"])
