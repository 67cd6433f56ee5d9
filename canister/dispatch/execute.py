"""Runs one call, then commits all of it or nothing. Only this module commits.

A CanisterError is a reply (`Err`), a Trap a reject. Both roll the call back; an `Err` and a passed instruction limit
are still charged. Any other exception is a bug: rolled back, logged with its stack, rejected. A call that is cancelled,
or past its deadline, before its commit began is rolled back and not charged. A commit that has begun is finished.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from canister.api.records import ApiError, RunOutputRecord
from canister.dispatch import herd_answers
from canister.dispatch.turns import due_of, in_time
from canister.errors import AccessDenied, CanisterError, CanisterTrapped, InstructionLimit, NotController, Trap
from canister.handlers.embed import EmbedOutput
from canister.handlers.generate import GenerateOutput
from canister.metering.fees import CallOutcome, Charge
from canister.runtime import access
from canister.runtime.call import Call
from canister.telemetry import metrics
from canister.telemetry.logs import get_logger

if TYPE_CHECKING:
    from canister.api.herd_wire import Receipted
    from canister.api.methods import Method
    from canister.runtime.canister import Canister
    from canister.store.transaction import Transaction

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer of a method. error: set when `value` stands inside `Err`; its http_status is for REST.

    charge: the cost of the call. A Trap that is raised instead of a reply has it too.
    """

    value: object
    error: CanisterError | None = None
    charge: Charge | None = None


Recorder = Callable[["Transaction", "Reply | Trap"], None]
"""Adds the answer to the transaction that commits the call."""

Prepare = Callable[[Call], None]


def admit(call: Call, method: Method) -> None:
    """Let a call in if it may run and can be paid. Raises why not."""
    canister = call.canister
    if not method.runs_stopped:
        canister.check_started()
    try:
        access.check(canister, call.caller, method.access)
    except AccessDenied as denied:
        if method.refusal is None:
            raise
        told = method.refusal.format(canister=canister.id, caller=call.caller, method=method.name)
        raise NotController(told) from denied
    call.is_admitted = True
    call.check_balance()


@dataclass(frozen=True, slots=True)
class Terms:
    """How a call is run. is_update: what it changes is committed. err: the type inside `Err`; None: a bare result.

    is_limited: by instructions. record: for updates. due: the call's deadline by the event loop's clock; None: its
    time begins now. prepare: sees the call before it begins.
    """

    is_update: bool
    err: type | None
    is_limited: bool = True
    record: Recorder | None = None
    due: float | None = None
    prepare: Prepare | None = None


async def run(
    canister: Canister, name: str, caller: str, handle: Callable[[Call], Awaitable[object]], terms: Terms
) -> Reply:
    """Run a handler and commit all of it, or nothing. Raises Trap for a reject."""
    call = Call(canister, name, caller, is_update=terms.is_update)
    of_herd = herd_answers.current() if terms.is_update else None
    if of_herd is not None:
        call.fence = of_herd.asked.fence
    if terms.prepare is not None:
        terms.prepare(call)
    try:
        with canister.running(call):
            try:
                value = await in_time(canister, name, terms.due or due_of(canister), handle(call))
                if terms.is_limited:
                    call.check_limit()
            except BaseException as error:
                await _rollback(call)
                if isinstance(error, CanisterError | InstructionLimit):
                    await _finish(_charge_failed(call, error, terms))
                raise
            charge = call.charge()
            if terms.is_update:
                receipt = None if of_herd is None else herd_answers.made_receipt(call, "ok", value)
                await _finish(_commit(call, charge, value))
            else:
                await _rollback(call)
                if call.wants_receipt:
                    await _finish(call.commit_receipt(charge, value))
            charge = call.receipted(charge)
            if of_herd is not None:
                charge = of_herd.note(call, charge, "ok", receipt)
            metrics.count_cost(canister.name, name, charge.instructions, charge.cycles)
            _count_tokens(canister, value)
            return Reply(value, charge=charge)
    except CanisterError as error:
        outcome = _outcome(call, error, terms.err)
        if isinstance(outcome, Trap):
            raise outcome from error
        return outcome
    except Trap as trap:
        trap.charge = call.charge() if call.is_admitted else None
        raise
    except asyncio.CancelledError:
        raise
    except Exception as error:
        log.exception("method failed", canister=canister.name, method=name)
        raise CanisterTrapped(
            f"Error from Canister {canister.id}: Canister trapped: internal error in {name}; "
            "the call was rolled back, the server's log has the details."
        ) from error
    finally:
        call.release()


def _count_tokens(canister: Canister, value: object) -> None:
    if isinstance(value, GenerateOutput):
        prompt, generated, cached = value.n_prompt_decoded, len(value.sampled), value.n_cached
    elif isinstance(value, EmbedOutput):
        prompt, generated, cached = value.n_tokens, 0, 0
    elif isinstance(value, RunOutputRecord) and value.n_prompt_tokens is not None:
        prompt, generated = value.n_prompt_tokens_decoded or 0, value.n_tokens_generated or 0
        cached = value.n_prompt_tokens_cached or 0
    else:
        return
    metrics.count_tokens(canister.name, prompt=prompt, generated=generated, cached=cached)


async def _rollback(call: Call) -> None:
    if call.work.has_transaction:
        await _finish(call.rollback())
    else:  # nothing is awaited, so no task is needed
        call.work.undone()


async def _commit(call: Call, charge: Charge, value: object) -> None:
    try:
        await call.commit(charge, value)
    except BaseException:
        await call.rollback()
        raise


async def _charge_failed(call: Call, error: CanisterError | Trap, terms: Terms) -> None:
    """Charge and log a failed update as well, unless its caller was not let in."""
    if call.is_update and call.is_admitted:
        charge = call.charge()
        outcome = _outcome(call, error, terms.err)
        told = str(outcome) if isinstance(outcome, Trap) else outcome.value
        if isinstance(outcome, Trap):
            outcome.charge = charge

        how: CallOutcome = "trap" if isinstance(error, Trap) else "err"
        of_herd = herd_answers.current()
        receipts: list[Receipted | None] = []

        def note(transaction: Transaction) -> None:
            if terms.record is not None:
                terms.record(transaction, outcome)
            if of_herd is not None:
                receipts.append(herd_answers.made_receipt(call, how, told))

        await call.commit_charge(charge, how, told, note)
        if of_herd is not None:
            of_herd.note(call, charge, how, receipts[0])
        metrics.count_cost(call.canister.name, call.method, charge.instructions, charge.cycles)


def _outcome(call: Call, error: CanisterError | Trap, err: type | None) -> Reply | Trap:
    """The answer to a failed call."""
    paid = call.charge() if call.is_admitted else None
    if isinstance(error, Trap):
        return error
    if err is RunOutputRecord:
        return Reply(RunOutputRecord(status_code=error.record_status, error=str(error)), error, paid)
    if err is None:
        return CanisterTrapped(f"Error from Canister {call.canister.id}: {error}")
    return Reply(ApiError(Other=str(error)), error, paid)


async def _finish(work: Awaitable[None]) -> None:
    """Await work that must not be left half done, also when this task is cancelled meanwhile."""
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            if task.cancelled():
                raise
            cancelled = error
        except Exception:
            break
    task.result()
    if cancelled is not None:
        raise cancelled
