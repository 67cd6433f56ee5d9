"""What units need to know of their node."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from canister.ao.lua.cage import SNAPSHOT_EVERY
from canister.ao.lua.sandbox import Limits
from canister.ao.native.herder import LEASE_MS
from canister.ao.processes.messages import Incoming
from canister.ao.processes.models import Models


class Items(Protocol):
    """What is stored for ever, and named by a message."""

    async def get(self, id: str) -> Incoming | None: ...


@dataclass(frozen=True, slots=True)
class Settings:
    """folder: of `ao.db`. node: the address of this node's wallet. packages: the operator's. model: of native workers.

    has_herd: whether there is a token with a herder and n_workers workers. lease_ms: what a worker has for an answer.
    snapshot_every: calls of a program; 0: never. most_bytes: of `ao.db`, beyond which nothing
    is taken; None: any number.
    """

    folder: Path
    node: str
    models: Models | None = None
    items: Items | None = None
    packages: Path | None = None
    n_cages: int = 16
    n_workers: int = 2
    model: str = ""
    has_herd: bool = True
    limits: Limits = field(default_factory=Limits)
    lease_ms: int = LEASE_MS
    snapshot_every: int = SNAPSHOT_EVERY
    most_bytes: int | None = None
