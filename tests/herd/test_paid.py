"""The paid queue through its door: quotes, order by price, money that is held, settled or given back, never made."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from canister.api.herd_wire import Done, Run
from canister.herd.jobs import Job
from canister.herd.journal import OPERATOR
from canister.herd.leader import Limits
from canister.herd.tries import Tries
from canister.herd.worker_client import OnText, WorkerClient, WorkerLost
from canister.herd.workers import Worker
from tests.herd.herds import PROMPT, InProcess, herd_in
from tests.traces import until

pytestmark = pytest.mark.anyio

QUESTION = "What is the meaning of life?"


async def open_with_money(herd: InProcess, *names: str, units: int = 1000) -> list[httpx.AsyncClient]:
    """Callers who may infer, each with so much money."""
    await herd.call("set_access", {"level": 1})
    clients = []
    for name in names:
        key = herd.host.keys.create(name, replace=True)
        known = herd.host.keys.get(name)
        assert known is not None
        await herd.herd.journal.mint(known.principal, units)
        headers = {"Authorization": f"Bearer {key}"}
        at: Any = {"transport": herd.http._transport, "base_url": "http://localhost", "timeout": 300}
        clients.append(httpx.AsyncClient(headers=headers, **at))
    return clients


async def balance(client: httpx.AsyncClient) -> tuple[int, int]:
    found = (await client.get("/herd/balance")).json()
    return int(found["free"]), int(found["held"])


async def test_an_answer_is_quoted_paid_for_and_kept(tmp_path: Path) -> None:
    async with herd_in(tmp_path, 1) as herd:
        (payer,) = await open_with_money(herd, "payer")
        body = {"prompt": QUESTION, "tokens": 5}
        quoted = (await herd.http.post("/herd/quote", json=body)).json()
        assert (quoted["words"], quoted["needed"], quoted["fee"]) == (6, "12", "12")
        response = await payer.post("/herd/inference", json={**body, "fee": "24"}, headers={"Idempotency-Key": "k"})
        assert response.status_code == 200, response.text
        answer = response.json()
        assert (answer["fee"], answer["multiplier"]) == ("24", 2.0)
        assert 1 <= answer["tokens"] <= 5
        again = await payer.post("/herd/inference", json={**body, "fee": "24"}, headers={"Idempotency-Key": "k"})
        assert again.json() == answer
        assert (await payer.get(f"/herd/inference/{answer['id']}")).json() == answer
        assert await balance(payer) == (976, 0)
        assert (await herd.herd.journal.balance(OPERATOR)).free == 24
        info = (await herd.http.get("/herd/info")).json()
        assert (info["last_multiplier"], info["queue_length"], info["workers"]) == (2.0, 0, 1)
        supply = await herd.herd.journal.supply()
        assert supply.minted == supply.free + supply.held == 1000
        left = await herd.herd.journal.oldest_chats(herd.host.default.id, 99)
        assert left == []  # the chat that it was made in is gone


async def test_the_answer_has_as_many_tokens_as_were_paid_for(shared: InProcess) -> None:
    """Also where one call may not take so many: it is a chain of calls."""
    (payer,) = await open_with_money(shared, "chain")
    whole = {"prompt": PROMPT.format("Tell me a story."), "tokens": 20, "multiplier": 1.5}
    at_once = (await payer.post("/herd/inference", json=whole)).json()
    await shared.call("set_max_tokens", {"max_tokens_update": 7, "max_tokens_query": 7})
    answer = (await payer.post("/herd/inference", json=whole)).json()
    await shared.call("set_max_tokens", {"max_tokens_update": 0, "max_tokens_query": 0})
    assert (answer["tokens"], answer["ended"]) == (20, False)
    assert answer["output"].startswith("Once upon a time")
    assert answer["output"] == at_once["output"]


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        ({"prompt": QUESTION, "tokens": 0}, 400, "1 to 2048"),
        ({"prompt": QUESTION, "tokens": -1}, 400, "1 to 2048"),
        ({"prompt": "", "tokens": 5}, 400, "prompt"),
        ({"prompt": QUESTION, "tokens": 5, "fee": "11"}, 400, "needs 12"),
        ({"prompt": QUESTION, "tokens": 5, "fee": "5000"}, 402, "5000"),
        ({"prompt": QUESTION, "tokens": 5, "multiplier": "much"}, 400, "multiplier"),
    ],
)
async def test_what_is_refused_costs_nothing(shared: InProcess, body: Any, status: int, told: str) -> None:
    (payer,) = await open_with_money(shared, "refused", units=1)
    before = await balance(payer)
    response = await payer.post("/herd/inference", json=body)
    assert response.status_code == status, response.text
    assert told in response.json()["reject_message"]
    assert await balance(payer) == before


@pytest.fixture(scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> Any:
    async with herd_in(tmp_path_factory.mktemp("herd"), 1) as herd:
        yield herd


@dataclass(slots=True)
class Held:
    """A worker that is held by calls, in front of those who pay. begun: their names, in the order of their tries."""

    begun: list[str] = field(default_factory=list)
    may_go: asyncio.Event = field(default_factory=asyncio.Event)
    calls: list[asyncio.Task[Any]] = field(default_factory=list)

    async def let_go(self) -> None:
        self.may_go.set()
        await asyncio.gather(*self.calls)


async def hold(herd: InProcess, monkeypatch: pytest.MonkeyPatch, payers: Iterable[str]) -> Held:
    """Hold the only worker of a herd."""
    held, run = Held(), Tries.run
    names = {known.principal: name for name in payers if (known := herd.host.keys.get(name)) is not None}

    async def watched(tries: Tries, job: Job, worker: Worker) -> Done:
        if b"hold" in job.arg:
            await held.may_go.wait()
        elif job.caller in names:
            held.begun.append(names[job.caller])
        return await run(tries, job, worker)

    monkeypatch.setattr(Tries, "run", watched)
    asked = {"args": ["-p", "hold", "-n", "1"]}
    held.calls = [asyncio.create_task(herd.call("run_update", asked)) for _ in range(3)]
    await until(lambda: not herd.herd.leader.n_queued and len(herd.workers[0].jobs) == 3)
    return held


async def test_dearer_jobs_run_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At one worker, behind a call that holds it: 36, 24, 24, 18, 12 of 12 needed, equals as they came."""
    async with herd_in(tmp_path, 1, slots=1) as herd:
        fees = {"a": 12, "b": 24, "c": 36, "d": 24, "e": 18}
        payers = await open_with_money(herd, *fees)
        held = await hold(herd, monkeypatch, fees)
        jobs = []
        for client, fee in zip(payers, fees.values(), strict=True):
            body = {"prompt": QUESTION, "tokens": 5, "fee": str(fee)}
            jobs.append(asyncio.create_task(client.post("/herd/inference", json=body)))
            await until(lambda: herd.herd.leader.n_queued == len(jobs))
        await held.let_go()
        assert all(response.status_code == 200 for response in await asyncio.gather(*jobs))
        assert list(dict.fromkeys(held.begun)) == ["c", "b", "d", "e", "a"]


