"""Workers that die before, in and after a call's commit, or hang: the texts are those of a single server, each call is
run to its end once, and nothing that was answered is lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import signal
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from canister.api.herd_wire import Done, Run
from canister.client.local_server import LocalServer
from canister.herd.journal import OPERATOR
from canister.herd.leader import Limits
from canister.herd.worker_client import OnText, WorkerClient, WorkerLost
from canister.herd.workers import Worker
from tests.harness import CHAT_MODEL
from tests.herd.herds import QUESTIONS, InProcess, chat, client_of, herd_in, hung, wait_ready
from tests.herd.postgresql import NotHere, PostgreSQL, own_server
from tests.herd.test_paid import open_with_money
from tests.traces import until

pytestmark = pytest.mark.anyio

Chaos = Callable[[str, WorkerClient, Run], Awaitable[None]]


@pytest.fixture(scope="module")
async def texts(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What the chats say when nobody disturbs them."""
    flags = ("-m", str(CHAT_MODEL), "--threads", "1", "--slots", "2")
    with LocalServer(tmp_path_factory.mktemp("alone"), *flags) as server:
        async with client_of(server) as http:
            await wait_ready(http)

            async def call(method: str, arg: object) -> Any:
                return (await http.post(f"/canisters/llama_cpp/{method}", json=arg)).json()["Ok"]

            return [_text(await chat(call, f"c{i}", question)) for i, question in enumerate(QUESTIONS)]


def _text(records: list[Any]) -> str:
    return "".join(record["output"] for record in records[1:])


@pytest.fixture
def disturbed(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Chaos], None]]:
    """Lets something happen to a worker before, while and after it runs a call."""

    def disturb(chaos: Chaos) -> None:
        run = WorkerClient.run

        async def disturbed_run(client: WorkerClient, message: Run, on_text: OnText | None = None) -> Done:
            await chaos("before", client, message)
            task = asyncio.ensure_future(run(client, message, on_text))
            try:
                await chaos("in", client, message)
                done = await task
            finally:
                task.cancel()
            await chaos("after", client, message)
            return done

        monkeypatch.setattr(WorkerClient, "run", disturbed_run)

    return disturb  # type: ignore[return-value]


def kill(worker: Worker | WorkerClient) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(worker.ref.pid, signal.SIGKILL)


