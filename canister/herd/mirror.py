"""The mirror: the canisters in the herd's own process, with the small state and the files, but no model and no chats.

It runs the control log as every worker does, each entry once, also after a crash in the middle.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from canister.api import codec
from canister.api import herd_wire as wire
from canister.api.herd_requests import job_of_control
from canister.api.herd_wire import Done
from canister.api.management import find_row
from canister.dispatch.execute import Reply
from canister.dispatch.messages import submit_recorded
from canister.errors import Trap
from canister.herd import replies
from canister.state.herd_marks import mark
from canister.state.ingress_history import IngressMessage, RecordedAnswer

if TYPE_CHECKING:
    from canister.herd.journal.records import ControlEntry
    from canister.runtime.canister import Canister
    from canister.runtime.host import Host


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
        """Run an entry, or answer it again."""
        canister, method = self.canister(entry.canister), find_row(entry.method)

        def answer(outcome: Reply | Trap, is_charged: bool) -> RecordedAnswer:
            done = replies.of_trap(outcome) if isinstance(outcome, Trap) else replies.of_reply(method, outcome)
            return RecordedAnswer(wire.encode(done))

        recorded = await submit_recorded(
            canister,
            method,
            IngressMessage(job_of_control(entry.canister, entry.rev), entry.caller, 0),
            functools.partial(codec.decode_args, method, arg),
            answer,
            prepare=lambda call: call.begun_at(entry.now_ns),
            also=(mark("rev", entry.rev),),
        )
        assert recorded.reply is not None
        return wire.decode(Done, recorded.reply)
