"""Workers of a herd as processes on socket files: killed, started again, and taking turns on one chat."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from canister.api import herd_requests, herd_wire
from canister.api.herd_frames import FrameReader, Text
from canister.api.herd_wire import Conflict, Run
from canister.client.http_library import open_client
from canister.client.local_server import LocalServer
from canister.store.container import CacheFile
from canister.store.heads import head_of
from tests.harness import CHAT_MODEL, someone
from tests.server.doors.herd_leader import Leader, Ran, WorkerClient, client_of, worker_server
from tests.server.served import CHAT

pytestmark = pytest.mark.anyio

PROMPT = CHAT.format("Who are you?")
HOT = ("--temp", "0.9")
SEED = 4711
MODEL = ("-m", str(CHAT_MODEL))


@asynccontextmanager
async def started(folder: Path, worker: str, *flags: str) -> AsyncIterator[tuple[LocalServer, WorkerClient]]:
    """A worker with the shipped model."""
    server = worker_server(folder, worker, *MODEL, *flags)
    await asyncio.to_thread(server.start)
    try:
        async with client_of(server, worker) as client:
            await ready(server)
            yield server, client
    finally:
        await asyncio.to_thread(server.kill)


async def ready(server: LocalServer) -> None:
    """Its model is loaded."""

    def wait() -> None:
        with open_client(server.url, 60) as http:
            while http.get("/readyz").status_code != 200:
                pass

    async with asyncio.timeout(60):
        await asyncio.to_thread(wait)


def leader_of(server: LocalServer) -> Leader:
    with open_client(server.url, 60) as http:
        return Leader(http.get("/whoami", headers={"Authorization": f"Bearer {server.api_key}"}).json())


def metric(server: LocalServer, name: str) -> int:
    with open_client(server.url, 60) as http:
        lines = http.get("/metrics", headers={"Authorization": f"Bearer {server.api_key}"}).text.splitlines()
    return sum(int(float(line.split()[-1])) for line in lines if line.startswith(f"{name}{{"))


def rows(server: LocalServer, statement: str, *values: object) -> list[tuple[object, ...]]:
    """Of the database of the worker's canister."""
    (path,) = (server.data_dir / "canisters").glob("*/canister.db")
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        return connection.execute(statement, values).fetchall()


def is_recorded(server: LocalServer, job: Run) -> bool:
    """Is the job committed?"""
    return bool(rows(server, "SELECT 1 FROM requests WHERE id = ?", job.job))


async def until_recorded(server: LocalServer, job: Run) -> None:
    async with asyncio.timeout(60):
        while not is_recorded(server, job):  # noqa: ASYNC110  another process brings it about
            await asyncio.sleep(0.001)


async def spoken(worker: WorkerClient, job: Run) -> None:
    """Return once a job has said something."""
    body = herd_wire.encode(job)
    headers = worker.headers("POST", herd_requests.RUN, body)
    async with worker.http.stream("POST", herd_requests.RUN, content=body, headers=headers) as response:
        assert response.status_code == 200
        reader = FrameReader()
        async for data in response.aiter_raw():
            if any(isinstance(frame, Text) for frame in reader.feed(data)):
                return


async def undisturbed(worker: WorkerClient, leader: Leader, n_calls: int) -> list[Ran]:
    """A chat of so many calls."""
    return [
        await leader.call(worker, leader.chat_job("straight", PROMPT if i == 0 else "", *HOT)) for i in range(n_calls)
    ]


async def test_killed_before_and_after_the_commit(tmp_path: Path) -> None:
    """Each job counts once, and the texts are those of a chat that nothing disturbed."""
    async with started(tmp_path, "w1") as (server, worker):
        leader = leader_of(server)
        await leader.control(worker, "set_max_tokens", {"max_tokens_update": 20, "max_tokens_query": 20})
        straight = await undisturbed(worker, leader, 4)
        leader.epoch = 7
        for i in range(4):
            job = leader.chat_job("killed", PROMPT if i == 0 else "", *HOT, stream=True)
            if i % 2:
                await spoken(worker, job)
            else:
                asked = asyncio.create_task(worker.run(job))
                await until_recorded(server, job)
            await asyncio.to_thread(server.kill)
            if not i % 2:
                await asyncio.wait([asked])  # whether the answer came or not, the leader has lost it
                asked.exception()
            was_committed = is_recorded(server, job)
            await asyncio.to_thread(server.start)
            await ready(server)
            assert (await worker.state()).epoch == 7
            again = await leader.call(worker, job)
            assert again.done.replayed == was_committed
            assert was_committed or i % 2
            assert again.run == straight[i].run
        assert leader.head("killed") == leader.head("straight")
        assert (await worker.state()).canisters[0].rev == leader.rev
        await asyncio.to_thread(server.stop)
        counted = rows(server, "SELECT count(*), sum(cycles) FROM call_log WHERE method = 'run_update'")
        charged = [ran.done.charge.cycles for ran in straight if ran.done.charge is not None]
        # The names of the chats differ, and the bytes of an argument cost something.
        assert counted[0][0] == 2 * len(straight)
        assert abs(int(str(counted[0][1])) - 2 * sum(charged)) < 2 * len(straight) * 2000 * 8


async def test_an_old_leader_does_not_count_after_a_crash(tmp_path: Path) -> None:
    async with started(tmp_path, "w1") as (server, worker):
        leader = leader_of(server)
        old = leader.chat_job("x", PROMPT)
        leader.epoch = 9
        await leader.control(worker, "chats_pause")
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.start)
        told = await worker.run(old)
        assert isinstance(told, Conflict)
        assert (told.why, told.epoch, told.rev) == ("epoch", 9, leader.rev)


