"""Whether a canister of the herd can pay for a call: the journal has its cycles, so neither a worker nor the mirror is
asked, which only know what they ran themselves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from canister.errors import OutOfCycles
from canister.metering import fees

if TYPE_CHECKING:
    from canister.config.sections import CanisterSettings
    from canister.herd.jobs import Job
    from canister.herd.journal.journal import Journal

TRACK, ENFORCE = "track", "enforce"


class Balance:
    """Of all canisters of one journal. settings: what is set for each."""

    def __init__(self, journal: Journal, settings: CanisterSettings) -> None:
        self._journal = journal
        self._is_enforced = settings.balance_policy == ENFORCE
        self._limit = settings.instruction_limit or 0
        self._nodes = settings.subnet_nodes

    async def check(self, job: Job) -> None:
        """Raise OutOfCycles for an update that may take more than there is. One that is known is answered again."""
        if not (self._is_enforced and job.settles) or await self._journal.find(job.id) is not None:
            return
        await self.check_call(job.canister, len(job.arg))

    async def check_call(self, canister: str, n_bytes: int) -> None:
        """Raise OutOfCycles if there is not what one more update with so many bytes may take."""
        if not self._is_enforced:
            return
        most = fees.update_cycles(self._limit, n_bytes, nodes=self._nodes)
        cycles = await self._journal.cycles(canister) or 0
        if cycles < most:
            raise OutOfCycles(canister, most - cycles)
