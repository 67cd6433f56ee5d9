"""Calls that a herd gives one of its workers: each is run once, and told with all that it did to chats.

    known job     answered again from the record, with its chats as they are now
    new job       run once epoch and control log have come so far; chats are compared under their locks before it begins
    control       the entries of the control log, in their order

What must not run here now raises NotBegun, and is then as if it had never come.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING, cast

from canister.api import codec, herd_wire
from canister.api.herd_frames import Frame, Text
from canister.api.herd_requests import job_of_control
from canister.api.herd_wire import CanisterState, Control, Cost, Done, ModelState, Receipted, Run, Saved
from canister.api.management import find_row
from canister.dispatch import messages, requests
from canister.dispatch.herd_chats import ChatWatch, Effect, chats_now, still_counts
from canister.dispatch.receipts import receipted
from canister.errors import (
    CallerBusy,
    CallTimeout,
    CanisterBusy,
    CanisterStopped,
    CanisterStopping,
    CanisterUnavailable,
    NotBegun,
    Trap,
)
from canister.ic import cbor
from canister.ic.receipts import record as records
from canister.metering.fees import Charge
from canister.runtime.live_answers import LiveAnswer
from canister.state.herd_marks import mark
from canister.state.ingress_history import IngressMessage, RecordedAnswer

if TYPE_CHECKING:
    from canister.api.methods import Method
    from canister.dispatch.execute import Reply
    from canister.runtime.call import Call
    from canister.runtime.canister import Canister
    from canister.state.unit_of_work import SavedChatChange

KEPT_NS = 3600 * 10**9  # so long a leader, or its successor, may ask again for the answer of a job
MAX_BYTES_AT_ONCE = 256 << 10  # of an argument that is decoded on the event loop


async def run_job(canister: Canister, run: Run) -> AsyncGenerator[Frame]:
    """What a job says as it comes, then its end. Who asks for it while it runs gets all of that. Raises NotBegun."""
    live = canister.herd.jobs.get(run.job)
    if live is None:
        live = LiveAnswer[Frame](goes_on=run.detached)
        live.task = asyncio.create_task(_live(canister, run, live), name=f"job {run.job.hex()}")
        canister.herd.jobs[run.job] = live
    async with aclosing(live.listen()) as frames:
        async for frame in frames:
            yield frame
    if live.failure is not None:
        raise live.failure


async def _live(canister: Canister, run: Run, live: LiveAnswer[Frame]) -> None:
    seconds = None if run.due_ms is None else run.due_ms / 1000
    deadline = asyncio.timeout(seconds)
    try:
        async with deadline:
            live.add(await _done(canister, run, live))
    except (TimeoutError, asyncio.CancelledError, CanisterStopping) as error:
        # It is rolled back, or its commit had begun and was finished.
        done = await _replayed(canister, run)
        if done is not None:
            live.add(done)
        elif deadline.expired():
            live.add(_rejected(CallTimeout(canister.id, run.method, seconds or 0.0), is_charged=False))
        else:
            live.failure = _draining(error)
    except Exception as error:
        live.failure = error
    finally:
        del canister.herd.jobs[run.job]
        live.over()


async def _done(canister: Canister, run: Run, live: LiveAnswer[Frame]) -> Done:
    done = await _replayed(canister, run)
    if done is not None:
        return done
    # What is known of the job counts no more: the journal has lost it, and went on without it.
    await check_leader(canister, run.epoch)
    if canister.herd.marks.rev < run.rev:
        raise NotBegun("rev", f"entry {canister.herd.marks.rev} of the control log is the last one that was run here")
    watch = ChatWatch(canister, {chat.path: chat.head for chat in run.chats})

    def prepare(call: Call) -> None:
        call.seed, call.fence = run.seed, run.fence
        call.begun_at(run.now_ns)
        watch.see(call)

    def say(text: str, echo: bool) -> None:
        live.add(Text(text, echo))

    try:
        method = requests.find_method(canister, run.method)
        decode = functools.partial(_decoded, method, run.arg)
        on_text = say if run.stream and method.is_streamed else None
        if method.mode == "query":
            await watch.compare()
            work = requests.execute(canister, method, run.caller, decode, on_text=on_text, prepare=prepare)
            return _told(method, await work, None)
        message = IngressMessage(run.job, run.caller, time.time_ns() + KEPT_NS)
        answer = functools.partial(_recorded, method, watch)
        recorded = await messages.submit_recorded(
            canister, method, message, decode, answer, on_text=on_text, prepare=prepare, anew=True
        )
    except Trap as trap:
        return _refused(trap)
    return replace(watch.done or _of_record(recorded), chats=await watch.changes())


async def _replayed(canister: Canister, run: Run) -> Done | None:
    """The end of a job that has ended before, if what it did to chats still counts."""
    known = messages.find_message(canister, run.job)
    if known is None or known.answer is None:
        return None
    heads = {chat.path: chat.head for chat in run.chats}
    try:
        done, effects = _of_record(known.answer), _effects(known.answer)
    except (TypeError, ValueError):
        return None
    if not await still_counts(canister, effects, heads):
        return None
    whole = replace(done, receipt=_with_terms(canister, done.receipt))
    return replace(whole, chats=await chats_now(canister, heads), replayed=True)


async def run_control(canister: Canister, control: Control) -> Done:
    """Run the next entry of the control log, or answer an earlier one again. Raises NotBegun, with `rev` for another
    one.
    """
    marks = canister.herd.marks
    id = job_of_control(canister.id, control.rev)
    if control.rev <= marks.rev:
        known = messages.find_message(canister, id)
        if known is None or known.answer is None:
            raise NotBegun("rev", f"entry {control.rev} of the control log was run, and its answer is forgotten")
        known_done = _of_record(known.answer)
        return replace(known_done, replayed=True, receipt=_with_terms(canister, known_done.receipt))
    await check_leader(canister, control.epoch)
    if control.rev != marks.rev + 1:
        raise NotBegun("rev", f"entry {marks.rev} of the control log is the last one that was run here")
    watch = ChatWatch(canister, {})

    def prepare(call: Call) -> None:
        call.begun_at(control.now_ns)
        watch.see(call)

    def reached(future: asyncio.Future[RecordedAnswer]) -> None:
        if not future.cancelled() and future.exception() is None:
            marks.rev = max(marks.rev, control.rev)

    message, also = IngressMessage(id, control.caller, time.time_ns() + KEPT_NS), [mark("rev", control.rev)]
    try:
        method = find_row(control.method)
        decode = functools.partial(_decoded, method, control.arg)
        answer = functools.partial(_recorded, method, watch)
        future = messages.submit_recorded(canister, method, message, decode, answer, prepare=prepare, also=also)
        future.add_done_callback(reached)
        recorded = await asyncio.shield(future)  # it goes on when its leader goes away
    except Trap as trap:
        try:
            done = _refused(trap)
        except CanisterStopping as error:
            raise _draining(error) from error
        # Refused everywhere in the same way, so the log goes on behind it.
        await canister.ingress.history.record_alone(message, _record(done), also)
        marks.rev = max(marks.rev, control.rev)
        return done
    return replace(watch.done or _of_record(recorded), chats=await watch.changes())


def state_of(canister: Canister) -> CanisterState:
    """How a canister stands, for the leader."""
    engine, model, stats = canister.model.engine, None, None
    if engine is not None:
        info, stats = engine.info, engine.stats()
        model = ModelState(info.model_id, info.kv_layout, info.policy.is_exact, info.n_ctx, info.n_vocab)
    is_loading = not canister.model.is_ready or any(call.method == "load_model" for call in canister.running_calls)
    return CanisterState(
        canister.name,
        canister.id,
        canister.herd.marks.rev,
        model,
        is_loading,
        0 if stats is None else stats.n_slots,
        canister.admission.n_running,
        canister.admission.n_waiting,
        None if stats is None else round(stats.prefill_tps) or None,
        None if stats is None else round(stats.decode_tps) or None,
    )


async def check_leader(canister: Canister, epoch: int) -> None:
    """Raise NotBegun for a leader that another has followed, and remember the highest epoch."""
    if epoch < canister.herd.marks.epoch:
        raise NotBegun("epoch", f"a leader of epoch {canister.herd.marks.epoch} has followed that of {epoch}")
    await canister.herd.marks.see_epoch(epoch)


# -- arguments and answers


def _decoded(method: Method, arg: bytes) -> object:
    """The argument, or for a large one an awaitable of it."""
    decode = functools.partial(codec.decode_args, method, arg)
    return asyncio.to_thread(decode) if len(arg) > MAX_BYTES_AT_ONCE else decode()


def _recorded(method: Method, watch: ChatWatch, outcome: Reply | Trap, is_charged: bool) -> RecordedAnswer:
    """What is recorded under the job's id, in the transaction of the call: its end without the chats."""
    watch.ends()
    effects: tuple[Effect, ...] = ()
    receipt = receipted(watch.call, outcome) if is_charged else None
    if isinstance(outcome, Trap):
        watch.done = replace(_rejected(outcome, is_charged=is_charged), receipt=receipt)
    else:
        is_ok = outcome.error is None
        watch.done = replace(_told(method, outcome, watch.saved if is_ok else None), receipt=receipt)
        effects = watch.effects() if is_ok else ()
    return _record(watch.done, effects)


