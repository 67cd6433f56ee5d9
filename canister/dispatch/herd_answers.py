"""Whole answers that a herd has given this worker, each within its request: what another worker would need to give the
same one, and the calls that the herd has not been told of.

Elsewhere nothing of this is there: ids and seeds come by chance, and times from the clock.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from canister.api.herd_frames import CallEnded
from canister.api.herd_wire import Cost, Done, Receipted
from canister.errors import CanisterStopping, CanisterUnavailable
from canister.flags.values import UINT32_MAX
from canister.ic.receipts import record as records
from canister.metering.fees import CallOutcome, Charge

if TYPE_CHECKING:
    from canister.api.herd_requests import AnswerTry
    from canister.runtime.call import Call

RESPONSE_PREFIX = "resp_"
N_RESPONSE_BYTES = 24

_STATUS: dict[CallOutcome, int] = {"ok": 200, "err": 400, "trap": 500}


@dataclass(eq=False, slots=True)
class HerdAnswer:
    """asked: by the herd. ended: calls that it has not been told of. is_over: no more of them come that the answer has
    the receipts of. broken: why another worker is to go on with it; "": nothing is in the way.
    """

    asked: AnswerTry
    ended: list[CallEnded] = field(default_factory=list)
    is_over: bool = False
    broken: str = ""
    n_calls: int = 0
    drawn: Counter[str] = field(default_factory=Counter)

    def note(self, call: Call, charge: Charge, outcome: CallOutcome, receipt: Receipted | None) -> Charge:
        """A call was committed. Returns its charge, with what stands for the id that its receipt will have."""
        name = f"herd-{self.asked.id.hex()[:32]}-{self.n_calls}"
        self.n_calls += 1
        tokens = (charge.n_prompt, charge.n_generated)
        cost = Cost(charge.instructions, charge.cycles, charge.limit, charge.parts, *tokens)
        done = Done(b"", http_status=_STATUS[outcome], charge=cost, receipt=receipt)
        self.ended.append(CallEnded(call.canister.id, call.method, name, done, call.now_ns, time.time_ns()))
        return replace(charge, receipt="" if receipt is None else name)

    def take(self) -> list[CallEnded]:
        """The calls that the herd has not been told of. It is, then."""
        ended, self.ended = self.ended, []
        return ended


_current: ContextVar[HerdAnswer | None] = ContextVar("answer of a herd", default=None)


def current() -> HerdAnswer | None:
    """The answer that is made now; None where no herd has asked for it."""
    return _current.get()


@contextmanager
def making(answer: HerdAnswer) -> Iterator[None]:
    """All that is done inside, and by tasks that begin there, is done for this answer."""
    token = _current.set(answer)
    try:
        yield
    finally:
        _current.reset(token)


def over() -> None:
    """The answer that is made now has had its last call."""
    answer = _current.get()
    if answer is not None:
        answer.is_over = True


def failed(error: Exception) -> None:
    """It is told that the answer that is made now failed. Another worker may do what an ending one cannot."""
    answer = _current.get()
    if answer is not None and isinstance(error, CanisterStopping | CanisterUnavailable):
        answer.broken = str(error)


def made_receipt(call: Call, outcome: CallOutcome, told: object) -> Receipted | None:
    """The record that a call is about to leave, for the chain of its herd; None where there are no receipts."""
    made = call.make_receipt(outcome, told)
    if made is None:
        return None
    kept = made.contents
    more = () if kept is None else (kept.words, kept.argument, kept.output)
    return Receipted(records.encode(made.record), made.terms, *more)


# -- what another worker has to draw in the same way


def drawn(what: str, n_bytes: int) -> bytes:
    """Random bytes for this purpose."""
    answer = _current.get()
    if answer is None:
        return secrets.token_bytes(n_bytes)
    n = answer.drawn[what]
    answer.drawn[what] += 1
    return _drawn_for(answer.asked.id, what, n, n_bytes)


def _drawn_for(answer: bytes, what: str, n: int, n_bytes: int) -> bytes:
    return hashlib.shake_256(answer + f"{what} {n}".encode()).digest(n_bytes)


def response_id() -> str:
    """The id of a response that is begun now."""
    return f"{RESPONSE_PREFIX}{drawn('id', N_RESPONSE_BYTES).hex()}"


def response_id_of(answer: bytes) -> str:
    """The id of the response that workers make for the answer of this id."""
    return f"{RESPONSE_PREFIX}{_drawn_for(answer, 'id', 0, N_RESPONSE_BYTES).hex()}"


def drawn_seed() -> int:
    """A seed for an answer that has none."""
    return int.from_bytes(drawn("seed", 8), "big") % UINT32_MAX


def asked_at() -> int:
    """When the answer that is begun now was asked for, in whole seconds since 1970."""
    answer = _current.get()
    return int(time.time()) if answer is None else answer.asked.now_ns // 10**9
