"""Whole answers in front of a herd: what a client gets is what it would have got, whichever worker dies meanwhile."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest

from canister.errors import CanisterBusy
from canister.herd.control import ControlLog
from canister.herd.launch import local
from canister.herd.proxy import worker_of
from canister.herd.told_events import ToldEvents
from canister.herd.tries import Tries
from canister.herd.whole_answers import Asked, Live, WholeAnswers
from canister.herd.worker_client import WorkerClient
from canister.herd.workers import Worker
from canister.ic.receipts import check, document
from tests.herd.at_events import SignalAt
from tests.herd.herds import QUESTIONS, InProcess, herd_in
from tests.traces import until

pytestmark = pytest.mark.anyio

CHAT = {"messages": [{"role": "user", "content": QUESTIONS[0]}], "max_tokens": 40, "temperature": 0.9, "seed": 7}
STREAMED = {**CHAT, "stream": True, "stream_options": {"include_usage": True}}
# Its worker is killed long before it has told all, however late its herd gets to read what it has told.
LONG_STREAM = {**STREAMED, "max_tokens": 1500, "ignore_eos": True}


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def herd(tmp_path_factory: pytest.TempPathFactory, anyio_backend: str) -> AsyncIterator[InProcess]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(local, "MAX_PAUSE_SECONDS", 0.05)  # they are killed again and again
        async with herd_in(tmp_path_factory.mktemp("herd")) as herd:
            yield herd


async def asked(herd: InProcess, path: str, body: object, **headers: str) -> bytes:
    response = await herd.http.post(path, json=body, headers=headers)
    assert response.status_code == 200, response.text
    return response.content


def lasting(value: Any) -> Any:
    """What two requests for the same have in common: all but ids, times and costs."""
    passing = {"id", "created", "created_at", "timings", "usage", "response_id", "item_id"}
    passing |= {name for name in value if name.endswith("duration")} if isinstance(value, dict) else set()
    if isinstance(value, dict):
        return {name: lasting(one) for name, one in value.items() if name not in passing}
    return [lasting(one) for one in value] if isinstance(value, list) else value


def events(content: bytes) -> list[Any]:
    """The contents of the events, or lines, of a stream."""
    lines = (line.removeprefix("data: ") for line in content.decode().splitlines())
    return [lasting(json.loads(line)) for line in lines if line.startswith("{")]


BODIES = {
    "/v1/chat/completions": STREAMED,
    "/v1/completions": {"prompt": ["Once", "Tell me"], "max_tokens": 20, "seed": 7, "n": 2, "stream": True},
    "/v1/responses": {"input": QUESTIONS[0], "max_output_tokens": 30, "stream": True, "store": False},
    "/v1/messages": {"messages": CHAT["messages"], "max_tokens": 30, "stream": True, "model": "any"},
    "/api/chat": {"messages": CHAT["messages"], "options": {"num_predict": 30, "seed": 7}, "model": "any"},
    "/completion": {"prompt": "Once", "n_predict": 30, "seed": 7, "stream": True},
}


@pytest.mark.parametrize("path", BODIES)
async def test_a_stream_goes_on_at_another_worker(herd: InProcess, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    body = {"temperature": 0, **BODIES[path]}
    await herd.ready(2)
    wanted = events(await asked(herd, path, body))
    assert len(wanted) > 8
    kill = SignalAt(herd, monkeypatch, random.Random(path).randrange(2, len(wanted) - 3))
    found = events(await asked(herd, path, body))
    assert kill.worker is not None
    by_choice = lambda event: event.get("choices", [event])[0].get("index", 0) if event.get("choices") else 0  # noqa: E731
    assert sorted(found, key=by_choice) == sorted(wanted, key=by_choice)


async def n_logged(herd: InProcess) -> int:
    """Calls that answers have taken, by the herd's call log."""
    log = await herd.call("get_call_log", {"max_entries": 1000})
    return sum(entry["method"] == "generate" for entry in log)


async def check_receipts(herd: InProcess, ids: list[str]) -> None:
    key = herd.host.root_key.public_key_der
    for id in ids:
        response = await herd.http.get(f"/canisters/llama_cpp/receipts/{id}")
        assert response.status_code == 200, response.text
        proven = check.check(document.read(response.content)[0], key, id)
        assert proven.record.method == "generate"


