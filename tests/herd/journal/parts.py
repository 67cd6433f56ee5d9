"""Chats, jobs and settlements for tests of the journal."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from canister.api.herd_wire import ChatChange
from canister.herd.journal import Answer, NewJob, Settled
from canister.metering.fees import Charge
from canister.store.container import CacheFile, CacheHeader
from canister.store.heads import gone_on, head_of, tokens_alone

HEADER = CacheHeader(hashlib.sha256(b"a model").digest(), 7, b"q8_0")
CANISTER, CALLER = "llama_cpp", "2vxsx-fae"
OK = Answer(b"DIDL\0\0")
CHARGE = Charge(1000, 1500, None, {"base": 1000}, n_prompt=7, n_generated=0)


def job_id(name: str | int) -> bytes:
    return hashlib.sha256(f"job {name}".encode()).digest()


def new_job(name: str | int, **more: object) -> NewJob:
    values: dict[str, object] = {
        "canister": CANISTER,
        "caller": CALLER,
        "method": "run_update",
        "arg": b"DIDL\0\0",
        **more,
    }
    return NewJob(job_id(name), **values)  # type: ignore[arg-type]  # by name


def settled(name: str | int, *, epoch: int, fence: int, **more: object) -> Settled:
    values: dict[str, object] = {"worker": "w1", "answer": OK, "charge": CHARGE, "started_ns": 1, "ended_ns": 2, **more}
    return Settled(job_id(name), epoch, fence, **values)  # type: ignore[arg-type]  # by name


def path_of(name: str, caller: str = CALLER) -> str:
    return f".canister_cache/{caller}/sessions/{name}"


@dataclass(slots=True)
class Talk:
    """A chat as a worker has it: each `change` goes on from where it is, and `undo` goes back one."""

    path: str
    state: CacheFile | None = None
    _before: list[CacheFile | None] = field(default_factory=list)

    @property
    def head(self) -> bytes:
        return b"" if self.state is None else head_of(self.state)

    @property
    def tokens(self) -> list[int]:
        return [] if self.state is None else [int(token) for token in self.state.tokens]

    def change(self, tokens: Sequence[int], keep: int | None = None, marks: int = 0) -> ChatChange:
        """The change to `keep` tokens, all by default, and these behind them. marks: from which the marks are made."""
        n = 0 if self.state is None else len(self.state.tokens)
        keep = n if keep is None else keep
        chance = np.random.default_rng(marks)
        generated = chance.random(len(tokens)) < 0.5
        twice = (chance.random(len(tokens)) < 0.3) & generated
        begun = (chance.random(len(tokens)) < 0.3) & ~generated
        empty, header = CacheFile.create(HEADER, lambda offset, size: b"")
        added, record = empty.extended(0, tokens, generated, starts=begun, redrawn=twice)
        head_before = self.head
        self._before.append(self.state)
        self.state = gone_on(self.state, keep, added)
        return ChatChange(self.path, head_before, self.head, keep, header + record)

    def remove(self) -> ChatChange:
        head_before = self.head
        self._before.append(self.state)
        self.state = None
        return ChatChange(self.path, head_before, b"", 0, b"")

    def undo(self) -> None:
        self.state = self._before.pop()

    def container(self) -> bytes:
        assert self.state is not None
        return tokens_alone(self.state)