@pytest.mark.parametrize("n_kills", [3, pytest.param(200, marks=[pytest.mark.nightly, pytest.mark.timeout(3600)])])
async def test_workers_that_are_killed_at_any_moment(
    tmp_path: Path, texts: list[str], disturbed: Callable[[Chaos], None], n_kills: int
) -> None:
    chance, wanted, killed = random.Random(11), dict[bytes, str](), Counter[str]()
    n_calls, ids = 0, list[str]()

    async def chaos(stage: str, client: WorkerClient, message: Run) -> None:
        n = len(wanted)
        if message.job not in wanted:  # every fourth call is hit, once, at one stage after the other
            wanted[message.job] = ("before", "in", "after")[n // 4 % 3] if n % 4 == 1 else ""
        if wanted[message.job] != stage:
            return
        wanted[message.job] = ""
        if stage == "in":
            await asyncio.sleep(chance.random() * 0.02)
        killed[stage] += 1
        kill(client)
        if stage == "after":
            raise WorkerLost("the answer was lost on its way")

    # Calls that ran beside the one that was hit are lost with it, so that is no sign that they did it.
    async with herd_in(tmp_path, herd={"limits": Limits(max_tries=20)}) as herd:
        (payer,) = await open_with_money(herd, "payer", units=10**6)
        disturbed(chaos)
        first_cycles = await herd.herd.journal.cycles(herd.host.default.id)
        assert first_cycles is not None
        first_calls = await _calls(herd)
        while killed.total() < n_kills or len(killed) < 3:
            name = f"{killed.total()} c"
            paid = payer.post("/herd/inference", json={"prompt": QUESTIONS[0], "tokens": 8, "fee": "100"})
            *found, answer = await asyncio.gather(
                *(chat(herd.call, f"{name}{i}", question) for i, question in enumerate(QUESTIONS)), paid
            )
            assert [_text(records) for records in found] == texts, name
            n_calls += sum(map(len, found))
            assert answer.status_code == 200, answer.text
            ids.append(answer.json()["id"])

        calls = (await _calls(herd))[len(first_calls) :]
        assert sum(call.caller == herd.host.identity.principal for call in calls) == n_calls
        # What was settled has been paid for, once, and money neither came nor went.
        spent = sum(call.charge.cycles for call in calls if call.charge is not None)
        assert await herd.herd.journal.cycles(herd.host.default.id) == first_cycles - spent
        supply = await herd.herd.journal.supply()
        assert (supply.minted, supply.free, supply.held) == (10**6, 10**6, 0)
        assert (await herd.herd.journal.balance(OPERATOR)).free == 100 * len(set(ids))


async def _calls(herd: InProcess) -> list[Any]:
    """The herd's calls, oldest first."""
    found, before = list[Any](), None
    while page := await herd.herd.journal.call_log(herd.host.default.id, None, before, 1000):
        found += page
        before = page[-1].id
    return found[::-1]


async def test_a_job_that_kills_two_workers_is_not_tried_again(
    tmp_path: Path, disturbed: Callable[[Chaos], None]
) -> None:
    async def chaos(stage: str, client: WorkerClient, message: Run) -> None:
        if stage == "in" and b"poison" in message.arg:
            await asyncio.sleep(0.01)
            kill(client)
            raise WorkerLost("killed")

    async with herd_in(tmp_path) as herd:
        disturbed(chaos)
        response = await herd.post("run_update", {"args": ["-p", "poison", "-n", "4"]})
        assert response.status_code == 503
        assert response.json()["reject_code"] == 2
        assert "2 workers" in response.json()["reject_message"]
        assert "retry-after" in response.headers
        assert (await herd.call("run_update", {"args": ["-p", "hello", "-n", "4"]}))["output"]


async def test_a_worker_that_hangs_and_wakes_up(tmp_path: Path, texts: list[str]) -> None:
    """Its chats go on elsewhere. What it has done meanwhile changes nothing, also when it is asked again."""
    async with herd_in(tmp_path) as herd:
        before = asyncio.ensure_future(chat(herd.call, "c0", QUESTIONS[0]))
        busy = await _busy(herd)
        async with hung(busy):
            assert _text(await before) == texts[0]
            assert busy.phase == "silent"
        await until(lambda: busy.phase == "ready")
        others = [worker for worker in herd.workers if worker is not busy]
        for worker in others:
            await herd.herd.workers.drain(worker.id)
        assert _text(await chat(herd.call, "c1", QUESTIONS[1])) == texts[1]
        again = await herd.call("run_update", {"args": ["--prompt-cache", "c0.cache", "--prompt-cache-all", "-n", "1"]})
        assert again["output"] is not None


async def _busy(herd: InProcess) -> Worker:
    while True:
        for worker in herd.workers:
            if worker.jobs:
                return worker
        await asyncio.sleep(0)


@pytest.fixture
def own_postgresql() -> Iterator[PostgreSQL]:
    """One that may be killed."""
    try:
        with own_server() as server:
            yield server
    except NotHere as reason:
        pytest.skip(str(reason))


async def test_a_database_that_dies_loses_no_call_and_repeats_none(
    tmp_path: Path, texts: list[str], own_postgresql: PostgreSQL
) -> None:
    """Ends of calls wait until it is back; new calls are told to come again, and queries go on."""
    numbers, told = itertools.count(), Counter[int]()
    async with herd_in(tmp_path, herd={"journal": own_postgresql.url()}) as herd:

        async def call(method: str, arg: object) -> Any:
            key = f"call {next(numbers)}"
            while True:
                response = await herd.post(method, arg, key)
                told[response.status_code] += 1
                if response.status_code == 200:
                    return response.json()["Ok"]
                assert response.status_code == 503, response.text
                assert "retry-after" in response.headers
                await asyncio.sleep(0.1)

        running = [asyncio.ensure_future(chat(call, f"c{i}", question)) for i, question in enumerate(QUESTIONS)]
        await until(lambda: sum(worker.n_done for worker in herd.workers) > 4)
        await asyncio.to_thread(own_postgresql.kill)
        asked = await herd.call("run_query", {"args": ["-p", "hello", "-n", "3", "--temp", "0.0"]})
        assert asked["status_code"] == 200
        await asyncio.to_thread(own_postgresql.start)
        found = await asyncio.gather(*running)
        assert [_text(records) for records in found] == texts
        calls = await herd.herd.journal.call_log(herd.host.default.id, None, None, 1000)
        assert len(calls) == told[200] == sum(map(len, found))