async def test_a_whole_answer_is_made_again_and_its_calls_count_once(herd: InProcess) -> None:
    body = {**CHAT, "max_tokens": 300, "ignore_eos": True}
    await herd.ready(2)
    wanted = json.loads(await asked(herd, "/v1/chat/completions", body))
    n_before = await n_logged(herd)
    answer = asyncio.create_task(herd.http.post("/v1/chat/completions", json=body))
    await until(lambda: any(one.n_answers for one in herd.workers))
    (worker,) = (one for one in herd.workers if one.n_answers)
    os.kill(worker.ref.pid, signal.SIGKILL)
    response = await answer
    assert response.status_code == 200, response.text
    found = response.json()
    await until(lambda: worker.is_gone)  # a worker that was done by then is missed later than its answer came
    assert lasting(found) == lasting(wanted)
    usage = found["usage"]
    assert len(usage["receipts"]) == usage["calls"] >= 1
    assert response.headers["content-length"] == str(len(response.content))
    assert response.headers["x-ic-receipts"] == ", ".join(usage["receipts"])
    assert await n_logged(herd) == n_before + usage["calls"]
    await check_receipts(herd, usage["receipts"])


async def test_receipts_in_a_stream_are_those_of_the_herd(herd: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    await herd.ready(2)
    n_before = await n_logged(herd)
    cycles = await herd.herd.journal.cycles(herd.host.default.id)
    kill = SignalAt(herd, monkeypatch, 12)
    content = (await asked(herd, "/v1/chat/completions", STREAMED)).decode()
    assert kill.worker is not None
    (usage,) = (chunk["usage"] for chunk in map(json.loads, _data(content)) if chunk.get("usage"))
    await check_receipts(herd, usage["receipts"])
    assert await n_logged(herd) == n_before + usage["calls"]
    left = await herd.herd.journal.cycles(herd.host.default.id)
    assert cycles is not None
    assert left is not None
    assert cycles - left >= usage["cycles"] > 0


def _data(content: str) -> list[str]:
    lines = content.splitlines()
    return [line.removeprefix("data: ") for line in lines if line.startswith("data: {")]


async def test_a_worker_that_ends_in_order_lets_its_answer_go_on_elsewhere(
    herd: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it could still say that it stops."""
    await herd.ready(2)
    wanted = events(await asked(herd, "/v1/chat/completions", STREAMED))
    kill = SignalAt(herd, monkeypatch, 10, signal.SIGTERM)
    assert events(await asked(herd, "/v1/chat/completions", STREAMED)) == wanted
    assert kill.worker is not None


async def test_an_inexact_answer_ends_with_an_error(herd: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    await herd.ready(2)
    monkeypatch.setattr(Worker, "is_exact", lambda worker, canister: False)
    kill = SignalAt(herd, monkeypatch, 12)
    content = (await asked(herd, "/v1/chat/completions", LONG_STREAM)).decode()
    assert kill.worker is not None
    last = json.loads(_data(content)[-1])
    assert "not exact" in last["error"]["message"]
    assert "[DONE]" not in content


async def test_an_answer_with_a_key_is_the_same_at_every_worker(
    herd: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also without a seed of its own, and after the worker that has it is gone. It is charged once."""
    await herd.ready(2)
    body = {**CHAT, "seed": None, "temperature": 1.5}
    first = json.loads(await asked(herd, "/v1/chat/completions", body, **{"Idempotency-Key": "one"}))
    n_charged, cycles = await n_logged(herd), await cycles_of(herd)
    (worker,) = (one for one in herd.workers if one.id == kept_at(herd))
    os.kill(worker.ref.pid, signal.SIGKILL)
    await until(lambda: worker.is_gone)
    again = json.loads(await asked(herd, "/v1/chat/completions", body, **{"Idempotency-Key": "one"}))
    assert (again["id"], again["choices"]) == (first["id"], first["choices"])
    assert (await n_logged(herd), await cycles_of(herd)) == (n_charged, cycles)
    unlike = await herd.http.post("/v1/chat/completions", json=CHAT, headers={"Idempotency-Key": "one"})
    assert (unlike.status_code, unlike.json()["error"]["code"]) == (422, "idempotency_key_reused")
    other = json.loads(await asked(herd, "/v1/chat/completions", body, **{"Idempotency-Key": "two"}))
    assert other["id"] != first["id"]


async def cycles_of(herd: InProcess) -> int | None:
    return await herd.herd.journal.cycles(herd.host.default.id)


def watched_listeners(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The answer that each request listens to."""
    found: list[object] = []
    joined = WholeAnswers._joined

    def watched(answers: WholeAnswers, asked: Asked) -> Live:
        found.append(live := joined(answers, asked))
        return live

    monkeypatch.setattr(WholeAnswers, "_joined", watched)
    return found


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_an_answer_with_a_key_is_made_once_for_all_who_ask_at_the_same_time(
    herd: InProcess, monkeypatch: pytest.MonkeyPatch, is_streamed: bool
) -> None:
    """Also when the second one would be asked of another worker, since the first one's worker leaves."""
    await herd.ready(2)
    key = {"Idempotency-Key": f"twice {is_streamed}"}
    body = {**CHAT, "seed": None, "max_tokens": 200, "ignore_eos": True, "stream": is_streamed}
    n_before, cycles = await n_logged(herd), await cycles_of(herd)
    settled, may_end = Settled(monkeypatch), asyncio.Event()
    settled.after = may_end.wait
    listeners = watched_listeners(monkeypatch)
    first = asyncio.create_task(asked(herd, "/v1/chat/completions", body, **key))
    await until(lambda: any(one.n_answers for one in herd.workers))
    (worker,) = (one for one in herd.workers if one.n_answers)
    worker.is_draining = True
    assert kept_at(herd) != worker.id
    second = asyncio.create_task(asked(herd, "/v1/chat/completions", body, **key))
    unlike = await herd.http.post("/v1/chat/completions", json=CHAT, headers=key)
    assert (unlike.status_code, unlike.json()["error"]["code"]) == (422, "idempotency_key_reused")
    await until(lambda: len(listeners) == 2)
    assert listeners[0] is listeners[1]
    may_end.set()
    assert await first == await second
    worker.is_draining = False
    assert settled.numbers == list(range(len(settled.numbers)))
    assert await n_logged(herd) == n_before + len(settled.numbers) > n_before
    left = await cycles_of(herd)
    assert cycles is not None
    assert left is not None
    again = await asked(herd, "/v1/chat/completions", body, **key)
    assert events(again) == events(await second) if is_streamed else json.loads(again)["choices"]
    assert await cycles_of(herd) == left < cycles


def kept_at(herd: InProcess) -> str:
    """The worker of this caller's requests."""
    return worker_of(herd.herd, herd.host.identity.principal).id


async def test_an_answer_with_a_key_goes_on_without_its_client(herd: InProcess) -> None:
    await herd.ready(2)
    n_before = await n_logged(herd)
    headers = {"Idempotency-Key": "left"}
    request = asyncio.create_task(herd.http.post("/v1/chat/completions", json=CHAT, headers=headers))
    await until(lambda: any(one.n_answers for one in herd.workers))
    request.cancel()
    await until(lambda: not any(one.n_answers for one in herd.workers))
    assert await n_logged(herd) > n_before


async def test_a_worker_of_a_version_before_answers_too(herd: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not know of frames. What it has begun cannot go on elsewhere, and says so."""
    passed_on = WorkerClient.passed_on

    def without(client: WorkerClient, *args: Any) -> Any:
        return passed_on(client, *args[:5])

    await herd.ready(2)
    wanted = events(await asked(herd, "/v1/chat/completions", STREAMED))
    monkeypatch.setattr(WorkerClient, "passed_on", without)
    assert events(await asked(herd, "/v1/chat/completions", STREAMED)) == wanted
    kill = SignalAt(herd, monkeypatch, 2)
    content = (await asked(herd, "/v1/chat/completions", LONG_STREAM)).decode()
    assert kill.worker is not None
    assert "send the request again" in json.loads(_data(content)[-1])["error"]["message"]


async def test_an_answer_waits_for_the_updates_before_it(herd: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are answered before the workers have run them."""
    await herd.ready(2)
    feed, may_feed = ControlLog._feed_canister, asyncio.Event()

    async def held(control: ControlLog, worker: Worker, canister: str) -> None:
        await may_feed.wait()
        await feed(control, worker, canister)

    monkeypatch.setattr(ControlLog, "_feed_canister", held)
    await herd.call("set_max_tokens", {"max_tokens_update": 0, "max_tokens_query": 0})
    with pytest.raises(CanisterBusy):
        kept_at(herd)
    answer = asyncio.create_task(asked(herd, "/v1/chat/completions", CHAT))
    await asyncio.wait([answer], timeout=0.2)
    assert not answer.done()
    may_feed.set()
    assert json.loads(await answer)["choices"]


class Leaving:
    """A client that closes its connection once `leave` is set. It is told nothing, and `gone` when the door is through
    with it.
    """

    def __init__(self, herd: InProcess) -> None:
        transport = herd.http._transport
        assert isinstance(transport, httpx.ASGITransport)
        self.app, self.headers = transport.app, herd.http.headers
        self.leave, self.gone = asyncio.Event(), asyncio.Event()

    async def ask(self, path: str, body: object) -> None:
        request = httpx.Request("POST", f"http://localhost{path}", json=body, headers=self.headers)
        is_read = False

        async def receive() -> dict[str, Any]:
            nonlocal is_read
            if is_read:
                await self.leave.wait()
                return {"type": "http.disconnect"}
            is_read = True
            return {"type": "http.request", "body": request.content}

        async def send(message: Any) -> None:
            """To nobody."""

        scope = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http"}
        headers = [(name.lower(), value) for name, value in request.headers.raw]
        at = {"path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "", "headers": headers}
        await self.app({**scope, **at, "server": ("localhost", 80), "client": ("127.0.0.1", 1)}, receive, send)
        self.gone.set()


class Settled:
    """What the herd settles of answers. numbers: of their calls. after: awaited when some are settled."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.numbers: list[int] = []
        self.after: Callable[[], Awaitable[object]] | None = None
        settle = Tries.settle_answer

        async def settled(tries: Tries, *args: Any) -> list[str]:
            ids = await settle(tries, *args)
            self.numbers += [number for number, _ in args[4]]
            if self.after is not None:
                await self.after()
            return ids

        monkeypatch.setattr(Tries, "settle_answer", settled)


@pytest.fixture
async def short_calls(herd: InProcess) -> AsyncIterator[None]:
    """An answer takes many calls."""
    await herd.ready(2)
    await herd.call("set_max_tokens", {"max_tokens_update": 8, "max_tokens_query": 8})
    yield
    await herd.call("set_max_tokens", {"max_tokens_update": 0, "max_tokens_query": 0})


@pytest.mark.usefixtures("short_calls")
async def test_a_client_that_goes_away_pays_for_what_it_had(herd: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    n_before, settled, take, n_left = await n_logged(herd), Settled(monkeypatch), ToldEvents.take, 30

    def told(events: ToldEvents, data: bytes) -> bytes:
        nonlocal n_left
        n_left -= data.count(b"data: ")
        if n_left <= 0:
            client.leave.set()
        return take(events, data)

    monkeypatch.setattr(ToldEvents, "take", told)
    client = Leaving(herd)
    await client.ask("/v1/chat/completions", {**STREAMED, "max_tokens": 300, "ignore_eos": True})
    assert client.leave.is_set()
    await until(lambda: len(settled.numbers) >= 2 and not any(one.n_answers for one in herd.workers))
    assert settled.numbers == list(range(len(settled.numbers)))
    assert await n_logged(herd) == n_before + len(settled.numbers)


@pytest.mark.usefixtures("short_calls")
async def test_a_client_that_goes_away_while_its_calls_are_settled_pays_once(
    herd: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    n_before, settled, client = await n_logged(herd), Settled(monkeypatch), Leaving(herd)

    async def left() -> None:
        client.leave.set()
        await client.gone.wait()
        await until(lambda: not any(one.n_answers for one in herd.workers))

    settled.after = left
    await client.ask("/v1/chat/completions", STREAMED)
    await until(lambda: not any(task.get_name() == "calls of a whole answer" for task in asyncio.all_tasks()))
    assert settled.numbers == list(range(len(settled.numbers)))
    assert len(settled.numbers) >= 2
    assert await n_logged(herd) == n_before + len(settled.numbers)


async def test_a_call_that_waits_for_answers_begins_when_one_ends(herd: InProcess) -> None:
    await herd.ready(2)
    async with AsyncExitStack() as held:
        for worker in herd.workers:
            while worker.load(herd.host.default.id).has_room:
                await held.enter_async_context(worker.answering())
        call = asyncio.create_task(herd.call("run_update", {"args": ["-p", "Once", "-n", "1"]}))
        await until(lambda: herd.herd.leader.n_queued == 1)
    assert (await call)["generated_eog"] is not None
