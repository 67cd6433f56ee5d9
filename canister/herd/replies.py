"""The end of a call in its forms: from a worker, in the journal, for a door of REST or of the IC."""

from __future__ import annotations

from types import NoneType

from canister.api import codec
from canister.api.herd_wire import Cost, Done
from canister.api.methods import Method
from canister.dispatch import Reply
from canister.errors import CanisterError, Trap
from canister.herd.journal.records import Answer
from canister.metering.fees import CallOutcome, Charge
from canister.state.ingress_history import RecordedAnswer

_EMPTY_REPLY = b"DIDL\0\0"
DEFAULT_REJECT = 5


class ErrReply(CanisterError):
    """The `Err` of a canister whose kind is known by its HTTP status alone."""

    def __init__(self, http_status: int) -> None:
        super().__init__(f"HTTP status {http_status}")
        self.http_status = http_status


def of_reply(method: Method, reply: Reply) -> Done:
    """The end of a call that ran in the herd's own process."""
    is_err = reply.error is not None
    data = _EMPTY_REPLY if method.ok is NoneType else codec.encode_reply(method, reply.value, is_err=is_err)
    status = 200 if reply.error is None else reply.error.http_status
    cost = None if reply.charge is None else _cost(reply.charge)
    return Done(data, http_status=status, charge=cost, charged=cost is not None)


def of_trap(trap: Trap) -> Done:
    charge = trap.charge if isinstance(trap.charge, Charge) else None
    cost = None if charge is None else _cost(charge)
    return Done(None, trap.reject_code, str(trap), trap.error_code, trap.http_status, cost, charged=cost is not None)


def of_answer(answer: Answer) -> Done:
    """The end of a call that the journal has had already. What it cost is in the call log alone."""
    told = (answer.reply, answer.reject_code, answer.reject_message, answer.error_code, answer.http_status)
    return Done(*told, receipt_id=answer.receipt)


def to_answer(done: Done) -> Answer:
    return Answer(done.reply, done.reject_code, done.reject_message, done.error_code, done.http_status)


def to_recorded(done: Done) -> RecordedAnswer:
    """For the IC's door."""
    return RecordedAnswer(done.reply, done.reject_code, done.reject_message, done.error_code)


def to_reply(method: Method, done: Done) -> Reply:
    """For the door of REST. Raises Trap for a reject."""
    charge = to_charge(done)
    if done.reply is None:
        raise _trap(done, charge)
    if method.ok is NoneType:
        return Reply(None, charge=charge)
    answer = codec.decode_reply(method, done.reply)
    return Reply(answer.value, ErrReply(done.http_status) if answer.is_err else None, charge)


def to_charge(done: Done) -> Charge | None:
    cost = done.charge
    if cost is None:
        return None
    tokens = (cost.n_prompt, cost.n_generated)
    return Charge(cost.instructions, cost.cycles, cost.limit, dict(cost.parts), done.receipt_id, *tokens)


def outcome_of(done: Done) -> CallOutcome:
    if done.reply is None:
        return "trap"
    return "ok" if done.http_status < 400 else "err"


def _cost(charge: Charge) -> Cost:
    tokens = (charge.n_prompt, charge.n_generated)
    return Cost(charge.instructions, charge.cycles, charge.limit, charge.parts, *tokens)


def _trap(done: Done, charge: Charge | None) -> Trap:
    trap = Trap(done.reject_message or "")
    trap.reject_code = done.reject_code or DEFAULT_REJECT
    trap.error_code = done.error_code or trap.error_code
    trap.http_status = done.http_status
    trap.charge = charge
    return trap