def _record(done: Done, effects: Sequence[Effect] = ()) -> RecordedAnswer:
    """What is kept of a job: its end, and behind it what it did to chats. The chain has the terms of its receipt."""
    told = [[effect.path, effect.before, effect.after] for effect in effects]
    kept = done if done.receipt is None else replace(done, receipt=Receipted(done.receipt.record))
    return RecordedAnswer(cbor.encode([herd_wire.encode(kept), told]))


def _with_terms(canister: Canister, receipt: Receipted | None) -> Receipted | None:
    """A receipt as it was before it was recorded."""
    if receipt is None:
        return None
    terms = canister.receipt_book.terms(records.decode(receipt.record).terms)
    return replace(receipt, terms=terms) if terms else None


def _of_record(answer: RecordedAnswer) -> Done:
    return herd_wire.decode(Done, _parts(answer)[0])


def _effects(answer: RecordedAnswer) -> list[Effect]:
    return [Effect(*effect) for effect in _parts(answer)[1]]


def _parts(answer: RecordedAnswer) -> tuple[bytes, list[tuple[str, bytes, bytes | None]]]:
    """Raises ValueError for the record of a message that came by another door."""
    done, effects = cast("tuple[bytes, list[tuple[str, bytes, bytes | None]]]", cbor.decode(answer.reply or b""))
    return done, effects