@pytest.mark.parametrize("with_rows", [True, False])
async def test_two_workers_take_turns_on_a_chat(with_rows: bool, tmp_path: Path) -> None:
    """The text is that of one plain server. Where KV rows move with the chat, nothing is decoded twice."""
    n_turns = 6
    async with AsyncExitStack() as stack:
        plain = LocalServer(tmp_path / "plain", *MODEL, "--slots", "2", "--threads", "1", "--instruction-limit", "none")
        await asyncio.to_thread(plain.start)
        stack.callback(plain.kill)
        await ready(plain)
        servers, workers = zip(
            *[await stack.enter_async_context(started(tmp_path, name)) for name in ("w1", "w2")], strict=True
        )
        leaders = [leader_of(server) for server in servers]
        limits = {"max_tokens_update": 12, "max_tokens_query": 12}
        for leader, worker in zip(leaders, workers, strict=True):
            await leader.control(worker, "set_max_tokens", limits)
            # The caller is one that all workers know.
            await leader.control(worker, "set_access", {"level": 1, "explanation": ""})
        leader = replace(leaders[0], caller=someone(0))
        expected = texts_of(plain, limits, n_turns)
        # The chat of somebody else that never moves: however a container came to be written, the head is the same.
        other, heads = replace(leader, caller=someone(1), chats={}), []
        for i in range(n_turns):
            await other.call(workers[0], other.chat_job("straight", prompt_of_turn(i), *HOT, seed=SEED))
            heads.append(other.head("straight"))
        before = [metric(server, "canister_engine_prompt_tokens_total") for server in servers]

        found = []
        for i in range(n_turns):
            here, there = workers[i % 2], workers[(i + 1) % 2]
            job = leader.chat_job("shared", prompt_of_turn(i), *HOT, seed=SEED)
            if i:
                told = await here.run(job)
                assert isinstance(told, Conflict)
                assert (told.why, told.path) == ("head", leader.path("shared"))
                container = None
                if with_rows:
                    fetched = await there.get("llama_cpp", leader.caller, leader.path("shared"), rows=True)
                    assert fetched is not None
                    assert fetched[1] == leader.head("shared")
                    container = fetched[0]
                await leader.bring(here, leader.path("shared"), container)
            found.append((await leader.call(here, job)).run.conversation)
            assert leader.head("shared") == heads[i]
        assert found == expected

        after = [metric(server, "canister_engine_prompt_tokens_total") for server in servers]
        n_prefilled = sum(after) - sum(before)
        chat = leader.chats[leader.path("shared")]
        n_prompt = int((~chat.generated).sum())
        if with_rows:
            # The prompt once, and of each move the last token, for its logits.
            assert n_prefilled <= n_prompt + leader.n_moved
        else:
            assert n_prefilled > n_prompt + leader.n_moved
            # Rows of what a worker had already are kept: only what the other one made is decoded anew.
            assert n_prefilled <= 2 * len(chat.tokens) + leader.n_moved
        fetched = await workers[1].get("llama_cpp", leader.caller, leader.path("shared"), rows=True)
        assert fetched is not None
        assert fetched[1] == head_of(CacheFile.parse(fetched[0])) == head_of(chat)


def prompt_of_turn(i: int) -> str:
    """The first two calls take the prompt in."""
    return PROMPT if i < 2 else ""


def texts_of(plain: LocalServer, limits: dict[str, int], n_turns: int) -> list[str | None]:
    """The same chat on one plain server."""
    key = {"Authorization": f"Bearer {plain.api_key}"}
    found = []
    with httpx.Client(base_url=plain.url, headers=key, timeout=60) as http:
        assert http.post("/set_max_tokens", json=limits).status_code == 200
        for i in range(n_turns):
            args = ["-p", prompt_of_turn(i), "--prompt-cache", "shared", "--prompt-cache-all", *HOT]
            response = http.post("/run_update", json={"args": [*args, "--seed", str(SEED)]})
            found.append(response.json()["Ok"]["conversation"])
    return found


@pytest.mark.nightly
async def test_killed_at_any_time(tmp_path: Path) -> None:
    """Fifty kills under one chat: the text is that of a chat that nothing disturbed, and each job counts once."""
    draws = random.Random(1)
    n_calls = 50
    async with started(tmp_path, "w1") as (server, worker):
        leader = leader_of(server)
        await leader.control(worker, "set_max_tokens", {"max_tokens_update": 8, "max_tokens_query": 8})
        began = time.monotonic()
        straight = await undisturbed(worker, leader, n_calls)
        seconds = (time.monotonic() - began) / n_calls
        n_replayed = 0
        for i, expected in enumerate(straight):
            job = leader.chat_job("killed", PROMPT if i == 0 else "", *HOT)
            asked = asyncio.create_task(worker.run(job))
            await asyncio.sleep(draws.uniform(0, 1.5 * seconds))
            await asyncio.to_thread(server.kill)
            await asyncio.wait([asked])
            asked.exception()
            await asyncio.to_thread(server.start)
            await ready(server)
            again = await leader.call(worker, job)
            n_replayed += again.done.replayed
            assert again.run == expected.run
        assert leader.head("killed") == leader.head("straight")
        assert 0 < n_replayed < n_calls
        counted = rows(server, "SELECT count(*) FROM call_log WHERE method = 'run_update'")
        assert counted == [(2 * n_calls,)]
