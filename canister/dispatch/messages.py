"""Messages that may come more than once: run the first time, answered from the record after that."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING

from canister.dispatch.execute import Prepare, Reply
from canister.dispatch.requests import NOTHING, execute_in_turn, receipted
from canister.dispatch.turns import NoPlace, place_for, turn
from canister.errors import CanisterStopping, NotBegun, Trap
from canister.state.ingress_history import Also, IngressMessage, KnownMessage, RecordedAnswer
from canister.telemetry import metrics

if TYPE_CHECKING:
    from canister.api.methods import Method
    from canister.runtime.admission import Place
    from canister.runtime.call import OnText
    from canister.runtime.canister import Canister
    from canister.store.transaction import Transaction

Answer = Callable[[Reply | Trap, bool], RecordedAnswer]
"""What is recorded of an outcome, and whether the call was charged for."""


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

    def answer(outcome: Reply | Trap, is_charged: bool) -> RecordedAnswer:
        return RecordedAnswer.rejected(outcome) if isinstance(outcome, Trap) else RecordedAnswer(encode(outcome))

    # A query that comes as an update is one whose answer is to be certified, so it leaves a record as well.
    return submit_recorded(canister, method, message, decode, answer, named, prepare=receipted)


def submit_recorded(
    canister: Canister,
    method: Method,
    message: IngressMessage,
    decode: Callable[[], object],
    answer: Answer,
    named: Mapping[str, object] = NOTHING,
    *,
    on_text: OnText | None = None,
    prepare: Prepare | None = None,
    also: Also = (),
    anew: bool = False,
) -> asyncio.Future[RecordedAnswer]:
    """As `submit`, for whoever records answers in a form of its own.

    on_text, prepare: as of `execute`. also: statements of the transaction that records the answer, whatever it is.
    anew: run it also if it was answered before. The future raises NotBegun, and then nothing is recorded.
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
            recorded = answer(outcome, True)
            canister.ingress.history.record(transaction, message, recorded)
            for statement, values in also:
                transaction.execute(statement, values)
            transaction.on_commit(lambda: committed.append(recorded))

        outcome: Reply | Trap
        with metrics.counted(canister.name, method.name) as counted:
            try:
                async with turn(canister, method, place) as due:
                    outcome = await execute_in_turn(
                        canister, method, message.caller, decode, record, due, on_text, named, prepare
                    )
                counted.is_ok = outcome.error is None
            except (CanisterStopping, NotBegun):
                raise
            except Trap as trap:
                outcome = trap
        if not committed:
            committed.append(answer(outcome, False))
            await canister.ingress.history.record_alone(message, committed[0], also)
        return committed[0]

    future = canister.ingress.submit(message, begin, anew=anew)
    for place in places:  # also when the call was cancelled before it began
        future.add_done_callback(lambda _, place=place: place.leave())  # type: ignore[misc]
    return future


def find_message(canister: Canister, id: bytes) -> KnownMessage | None:
    """What is known of a message that came to `submit`; nothing while the canister is not available."""
    return None if canister.fault is not None else canister.ingress.find(id)
