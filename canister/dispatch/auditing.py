"""Looks at a server's own receipts, in the background: a share of its calls is decoded again while nobody waits.

A token that differs is an alarm: a fault of memory or kernels, or a changed file. It is counted and logged, and changes
nothing.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from typing import TYPE_CHECKING

from canister.engine.told_calls import NotToldFully, ToldCall, told_call
from canister.errors import CanisterError
from canister.handlers.receipts import replay_of
from canister.ic.receipts import document
from canister.ic.receipts import record as records
from canister.telemetry import metrics
from canister.telemetry.logs import get_logger

if TYPE_CHECKING:
    from canister.engine.engine import Engine
    from canister.ic.receipts.record import Record
    from canister.runtime.canister import Canister
    from canister.runtime.host import Host

log = get_logger(__name__)

LOOK_SECONDS = 1.0
MOST_BEHIND = 1000  # records; older ones are passed over


async def audit(host: Host) -> None:
    """Audit the canisters that are to be audited, until cancelled."""
    auditors: dict[Canister, Auditor] = {}
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        wanted = [canister for canister in host.canisters if canister.settings.audit and canister.fault is None]
        auditors = {canister: auditors.get(canister) or Auditor(canister) for canister in wanted}
        for auditor in auditors.values():
            await auditor.look()


class Auditor:
    """Of one canister; begins with the calls that come from now on. draw: which of them are looked at."""

    def __init__(self, canister: Canister, draw: random.Random | None = None) -> None:
        self._canister = canister
        self._draw = draw or random.Random()
        self._next = canister.receipts.size

    async def look(self) -> None:
        """Decode calls again that have come since, as long as the canister is idle."""
        canister = self._canister
        size = await asyncio.to_thread(lambda: canister.receipts.size)
        self._next = max(self._next, size - MOST_BEHIND)
        while self._next < size and canister.is_idle:
            index, self._next = self._next, self._next + 1
            if self._draw.random() < canister.settings.audit:
                await self._look_at(index)

    async def _look_at(self, index: int) -> None:
        canister = self._canister
        release = await canister.model.gate.enter()  # so that the model stays
        try:
            engine = canister.model.engine
            found = None if engine is None else await asyncio.to_thread(_told, canister, engine, index)
            if engine is None or found is None:
                return
            request = replace(found.request(engine.info), key=None, keep=False)
            drawn = (await engine.generate(request)).sampled
        except (CanisterError, NotToldFully) as error:
            log.info("a call could not be audited", canister=canister.name, call=index, reason=str(error))
            return
        finally:
            release()
        said = found.drawn.tolist()
        metrics.count_audited(canister.name, is_equal=drawn == said)
        if drawn != said:
            at = next((n for n, pair in enumerate(zip(drawn, said, strict=False)) if pair[0] != pair[1]), 0)
            log.error("an answer is not what the model gives", canister=canister.name, call=index, token=at)


def _told(canister: Canister, engine: Engine, index: int) -> ToldCall | None:
    """The call, if it drew tokens, exactly, with the model that is loaded, and its tokens are at hand."""
    found = canister.receipts.find(index)
    record: Record | None = None if found is None else records.decode(found.record)
    if found is None or record is None or record.chat is None or record.chat.is_shifted:
        return None
    terms = document.read_terms(found.terms)
    told = terms.get("engine")
    if not isinstance(told, dict) or told.get("model") != engine.info.model_id or not told.get("exact"):
        return None
    words = replay_of(canister, record).words
    if len(words) != 4 * record.chat.n_after:
        return None
    call = told_call(record, words, terms)
    return call if len(call.drawn) else None
