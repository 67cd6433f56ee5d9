"""Messages that may come more than once: run the first time, answered from the record after that."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING

from canister.dispatch.execute import Reply
from canister.dispatch.requests import NOTHING, execute_in_turn
from canister.dispatch.turns import NoPlace, place_for, turn
from canister.errors import CanisterStopping, Trap
from canister.state.ingress_history import IngressMessage, KnownMessage, RecordedAnswer
from canister.telemetry import logs

if TYPE_CHECKING:
    from canister.api.methods import Method
    from canister.runtime.admission import Place
    from canister.runtime.canister import Canister
    from canister.store.transaction import Transaction


def submit(
    canister: Canister,
    method: Method,
    message: IngressMessage,
    decode: Callable[[], object],
    encode: Callable[[Reply], bytes],
    named: Mapping[str, object] = NOTHING,
) -> asyncio.Future[RecordedAnswer]:
    """Run one method for a message that may come more than once. The second time, its answer is given again.

    named: as of `execute`. The call continues when nobody waits for it. Raises CanisterStopping (the future may raise
    it too), CanisterUnavailable, and for a new message CallerBusy or CanisterBusy.
    """
    canister.check_available()
    if not method.runs_stopped:
        canister.check_started()

    places: list[Place | NoPlace] = []

    def begin() -> Callable[[], Awaitable[RecordedAnswer]]:
        place = place_for(canister, method.access, message.caller, counted_as=method.name)
        places.append(place)
        return functools.partial(run, place)

    async def run(place: Place | NoPlace) -> RecordedAnswer:
        committed: list[RecordedAnswer] = []

        def record(transaction: Transaction, outcome: Reply | Trap) -> None:
            answer = _answer(outcome, encode)
            canister.ingress.history.record(transaction, message, answer)
            transaction.on_commit(lambda: committed.append(answer))

        outcome: Reply | Trap
        with logs.counted(canister.name, method.name) as counted:
            try:
                async with turn(canister, method, place) as due:
                    outcome = await execute_in_turn(canister, method, message.caller, decode, record, due, named=named)
                counted.is_ok = outcome.error is None
            except CanisterStopping:
                raise
            except Trap as trap:
                outcome = trap
        if not committed:
            committed.append(_answer(outcome, encode))
            await canister.ingress.history.record_alone(message, committed[0])
        return committed[0]

    future = canister.ingress.submit(message, begin)
    for place in places:  # also when the call was cancelled before it began
        future.add_done_callback(lambda _, place=place: place.leave())  # type: ignore[misc]
    return future


def find_message(canister: Canister, id: bytes) -> KnownMessage | None:
    """What is known of a message that came to `submit`; nothing while the canister is not available."""
    return None if canister.fault is not None else canister.ingress.find(id)


def _answer(outcome: Reply | Trap, encode: Callable[[Reply], bytes]) -> RecordedAnswer:
    return RecordedAnswer.rejected(outcome) if isinstance(outcome, Trap) else RecordedAnswer(encode(outcome))
