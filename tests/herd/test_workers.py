"""The workers as a leader knows them: who waits for one does so only as long as it is there."""

from __future__ import annotations

import asyncio

import pytest

from canister.herd.launch.launcher import WorkerRef
from canister.herd.worker_client import WorkerClient, WorkerLost
from canister.herd.workers import Worker, end
from tests.traces import until

pytestmark = pytest.mark.anyio


async def test_leases_may_end_again_while_those_who_had_them_clean_up() -> None:
    """A worker that is silent may be lost next, and a job that nobody waits for may be at a worker that is."""
    ref = WorkerRef("w1", 1, "unix:/nowhere", 0)
    async with WorkerClient(ref, bytes(32)) as client:
        worker, is_clean, is_cleaning = Worker(ref, client), asyncio.Event(), asyncio.Event()

        async def ask() -> None:
            async with worker.leased():
                try:
                    await asyncio.Event().wait()
                finally:
                    is_cleaning.set()
                    await is_clean.wait()

        asking = asyncio.create_task(ask())
        await until(lambda: len(worker.leases) == 1)
        (lease,) = worker.leases
        end(lease)
        await is_cleaning.wait()
        worker.end_leases()
        worker.end_leases()
        is_clean.set()
        with pytest.raises(WorkerLost, match="w1 is gone"):
            await asking
        assert worker.leases == set()


async def test_nobody_begins_to_wait_for_a_worker_that_is_gone() -> None:
    ref = WorkerRef("w1", 1, "unix:/nowhere", 0)
    async with WorkerClient(ref, bytes(32)) as client:
        worker = Worker(ref, client, is_silent=True)
        with pytest.raises(WorkerLost, match="w1 is gone"):
            async with worker.answering():
                pytest.fail("it is gone")
        assert (worker.n_answers, worker.leases) == (0, set())
