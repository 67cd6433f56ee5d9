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
from typing import TYPE_CHECKING, cast

from canister.dispatch.answer_chain import Ingested, Wanted
from canister.dispatch.answer_text import Piece
from canister.dispatch.answers import answer
from canister.dispatch.kept_answers import AnswerFailed, Choices, Part, TokenKeeper, read
from canister.errors import (
    Busy,
    CallerBusy,
    CanisterBusy,
    CanisterError,
    CanisterStopping,
    CanisterTrapped,
    CanisterUnavailable,
    Conflict,
    Trap,
)
from canister.runtime.live_answers import LiveAnswer, LiveAnswers
from canister.telemetry.logs import get_logger

if TYPE_CHECKING:
    from canister.runtime.canister import Canister
    from canister.runtime.host import Host
    from canister.state.answers import KeptAnswer, Status

log = get_logger(__name__)

LOOK_SECONDS = 0.5  # how late an answer may be resumed, or stopped at the end of the server
AGAIN_SECONDS = 1.0  # between tries while something is in the way
PURGE_SECONDS = 3600.0

# These errors pass: the work cannot be done now.
_PASSING = (CanisterStopping, CanisterBusy, CallerBusy, CanisterUnavailable, Busy)


def live_answers(canister: Canister) -> LiveAnswers[Part]:
    """The answers that are being made."""
    return cast("LiveAnswers[Part]", canister.live_answers)


def start(host: Host, canister: Canister, kept: KeptAnswer) -> LiveAnswer[Part]:
    """Begin to make an answer, or continue where its committed calls have left it."""
    live = LiveAnswer[Part](goes_on=kept.asked.goes_on)
    live_answers(canister).add(kept.asked.id, live)
    live.task = asyncio.create_task(_make(host, canister, kept, live), name=f"answer {kept.asked.id}")
    return live


async def _make(host: Host, canister: Canister, kept: KeptAnswer, live: LiveAnswer[Part]) -> None:
    """Make an answer to its end, and record how it ended. Nothing is recorded when the server's end cuts it off."""
    status: Status | None = None
    failure: Exception | None = None
    try:
        await _persist(host, canister, kept, live)
        status = "done"
    except (asyncio.CancelledError, CanisterStopping):
        if not kept.asked.goes_on and not live.n_listeners:
            status = "left"
        elif not live.is_cancelled:
            failure = CanisterStopping("the server is stopping; the answer goes on afterwards, from where it is")
    except (Trap, CanisterError) as error:
        status, failure = "failed", AnswerFailed.of(error)
    except Exception:
        log.exception("an answer failed", canister=canister.name, answer=kept.asked.id)
        fault = CanisterTrapped("internal error; the server's log has the details")
        status, failure = "failed", AnswerFailed.of(fault)
    finally:
        with contextlib.suppress(Exception):  # if the store fails, the next start continues the answer
            await _note_end(canister, kept, live, status, failure)
        live_answers(canister).remove(kept.asked.id)
        live.over(failure)


async def _note_end(
    canister: Canister, kept: KeptAnswer, live: LiveAnswer[Part], status: Status | None, failure: Exception | None
) -> None:
    if status == "failed" and not kept.asked.goes_on and not live.parts:
        await canister.answers.remove(kept.asked.id)  # refused at once, and nobody knows its id
    elif status is not None:
        told = failure.to_json() if isinstance(failure, AnswerFailed) else None
        await canister.answers.end(kept.asked.id, status, told)


async def _persist(host: Host, canister: Canister, kept: KeptAnswer, live: LiveAnswer[Part]) -> None:
    """Run its choices side by side. If it continues without its client, try again after errors that pass."""
    while True:
        try:
            await _run(canister, kept, live)
            return
        except _PASSING:
            if not kept.asked.goes_on or host.is_draining:
                raise
        await asyncio.sleep(AGAIN_SECONDS)


async def _run(canister: Canister, kept: KeptAnswer, live: LiveAnswer[Part]) -> None:
    engine = canister.model.engine
    if engine is None:
        raise CanisterBusy(f"the model of canister {canister.name} is not loaded")
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
        if kept.asked.goes_on and live_answers(canister).find(kept.asked.id) is None:
            log.info("an answer is resumed", canister=canister.name, answer=kept.asked.id)
            start(host, canister, kept)


def _stop_unheard(host: Host) -> None:
    """The server is about to end: stop answers without listeners, which continue at its next start."""
    for canister in host.canisters:
        for live in live_answers(canister):
            if not live.n_listeners:
                live.stop()
