"""Makes kept answers, each in a task of its own, which continues without its client where that is wanted.

made to its end     done, or failed
nobody listens      left, unless it continues by itself
the server ends     its status stays, and the next start resumes those that continue by themselves
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING, cast

from canister.dispatch.answer_records import Answered, Ingested, Wanted
from canister.dispatch.answer_text import Piece
from canister.dispatch.answers import answer
from canister.dispatch.kept_answers import AnswerFailed, Choices, Part, TokenKeeper, read, told_beyond
from canister.errors import (
    Busy,
    CallerBusy,
    CanisterBusy,
    CanisterError,
    CanisterStopping,
    CanisterTrapped,
    CanisterUnavailable,
    Conflict,
    ModelUnloaded,
    Trap,
)
from canister.runtime.live_answers import LiveAnswer, LiveAnswers
from canister.telemetry.logs import get_logger

if TYPE_CHECKING:
    from canister.engine.engine import Engine
    from canister.runtime.canister import Canister
    from canister.runtime.host import Host
    from canister.state.answers import KeptAnswer, Status

log = get_logger(__name__)

LOOK_SECONDS = 0.5  # how late an answer may be resumed, or stopped at the end of the server
AGAIN_SECONDS = 1.0  # between tries while something is in the way
PURGE_SECONDS = 3600.0

PASSING = (CanisterStopping, CanisterBusy, CallerBusy, CanisterUnavailable, Busy, ModelUnloaded)
"""They say that it cannot be done now, not that it cannot be done: an answer may be gone on with later."""


def live_answers(canister: Canister) -> LiveAnswers[Part]:
    """The answers that are being made."""
    return cast("LiveAnswers[Part]", canister.live_answers)


def start(host: Host, canister: Canister, kept: KeptAnswer, *, is_new: bool = False) -> LiveAnswer[Part]:
    """Begin to make an answer, or go on with it where its committed calls have left it.

    is_new: nobody knows its id yet, so that it need not be kept if its first call is refused.
    """
    live = LiveAnswer[Part](goes_on=kept.asked.goes_on)
    live_answers(canister).add(kept.asked.id, live)
    live.task = asyncio.create_task(_make(host, canister, kept, live, is_new), name=f"answer {kept.asked.id}")

    def over(_: asyncio.Task[None]) -> None:  # also when it was cancelled before it began
        live_answers(canister).remove(kept.asked.id)
        live.over()

    live.task.add_done_callback(over)
    return live


async def _make(host: Host, canister: Canister, kept: KeptAnswer, live: LiveAnswer[Part], is_new: bool) -> None:
    """Make an answer to its end, and say how it ended; nothing is said where the server's end has cut it off."""
    status: Status | None = None
    failure: Trap | CanisterError | None = None
    try:
        await _persist(host, canister, kept, live)
        status = "done"
    except asyncio.CancelledError:
        if live.is_cancelled:
            status = "cancelled"
        elif not kept.asked.goes_on and not live.n_listeners:
            status = "left"
        else:
            failure = CanisterStopping("the server is stopping; the answer goes on afterwards, from where it is")
    except PASSING as reason:
        status, failure = None if kept.asked.goes_on else "left", reason
    except (Trap, CanisterError) as reason:
        status, failure = "failed", AnswerFailed.of(reason)
    except Exception:
        log.exception("an answer failed", canister=canister.name, answer=kept.asked.id)
        fault = CanisterTrapped("internal error; the server's log has the details")
        status, failure = "failed", AnswerFailed.of(fault)
    finally:
        live.failure = failure
        with contextlib.suppress(Exception):  # of a store that fails: then the next start goes on with it
            await _note_end(canister, kept, live, status, failure, is_new)


async def _note_end(
    canister: Canister,
    kept: KeptAnswer,
    live: LiveAnswer[Part],
    status: Status | None,
    failure: Exception | None,
    is_new: bool,
) -> None:
    if is_new and failure is not None and not live.parts and not kept.asked.goes_on:
        await canister.answers.remove(kept.asked.id)
    elif status in ("done", "left"):
        await canister.answers.end(kept.asked.id, status)
    elif status is not None:
        error = failure.to_json() if isinstance(failure, AnswerFailed) else None
        told = await asyncio.to_thread(told_beyond, canister, kept, live.parts)
        await canister.answers.end(kept.asked.id, status, error, told)


