"""Looks at a server's own receipts: calls are decoded again, a share of them while nobody waits, or when an admin asks.

A token that differs is an alarm: a fault of memory or kernels, or a changed file. It is counted and logged, and changes
nothing.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from canister.api.records import ApiError
from canister.dispatch.execute import Reply, Terms, run
from canister.engine.told_calls import NotToldFully, ToldCall, told_call
from canister.errors import CanisterError
from canister.handlers.receipts import replay_of
from canister.ic.receipts import document
from canister.ic.receipts import record as records
from canister.metering.receipts import instructions_fault
from canister.runtime import access
from canister.telemetry import metrics
from canister.telemetry.logs import get_logger

if TYPE_CHECKING:
    from canister.api.herd_requests import ToldRecord
    from canister.engine.engine import Engine
    from canister.metering.cost_model import CostModel
    from canister.runtime.call import Call
    from canister.runtime.canister import Canister
    from canister.runtime.host import Host

log = get_logger(__name__)

_LOOK = Terms(is_update=False, err=ApiError, is_limited=False)

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
                await audit_call(canister, index)


Outcome = Literal["equal", "differs", "drew none", "not decoded"]


@dataclass(frozen=True, slots=True)
class Audited:
    """What came of a call. tokens: how many of its tokens were drawn again as it drew them. reason: why none was,
    or what differs. cost: what is wrong with its instructions; "": nothing that is known.
    """

    call: int
    outcome: Outcome
    tokens: int = 0
    reason: str = ""
    cost: str = ""


class _NotAudited(Exception):
    """A call that is not decoded again; the message says why. cost, outcome: as of Audited."""

    def __init__(self, reason: str, cost: str = "", outcome: Outcome = "not decoded") -> None:
        super().__init__(reason)
        self.cost = cost
        self.outcome = outcome


async def audit_one(
    canister: Canister, caller: str, index: int, audited: Callable[[], Awaitable[Audited]] | None = None
) -> Reply:
    """Decode a call again for an admin; an `Audited`. Tokens of others are not told. audited: does it, if not here."""

    async def handle(call: Call) -> Audited:
        access.check(canister, call.caller, "admin_query")
        return await audit_call(canister, index) if audited is None else await audited()

    return await run(canister, "audit", caller, handle, _LOOK)


async def audit_call(canister: Canister, index: int, told: ToldRecord | None = None) -> Audited:
    """Decode a call again, one token at a time as before; count and log what comes of it. told: its record, if it lies
    elsewhere.
    """
    release = await canister.model.gate.enter()  # so that the model stays
    try:
        engine, cost_model = canister.model.engine, canister.model.cost_model
        found, cost = await asyncio.to_thread(_told, canister, engine, cost_model, index, told)
        assert engine is not None
        request = replace(found.request(engine.info), key=None, keep=False)
        drawn = (await engine.generate(request)).sampled
    except _NotAudited as error:
        return Audited(index, error.outcome, reason=str(error), cost=error.cost)
    except (CanisterError, NotToldFully) as error:
        log.info("a call could not be audited", canister=canister.name, call=index, reason=str(error))
        return Audited(index, "not decoded", reason=str(error))
    finally:
        release()
    said = found.drawn.tolist()
    metrics.count_audited(canister.name, is_equal=drawn == said)
    if drawn == said:
        return Audited(index, "equal", len(said), cost=cost)
    same = next((n for n, pair in enumerate(zip(drawn, said, strict=False)) if pair[0] != pair[1]), len(drawn))
    log.error("an answer is not what the model gives", canister=canister.name, call=index, token=same)
    return Audited(index, "differs", same, f"token {same + 1} of {len(said)} is not the one that the model draws", cost)


def _told(
    canister: Canister, engine: Engine | None, cost_model: CostModel | None, index: int, given: ToldRecord | None
) -> tuple[ToldCall, str]:
    """The call, if it drew tokens, exactly, with the model that is loaded, and its tokens are at hand; and what is
    wrong with its cost. _NotAudited, NotToldFully.
    """
    found = given or canister.receipts.find(index)
    if found is None:
        raise _NotAudited("its record is kept no more" if index < canister.receipts.size else "there is no such call")
    record, terms = records.decode(found.record), document.read_terms(found.terms)
    told = terms.get("engine")
    if record.chat is None or not isinstance(told, dict):
        raise _NotAudited("it decoded nothing", outcome="drew none")
    if engine is None or told.get("model") != engine.info.model_id:
        raise _NotAudited("its model is not the one that is loaded")
    cost = "" if cost_model is None else instructions_fault(record, terms, cost_model.shape) or ""
    if not told.get("exact"):
        raise _NotAudited("it was not decoded exactly, so other chats may have had a part in it", cost)
    try:
        call = told_call(record, replay_of(canister, record).words if given is None else given.words, terms)
    except NotToldFully as error:
        raise _NotAudited(str(error), cost) from None
    if not len(call.drawn):
        raise _NotAudited("it drew none", cost, "drew none")
    return call, cost
