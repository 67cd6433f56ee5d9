"""A call of the herd on its way: what it asks for, who waits for it, and what its client has read of it already."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from canister.api.herd_wire import Done
from canister.api.methods import Method
from canister.errors import Conflict, Trap
from canister.herd.journal.records import JobRow, NewJob


class StreamBroken(Trap):
    """The worker of a stream was lost, and no other one can go on with the text that the client has already read."""

    reject_code = 2
    error_code = "IC0202"
    http_status = 503


class TextSoFar:
    """The text of a run as its client has it. What the next worker tells again is passed over."""

    def __init__(self, tell: Callable[[str, bool], None]) -> None:
        self._tell = tell
        self._told = ""
        self._n_again = 0  # characters that this try has told

    @property
    def has_begun(self) -> bool:
        return bool(self._told)

    def begin(self) -> None:
        """Another try begins, from the start."""
        self._n_again = 0

    def take(self, text: str, echo: bool) -> None:
        """A piece of the present try. Raises StreamBroken."""
        known = self._told[self._n_again : self._n_again + len(text)]
        if not text.startswith(known):
            raise StreamBroken(
                "the worker of this answer was lost, and another one gives another text, since it is not exact; what "
                "came so far is not kept: send the call again"
            )
        self._n_again += len(text)
        new = text[len(known) :]
        if new:
            self._told += new
            self._tell(new, echo)


@dataclass(eq=False, slots=True)
class Job:
    """One call. canister: its id. chats: paths of the prompt caches that it reads or changes.

    settles: its end goes into the journal; False for what only asks. accepted: the journal has had it from the start.
    goes_on: also when nobody waits for it any more. rev: of the control log, that its worker must have reached.
    now_ns: when it came, which is the call's time wherever it runs. due_ns: to be refused if it has not begun by then.
    is_priced: its multiplier was paid for. beginnings: of its prompt, as the index of prefixes names them.
    lost_with: the workers that were lost with it, each by id and generation: one that dies may be met twice.
    worker, fence: of the present try. is_dropped: nobody wants it any more.
    """

    id: bytes
    canister: str
    caller: str
    method: Method
    arg: bytes
    chats: tuple[str, ...]
    now_ns: int
    settles: bool
    accepted: bool = False
    goes_on: bool = False
    rev: int = 0
    multiplier: float = 1.0
    hold: int = 0
    payer: str | None = None
    is_priced: bool = False
    due_ns: int | None = None
    kept_until_ns: int = 0
    text: TextSoFar | None = None
    beginnings: tuple[bytes, ...] = ()
    lost_with: set[tuple[str, int]] = field(default_factory=set)
    worker: str | None = None
    fence: int = 0
    lease: asyncio.Timeout | None = None
    is_dropped: bool = False
    done: asyncio.Future[Done] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    @property
    def tries(self) -> int:
        """How many workers were lost with it."""
        return len(self.lost_with)

    @property
    def is_kept(self) -> bool:
        """May its answer be asked for again, by its id?"""
        return self.accepted or self.goes_on

    def check_same(self, row: JobRow) -> None:
        """Raise Conflict when the journal knows its id as another call's."""
        mine = self.canister, self.caller, self.method.name, self.arg
        if mine != (row.canister, row.caller, row.method, row.arg):
            raise Conflict(
                f"the same id was used for another call, of {row.method}; take a new idempotency key for each call"
            )

    @property
    def seed(self) -> int:
        """What a chat that begins without a seed gets: the same wherever the call runs."""
        return int.from_bytes(self.id[:4], "big") or 1

    @property
    def keys(self) -> list[tuple[str, str, str]]:
        """What no other job may have at the same time."""
        return [(self.canister, self.caller, path) for path in self.chats]

    def as_new(self) -> NewJob:
        """For the journal."""
        return NewJob(
            id=self.id,
            canister=self.canister,
            caller=self.caller,
            method=self.method.name,
            arg=self.arg,
            chats=self.chats,
            multiplier=self.multiplier,
            hold=self.hold,
            payer=self.payer,
            due_ns=self.due_ns,
            kept_until_ns=self.kept_until_ns,
        )

    async def outcome(self) -> Done:
        """Its end, however many wait for it. Raises why there is none."""
        return await asyncio.shield(self.done)

    def end(self, done: Done) -> None:
        if not self.done.done():
            self.done.set_result(done)

    def fail(self, error: BaseException) -> None:
        """For nobody but those who wait for it."""
        if not self.done.done():
            self.done.set_exception(error)
            self.done.exception()  # read, also where nobody waits any more
