"""Money and programs under `kill -9`: each paid request ends in exactly one answer or refund, the sums are as before,
and each message of a program is run once, in order."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("lupa", reason="Lua programs need lupa, of the extra `ao`")

from canister.ao.journal import processes
from canister.ao.processes.messages import derived_id
from canister.ao.units import HERDER, Units
from tests.ao.units.killed import MINTED, N_PAID, counted, ended, settings
from tests.ao.units.world import OWNER


@pytest.mark.parametrize(
    ("n", "n_kills"), [(16, 1), pytest.param(200, 10, marks=pytest.mark.nightly)], ids=["short", "long"]
)
def test_each_request_ends_once(tmp_path: Path, n: int, n_kills: int) -> None:
    command = [sys.executable, "-m", "tests.ao.units.killed", str(tmp_path), str(n)]
    for number in range(n_kills):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        time.sleep(0.05 + number % 4 * 0.07)  # wherever it is by then
        process.kill()
        process.wait()
        process.stdout.close()
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    assert done.stdout.splitlines()[-1] == "ended"
    asyncio.run(_check(tmp_path, n))


async def _check(folder: Path, n: int) -> None:
    units = await Units.open(settings(folder))
    try:
        found = await ended(units)
        assert sorted(map(int, found)) == list(range(n))
        assert await counted(units) == " ".join(map(str, range(1, n + 1)))
        counter = derived_id("killed", "counter")
        assert await units._journal.read(lambda each: processes.snapshot(each, counter)) is not None
        n_back = len(range(0, n, 7))
        assert await units.balance(HERDER) == N_PAID * (n - n_back)
        assert await units.balance(OWNER) == MINTED - N_PAID * (n - n_back)
    finally:
        await units.aclose()
