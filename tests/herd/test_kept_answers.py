"""Responses that a herd keeps: made in the background whichever worker or leader dies, had again from any worker."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from canister.api.herd_requests import AnswerQuery
from canister.herd.kept_answers import KeptAnswers
from canister.herd.launch import local
from canister.herd.proxy import worker_of
from canister.herd.told_events import ToldEvents
from canister.herd.tries import Tries
from canister.herd.workers import Worker
from tests.herd.at_events import SignalAt, maker
from tests.herd.herds import QUESTIONS, InProcess, herd_in
from tests.traces import until

pytestmark = pytest.mark.anyio

ASKED = {"input": QUESTIONS[0], "max_output_tokens": 60, "temperature": 0.9, "seed": 7, "ignore_eos": True}
BACKGROUND = {**ASKED, "background": True}


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def herd(tmp_path_factory: pytest.TempPathFactory, anyio_backend: str) -> AsyncIterator[InProcess]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(local, "MAX_PAUSE_SECONDS", 0.05)
        async with herd_in(tmp_path_factory.mktemp("herd")) as herd:
            yield herd


async def rested(herd: InProcess) -> None:
    """Both workers are there, and no answer of another test is still being made."""
    await herd.ready(2)
    await until(lambda: not any(one.n_answers for one in herd.workers))


async def made(herd: InProcess, body: object, **headers: str) -> dict[str, Any]:
    response = await herd.http.post("/v1/responses", json=body, headers=headers)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


async def had(herd: InProcess, id: str) -> dict[str, Any]:
    response = await herd.http.get(f"/v1/responses/{id}")
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


async def ended(herd: InProcess, id: str) -> dict[str, Any]:
    while True:
        found = await had(herd, id)
        if found["status"] not in ("queued", "in_progress"):
            return found
        await asyncio.sleep(0.02)


def text_of(response: dict[str, Any]) -> str:
    return "".join(part["text"] for item in response["output"] for part in item["content"])


async def charged(herd: InProcess) -> tuple[int, int | None]:
    """Calls of answers in the herd's log, and its cycles."""
    log = await herd.call("get_call_log", {"max_entries": 1000})
    return sum(entry["method"] == "generate" for entry in log), await herd.herd.journal.cycles(herd.host.default.id)


async def kill(herd: InProcess, id: str) -> None:
    (worker,) = (one for one in herd.workers if one.id == id)
    os.kill(worker.ref.pid, signal.SIGKILL)
    await until(lambda: worker.is_gone)


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_an_answer_in_the_background_goes_on_at_another_worker_and_is_charged_once(
    herd: InProcess, monkeypatch: pytest.MonkeyPatch, is_streamed: bool
) -> None:
    """Its client is gone from the start."""
    await rested(herd)
    n_before, cycles = await charged(herd)
    wanted = await made(herd, {**ASKED, "store": False})
    n_once, left = await charged(herd)
    killed = SignalAt(herd, monkeypatch, 12)
    if is_streamed:
        async with herd.http.stream("POST", "/v1/responses", json={**BACKGROUND, "stream": True}) as response:
            lines = response.aiter_lines()
            async for line in lines:
                if line.startswith("data: "):
                    id = json.loads(line.removeprefix("data: "))["response"]["id"]
                    break
    else:
        begun = await made(herd, BACKGROUND)
        assert begun["status"] == "queued"
        id = begun["id"]
    found = await ended(herd, id)
    assert killed.worker is not None
    assert killed.worker.is_gone
    assert (found["status"], text_of(found)) == (wanted["status"], text_of(wanted))
    assert found["background"] is True
    await until(lambda: not any(one.n_answers for one in herd.workers))
    n_after, rest = await charged(herd)
    assert n_after > n_once > n_before
    assert cycles is not None
    assert left is not None
    assert rest is not None
    assert left - rest == found["usage"]["cycles"] > 0


async def test_a_kept_answer_is_had_from_another_worker_when_its_own_is_gone(herd: InProcess) -> None:
    """Object, items and events, with the ids that they had; a conversation goes on with it, and it can be deleted."""
    await rested(herd)
    first = await made(herd, ASKED)
    id = first["id"]
    items = (await herd.http.get(f"/v1/responses/{id}/input_items")).json()
    events = (await herd.http.get(f"/v1/responses/{id}?stream=true&starting_after=5")).text
    assert "response.completed" in events or "response.incomplete" in events
    n_before = await charged(herd)
    await kill(herd, worker_of(herd.herd, herd.host.identity.principal).id)
    again = await had(herd, id)
    assert {**again, "completed_at": None} == {**first, "completed_at": None}
    assert (await herd.http.get(f"/v1/responses/{id}/input_items")).json() == items
    assert (await herd.http.get(f"/v1/responses/{id}?stream=true&starting_after=5")).text == events
    assert await charged(herd) == n_before
    await rested(herd)
    for _ in range(2):  # whichever worker goes on with it
        next_one = await made(herd, {**ASKED, "previous_response_id": id})
        listed = (await herd.http.get(f"/v1/responses/{next_one['id']}/input_items")).json()["data"]
        assert len(listed) == len(items["data"]) + 2
        await kill(herd, worker_of(herd.herd, herd.host.identity.principal).id)
    await rested(herd)
    assert (await herd.http.delete(f"/v1/responses/{id}")).json()["deleted"] is True
    of = AnswerQuery(herd.host.default.id, herd.host.identity.principal, id)
    for worker in herd.workers:
        assert await worker.client.answer(of) is None
    gone = await herd.http.get(f"/v1/responses/{id}")
    assert (gone.status_code, gone.json()["error"]["message"][:18]) == (404, "there is no answer")