async def _persist(host: Host, canister: Canister, kept: KeptAnswer, live: LiveAnswer[Part]) -> None:
    """Run its choices side by side. If it continues without its client, try again after errors that pass."""
    while True:
        try:
            await _run(canister, kept, live)
            return
        except PASSING:
            if not kept.asked.goes_on or host.is_draining:
                raise
        await asyncio.sleep(AGAIN_SECONDS)


def model_there(canister: Canister) -> Engine:
    """CanisterBusy while it is not loaded."""
    if canister.model.engine is None:
        raise CanisterBusy(f"the model of canister {canister.name} is not loaded; try again later")
    return canister.model.engine


async def _run(canister: Canister, kept: KeptAnswer, live: LiveAnswer[Part]) -> None:
    engine = model_there(canister)
    if engine.info.model_id.hex() != Choices.of(kept).model_id:
        raise Conflict("another model was loaded while the answer was made: ask again")
    choices = await asyncio.to_thread(read, canister, kept)
    makers = [_run_choice(canister, kept.asked.caller, live, n, *choice) for n, choice in enumerate(choices)]
    if len(makers) == 1:
        await makers[0]
        return
    tasks = [asyncio.create_task(maker) for maker in makers]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def _run_choice(
    canister: Canister, caller: str, live: LiveAnswer[Part], choice: int, wanted: Wanted, keeper: TokenKeeper
) -> None:
    """Make one choice. Pieces that are made again, because they were perhaps not kept, are the same and are not sent
    twice.
    """
    n_told = sum(1 for number, part in live.parts if number == choice and isinstance(part, Piece))
    async with aclosing(answer(canister, caller, wanted, keeper)) as events:
        async for event in events:
            if isinstance(event, Answered):  # told as it will be read again, when no ids are known
                event = replace(event, receipts=())
            if isinstance(event, Piece) and n_told:
                n_told -= 1
            elif not (isinstance(event, Ingested) and n_told):
                live.add((choice, event))


async def stopped(canister: Canister, id: str) -> None:
    """Make no more of an answer. Returns when that is so."""
    live = live_answers(canister).find(id)
    if live is not None and live.task is not None:
        live.cancel()
        await asyncio.wait([live.task])


async def tend(host: Host) -> None:
    """Until the server ends: resume what an earlier server has left undone, forget old answers, stop what would delay
    the end.

    A canister's running answers are resumed when the canister is seen for the first time.
    """
    seen: set[Canister] = set()
    purged_at = time.monotonic()
    try:
        while True:
            for canister in host.canisters:
                if canister not in seen and canister.fault is None:
                    seen.add(canister)
                    await _resume(host, canister)
            if host.is_draining:
                _stop_unheard(host)
            if time.monotonic() - purged_at > PURGE_SECONDS:
                purged_at = time.monotonic()
                await asyncio.gather(*(one.answers.purge() for one in host.canisters if one.fault is None))
            await asyncio.sleep(LOOK_SECONDS)
    finally:
        await asyncio.gather(*(live_answers(canister).stopped() for canister in host.canisters))


async def _resume(host: Host, canister: Canister) -> None:
    for kept in await asyncio.to_thread(canister.answers.running):
        if canister.herd.worker is not None:  # its herd asks for it again, of whichever worker
            await canister.answers.end(kept.asked.id, "left")
        elif kept.asked.goes_on and live_answers(canister).find(kept.asked.id) is None:
            log.info("an answer is resumed", canister=canister.name, answer=kept.asked.id)
            start(host, canister, kept)


def _stop_unheard(host: Host) -> None:
    """The server is about to end: stop answers without listeners, which continue at its next start."""
    for canister in host.canisters:
        for live in live_answers(canister):
            if not live.n_listeners:
                live.stop()
