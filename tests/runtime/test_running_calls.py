"""The calls that run: counted while they do, waited for, and cancelled."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from canister.runtime.call import Call
from canister.runtime.running_calls import RunningCalls
from tests.harness import CONTROLLER, canister_in

pytestmark = pytest.mark.anyio


async def test_a_call_is_counted_until_it_is_over(tmp_path: Path) -> None:
    async with canister_in(tmp_path) as harness:
        running = RunningCalls()
        older, newer = (Call(harness.canister, name, CONTROLLER, is_update=False) for name in ("older", "newer"))
        with running.counted(older):
            with running.counted(newer):
                assert [call.method for call in running] == ["older", "newer"]
            assert [call.method for call in running] == ["older"]
        assert len(running) == 0
        await running.over()


async def test_over_waits_for_those_that_run_now_and_for_no_later_one(tmp_path: Path) -> None:
    async with canister_in(tmp_path) as harness:
        running = RunningCalls()
        first, own, later = (Call(harness.canister, name, CONTROLLER, is_update=False) for name in ("a", "b", "c"))
        with running.counted(own):
            with running.counted(first):
                waiting = asyncio.ensure_future(running.over(but=own))
                await asyncio.sleep(0)
                with running.counted(later):
                    await asyncio.sleep(0)
                await asyncio.sleep(0)
                assert not waiting.done()
            with running.counted(later):
                await waiting


async def test_cancel_reaches_the_task_of_each(tmp_path: Path) -> None:
    async with canister_in(tmp_path) as harness:
        running = RunningCalls()

        async def run(name: str) -> None:
            with running.counted(Call(harness.canister, name, CONTROLLER, is_update=False)):
                await asyncio.Event().wait()

        tasks = [asyncio.ensure_future(run(name)) for name in "ab"]
        await asyncio.sleep(0)
        assert len(running) == 2
        running.cancel()
        await running.over()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [asyncio.CancelledError] * 2