async def test_who_pays_more_while_a_job_waits_is_served_earlier(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 12, 24, 36 of 12 needed the first becomes 48; what is refused moves nothing."""
    async with herd_in(tmp_path, 1, slots=1) as herd:
        fees = {"a": 12, "b": 24, "c": 36}
        payers = await open_with_money(herd, *fees, units=100)
        held = await hold(herd, monkeypatch, fees)
        answers = []
        for client, fee in zip(payers, fees.values(), strict=True):
            body = {"prompt": QUESTION, "tokens": 5, "fee": str(fee)}
            key = {"Idempotency-Key": "k"}
            answers.append(asyncio.create_task(client.post("/herd/inference", json=body, headers=key)))
            await until(lambda: herd.herd.leader.n_queued == len(answers))
        (own,) = (await payers[0].get("/herd/inference")).json()["jobs"]
        assert (own["fee"], own["multiplier"], own["status"]) == ("12", 1.0, "queued")
        everything = (await herd.http.get("/herd/inference")).json()["jobs"]
        assert [job["fee"] for job in everything] == ["36", "24", "12"]
        page = (await herd.http.get("/herd/inference", params={"limit": 2})).json()
        rest = (await herd.http.get("/herd/inference", params={"limit": 2, "after": page["next"]})).json()
        assert (page["jobs"], rest["jobs"], rest["next"]) == (everything[:2], everything[2:], None)
        wrong = await herd.http.get("/herd/inference", params={"limit": "all"})
        assert (wrong.status_code, "limit: 'all' is no number" in wrong.text) == (400, True)

        place = f"/herd/inference/{own['id']}/fee"
        for client, fee, status, told in (
            (payers[1], "48", 404, "no such job"),  # another's
            (payers[0], "11", 400, "needs 12"),
            (payers[0], "101", 402, "89"),
            (payers[0], "much", 400, "smallest units"),
        ):
            refused = await client.post(place, json={"fee": fee})
            assert refused.status_code == status, refused.text
            assert told in refused.text
        assert await balance(payers[0]) == (88, 12)
        raised = (await payers[0].post(place, json={"fee": "30"})).json()
        assert (raised["fee"], raised["multiplier"], raised["status"]) == ("30", 2.5, "queued")
        raised = (await herd.http.post(place, json={"fee": "48"})).json()  # a controller may, too
        assert (await payers[0].post(place, json={"fee": "48"})).json() == raised
        lower = await payers[0].post(place, json={"fee": "47"})
        assert lower.status_code == 400
        assert "holds 48" in lower.text
        assert await balance(payers[0]) == (52, 48)
        assert herd.herd.leader.by_multiplier() == [(4.0, 1), (3.0, 1), (2.0, 1)]

        await held.let_go()
        told = [response.json() for response in await asyncio.gather(*answers)]
        assert list(dict.fromkeys(held.begun)) == ["a", "c", "b"]
        assert [(one["fee"], one["multiplier"]) for one in told] == [("48", 4.0), ("24", 2.0), ("36", 3.0)]
        again = await payers[0].post(
            "/herd/inference", json={"prompt": QUESTION, "tokens": 5, "fee": "12"}, headers={"Idempotency-Key": "k"}
        )
        assert again.json() == told[0]
        assert await balance(payers[0]) == (52, 0)
        late = await payers[0].post(place, json={"fee": "60"})
        assert late.status_code == 409
        supply = await herd.herd.journal.supply()
        assert supply.minted == supply.free + supply.held == 300


async def test_a_job_that_cannot_be_answered_is_refunded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = WorkerClient.run

    async def killed(client: WorkerClient, message: Run, on_text: OnText | None = None) -> Done:
        if message.method != "run_update":
            return await run(client, message, on_text)
        os.kill(client.ref.pid, signal.SIGKILL)
        raise WorkerLost("killed")

    async with herd_in(tmp_path, 1, herd={"limits": Limits(max_tries=1)}) as herd:
        (payer,) = await open_with_money(herd, "payer")
        monkeypatch.setattr(WorkerClient, "run", killed)
        response = await payer.post("/herd/inference", json={"prompt": QUESTION, "tokens": 5})
        assert response.status_code == 503
        assert response.json()["reject_code"] == 2
        assert await balance(payer) == (1000, 0)
        kinds = [payment.kind for payment in await herd.herd.journal.payments()]
        assert kinds == ["refund", "hold", "mint"]


async def test_a_job_that_waits_too_long_is_refunded(tmp_path: Path) -> None:
    async with herd_in(tmp_path, 1, herd={"ttl_seconds": 0.5}) as herd:
        (payer,) = await open_with_money(herd, "payer")
        for worker in herd.workers:
            await herd.herd.workers.drain(worker.id)
        response = await payer.post("/herd/inference", json={"prompt": QUESTION, "tokens": 5})
        assert response.status_code == 503
        assert "in time" in response.json()["reject_message"]
        assert await balance(payer) == (1000, 0)
