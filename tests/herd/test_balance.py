"""Cycles where balances are enforced: the journal's count, at the door, and no worker's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from canister import dispatch
from canister.api import codec, management
from canister.herd.dispatcher import HerdDispatcher
from tests.herd.herds import InProcess, herd_in
from tests.herd.test_paid import open_with_money

pytestmark = pytest.mark.anyio

RUN = {"args": ["-p", "hello", "-n", "2", "--temp", "0.0"]}
LIMIT = 10**15  # instructions; they would cost more than a new canister has
ENOUGH = 10**18


async def top_up(herd: InProcess, cycles: int) -> None:
    row = management.find_method("provisional_top_up_canister")
    arg = {"canister_id": herd.host.default.id, "amount": str(cycles)}
    target = HerdDispatcher(herd.herd, dispatch.of_host(herd.host)).default
    reply = await target.execute(row, herd.host.identity.principal, lambda: codec.args_from_json(row, arg))
    assert reply.error is None


async def test_the_journals_balance_is_what_pays(tmp_path: Path) -> None:
    async with herd_in(tmp_path, 1, balance_policy="enforce", instruction_limit=LIMIT) as herd:
        canister = herd.host.default.id
        await top_up(herd, ENOUGH)
        (payer,) = await open_with_money(herd, "payer")
        known = await herd.call("run_update", RUN, "known")  # the worker's own balance would not have been enough
        left = await herd.herd.journal.cycles(canister) or 0
        await herd.herd.journal.log(canister, herd.host.identity.principal, "spent", 1, cycles_added=1000 - left)

        refused = await herd.post("run_update", RUN)
        assert (refused.status_code, refused.json()["error_code"]) == (402, "IC0207")
        assert f"Canister {canister} is out of cycles" in refused.json()["reject_message"]
        assert (await herd.post("set_access", {"level": 0})).status_code == 402
        asked = {"prompt": "hello", "tokens": 2}
        unpaid = await payer.post("/herd/inference", json=asked)
        assert (unpaid.status_code, unpaid.json()["error_code"]) == (402, "IC0207")
        assert (await herd.herd.journal.supply()).held == 0
        assert await herd.herd.journal.cycles(canister) == 1000  # what is refused costs nothing
        assert await herd.call("run_update", RUN, "known") == known
        assert (await herd.call("run_query", RUN))["output"] == known["output"]

        await top_up(herd, ENOUGH)
        assert (await herd.call("run_update", RUN))["output"] == known["output"]
        assert (await payer.post("/herd/inference", json=asked)).status_code == 200