async def test_a_copy_that_comes_back_after_its_answer_was_deleted_is_not_shown(herd: InProcess) -> None:
    await rested(herd)
    id = (await made(herd, ASKED))["id"]
    of = AnswerQuery(herd.host.default.id, herd.host.identity.principal, id)
    copies = [await worker.client.answer(of) for worker in herd.workers]
    copy = next(copy for copy in copies if copy is not None)
    assert (await herd.http.delete(f"/v1/responses/{id}")).status_code == 200
    for worker in herd.workers:
        await worker.client.put_answer(of, copy)
    assert (await herd.http.get(f"/v1/responses/{id}")).status_code == 404


@pytest.fixture
async def short_calls(herd: InProcess) -> AsyncIterator[None]:
    """An answer takes many calls."""
    await rested(herd)
    await herd.call("set_max_tokens", {"max_tokens_update": 4, "max_tokens_query": 4})
    yield
    await herd.call("set_max_tokens", {"max_tokens_update": 0, "max_tokens_query": 0})


@pytest.mark.usefixtures("short_calls")
async def test_an_answer_in_the_background_is_cancelled_wherever_it_is_made(
    herd: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also after it has moved. What there was of it is kept, and its calls that had ended are charged."""
    await rested(herd)
    n_before, _ = await charged(herd)
    killed, stopped = SignalAt(herd, monkeypatch, 12), SignalAt(herd, monkeypatch, 40, signal.SIGSTOP)
    id = (await made(herd, {**BACKGROUND, "max_output_tokens": 3000}))["id"]
    await until(lambda: stopped.worker is not None)
    assert killed.worker is not None
    assert stopped.worker is not None
    assert killed.worker.is_gone
    cancelling = asyncio.create_task(herd.http.post(f"/v1/responses/{id}/cancel"))
    await asyncio.wait([cancelling], timeout=0.2)  # it cannot end before the worker goes on
    os.kill(stopped.worker.ref.pid, signal.SIGCONT)
    response = await cancelling
    assert (response.status_code, response.json()["status"]) == (200, "cancelled")
    assert not any(one.n_answers for one in herd.workers)
    await rested(herd)
    await kill(herd, worker_of(herd.herd, herd.host.identity.principal).id)
    found = await had(herd, id)
    assert (found["status"], text_of(found)) == ("cancelled", text_of(response.json()))
    assert text_of(found)
    n_after, _ = await charged(herd)
    assert n_after > n_before


async def test_an_answer_that_nobody_reads_yet_may_become_another_one(
    herd: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a herd whose model is not exact."""
    await rested(herd)
    monkeypatch.setattr(Worker, "is_exact", lambda worker, canister: False)
    killed = SignalAt(herd, monkeypatch, 12)
    id = (await made(herd, BACKGROUND))["id"]
    found = await ended(herd, id)
    assert killed.worker is not None
    assert text_of(found)
    assert found["status"] in ("completed", "incomplete")


async def test_an_answer_that_is_lost_with_two_workers_tells_so(
    herd: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rested(herd)
    n_before = await charged(herd)
    killed: list[Worker] = []
    take = ToldEvents.take

    def told(events: ToldEvents, data: bytes) -> bytes:
        new = take(events, data)
        worker = maker(herd)
        if new and len(killed) < 2 and worker not in killed:
            killed.append(worker)
            os.kill(worker.ref.pid, signal.SIGKILL)
        return new

    monkeypatch.setattr(ToldEvents, "take", told)
    id = (await made(herd, {**BACKGROUND, "max_output_tokens": 3000}))["id"]

    async def failed() -> httpx.Response:
        while True:
            response = await herd.http.get(f"/v1/responses/{id}")
            if response.status_code != 200 and "nothing of it was kept" in response.text:
                return response
            await asyncio.sleep(0.02)

    assert (await failed()).status_code == 503
    assert len(killed) == 2
    assert await charged(herd) == n_before


@pytest.mark.parametrize("at", [(Tries, "settle_answer"), (KeptAnswers, "settle")], ids=["before", "in between"])
async def test_an_answer_in_the_background_goes_on_under_the_next_leader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: tuple[type, str]
) -> None:
    """Before its calls are settled and after that, it is charged once."""
    reached = asyncio.Event()

    async def held(*_: object) -> None:
        reached.set()
        await asyncio.Event().wait()

    async with herd_in(tmp_path, 1) as herd:
        first = await made(herd, {**ASKED, "store": False})
        n_once, _ = await charged(herd)
        with monkeypatch.context() as patched:
            patched.setattr(*at, held)
            id = (await made(herd, BACKGROUND))["id"]
            await reached.wait()
            n_first, paid = await charged(herd)
            assert (n_first > n_once) == (at[1] == "settle")
            await herd.herd.leader.close()  # so that nothing settles it meanwhile
    async with herd_in(tmp_path, 1) as herd:
        found = await ended(herd, id)
        assert (found["id"], text_of(found)) == (id, text_of(first))
        await until(lambda: not any(one.n_answers for one in herd.workers))
        is_charged_here = n_first == n_once
        cost = (found["usage"]["calls"], -found["usage"]["cycles"]) if is_charged_here else (0, 0)
        assert paid is not None
        assert await charged(herd) == (n_first + cost[0], paid + cost[1])
