"""The mirror: the canisters in the herd's own process, with the small state and the files, but no model and no chats.

It runs the control log as every worker does, each entry once, also after a crash in the middle.
"""

from __future__ import annotations

import asyncio
import functools
from dataclasses import replace
from typing import TYPE_CHECKING

from canister.api import codec
from canister.api import herd_wire as wire
from canister.api.herd_requests import job_of_control
from canister.api.herd_wire import Done
from canister.api.management import find_row
from canister.dispatch.execute import Reply
from canister.dispatch.messages import find_message, submit_recorded
from canister.dispatch.receipts import receipted
from canister.errors import CallerBusy, CanisterBusy, CanisterStopping, Conflict, Trap
from canister.herd import replies
from canister.state.herd_marks import mark
from canister.state.ingress_history import IngressMessage, RecordedAnswer

if TYPE_CHECKING:
    from canister.herd.journal.records import ControlEntry
    from canister.runtime.call import Call
    from canister.runtime.canister import Canister
    from canister.runtime.host import Host

RETRY_SECONDS = 0.05
KEPT_NS = 24 * 3600 * 10**9  # an answer, for whoever asks again with an idempotency key


class Mirror:
    """The canisters of a host, by id."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def canister(self, id: str) -> Canister:
        return self._host.find(id)

    def rev(self, canister: str) -> int:
        """Of the last entry of the control log that it has run."""
        return self.canister(canister).herd.marks.rev

    async def run(self, entry: ControlEntry, arg: bytes) -> Done:
        """Run an entry, or answer it again. Raises Conflict when it was run, and its answer is forgotten.

        It is in the log, so the workers run it: what is refused for a moment only is tried again.
        """
        while True:
            try:
                return await self._run(entry, arg)
            except (CallerBusy, CanisterBusy):
                await asyncio.sleep(RETRY_SECONDS)

    async def _run(self, entry: ControlEntry, arg: bytes) -> Done:
        canister, method = self.canister(entry.canister), find_row(entry.method)
        id = job_of_control(entry.canister, entry.rev)
        if entry.rev <= canister.herd.marks.rev and find_message(canister, id) is None:
            raise Conflict(f"this call of {entry.method} was run, and its answer is forgotten")
        message = IngressMessage(id, entry.caller, entry.now_ns + KEPT_NS)
        also = (mark("rev", entry.rev),)

        calls: list[Call] = []

        def prepare(call: Call) -> None:
            call.begun_at(entry.now_ns)
            calls.append(call)

        def answer(outcome: Reply | Trap, is_charged: bool) -> RecordedAnswer:
            done = replies.of_trap(outcome) if isinstance(outcome, Trap) else replies.of_reply(method, outcome)
            receipt = receipted(calls[-1], outcome) if is_charged and calls else None
            return RecordedAnswer(wire.encode(replace(done, receipt=receipt)))

        try:
            recorded = await submit_recorded(
                canister,
                method,
                message,
                functools.partial(codec.decode_args, method, arg),
                answer,
                prepare=prepare,
                also=also,
            )
        except (CallerBusy, CanisterBusy, CanisterStopping):
            raise
        except Trap as trap:  # before it began: every worker refuses it in the same way
            recorded = answer(trap, False)
            await canister.ingress.history.record_alone(message, recorded, also)
        canister.herd.marks.rev = max(canister.herd.marks.rev, entry.rev)
        assert recorded.reply is not None
        return wire.decode(Done, recorded.reply)