def _told(method: Method, reply: Reply, saved: SavedChatChange | None) -> Done:
    error = reply.error
    return Done(
        codec.encode_reply(method, reply.value, is_err=error is not None),
        http_status=200 if error is None else error.http_status,
        charge=_cost(reply.charge),
        charged=method.mode == "update",
        saved=None if saved is None else Saved(saved.started, saved.text),
    )


def _rejected(trap: Trap, *, is_charged: bool) -> Done:
    charge = _cost(trap.charge)
    return Done(None, trap.reject_code, str(trap), trap.error_code, trap.http_status, charge, is_charged)


def _cost(charge: object) -> Cost | None:
    if not isinstance(charge, Charge):
        return None
    tokens = (charge.n_prompt, charge.n_generated)
    return Cost(charge.instructions, charge.cycles, charge.limit, charge.parts, *tokens)


def _refused(trap: Trap) -> Done:
    """The end of a job that a reject ended before it was recorded. Raises NotBegun or CanisterStopping where another
    worker may run it.
    """
    if isinstance(trap, CallerBusy | CanisterBusy):
        raise NotBegun("busy", str(trap)) from trap
    if isinstance(trap, CanisterUnavailable):
        raise _draining(trap) from trap
    if isinstance(trap, NotBegun | CanisterStopping) and not isinstance(trap, CanisterStopped):
        raise trap
    return _rejected(trap, is_charged=False)


def _draining(error: BaseException) -> NotBegun:
    return NotBegun("draining", str(error) or "the call was cancelled and rolled back")
