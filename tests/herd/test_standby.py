"""A second door on the same journal: it passes calls on to the leader, and leads when that one is gone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from canister.api import codec
from canister.api.methods import BY_NAME
from canister.api.records import InputRecord
from canister.client.local_server import LocalServer
from canister.errors import Conflict
from canister.herd import shared_keys
from canister.herd.journal import Journal
from canister.state.api_keys import open_keys
from canister.system.data_dir import CONTROLLER_KEY
from tests.herd.herds import LINES, client_of, herd_process, wait_ready
from tests.herd.test_leaders import IcCaller, until_it_runs
from tests.traces import until_so

pytestmark = pytest.mark.anyio

RUN = ["--prompt-cache-all", "-p", "Who are you?", "-n", "24", "--temp", "0.9", "--seed", "7"]


@pytest.fixture
def doors(tmp_path: Path, postgresql_url: str) -> Iterator[tuple[LocalServer, LocalServer]]:
    """The leader, and the one that stands by."""
    flags = ("--journal", postgresql_url, "--objects", str(tmp_path / "objects"))
    with (
        herd_process(tmp_path / "one", *flags, workers=1) as leader,
        herd_process(tmp_path / "two", *flags, workers=1) as standby,
    ):
        yield leader, standby


async def _ask(http: httpx.AsyncClient, name: str) -> Any:
    """Send a call with its key until somebody answers it."""
    args = ["--prompt-cache", f"{name}.cache", *RUN]
    while True:
        try:
            answer = await http.post(
                "/canisters/llama_cpp/run_update", json={"args": args}, headers={"Idempotency-Key": name}
            )
        except httpx.TransportError:
            await asyncio.sleep(0.1)
            continue
        if answer.status_code == 200:
            return answer.json()["Ok"]
        assert answer.status_code == 503, answer.text
        assert answer.headers["retry-after"]
        await asyncio.sleep(0.1)


async def test_the_one_that_stands_by_leads_next(doors: tuple[LocalServer, LocalServer], postgresql_url: str) -> None:
    """All interfaces through it; then the leader is killed under calls: each is answered, and was run once."""
    leader, standby = doors
    async with client_of(leader) as first, client_of(standby, leader.api_key) as http:
        await wait_ready(http)
        status = await until_so(lambda: _with_standby(http))
        assert status["leader"]["address"] == leader.url
        assert [door["address"] for door in status["standing_by"]] == [standby.url]
        assert (await http.get("/healthz")).json()["door"] == "standby"  # whoever leads

        said = await _ask(http, "before")
        assert said == await _ask(first, "before")
        target = "/canisters/llama_cpp/run_update"
        args = {"args": ["-p", "Who are you?", "-n", "12", "--temp", "0"]}
        async with http.stream("POST", target, json=args, headers={"Accept": LINES}) as stream:
            lines = [json.loads(line) async for line in stream.aiter_lines()]
        assert len(lines) > 3
        assert "".join(line.get("text", "") for line in lines[:-1] if not line.get("echo")) in lines[-1]["Ok"]["output"]
        body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4, "model": "any"}
        answer = await http.post("/v1/chat/completions", json=body)
        assert answer.status_code == 200, answer.text
        refused = await http.post(target, json=args, headers={"Authorization": ""})
        assert refused.status_code == 401  # nobody becomes a door by coming through it
        opened = await http.post("/canisters/llama_cpp/set_access", json={"level": 1})
        assert opened.status_code == 200, opened.text
        key = (await first.post("/keys", json={"name": "later"})).json()["key"]
        await _until_it_is_shared(postgresql_url, b"later")

        caller = IcCaller(http, (await http.get("/canisters/llama_cpp")).json()["id"])
        sent = [await caller.send("run_update", InputRecord(args=RUN)) for _ in range(2)]
        assert [one[1] for one in sent] == [202, 202]
        names = [f"under{n}" for n in range(3)]
        running = [asyncio.create_task(_ask(http, name)) for name in names]
        await until_it_runs(first)
        leader.kill()
        found = [*await asyncio.gather(*running), await _ask(http, "before")]
        assert found == [said] * 4  # chats of one prompt and seed, and an answer that the first leader gave

        for request, _, body_again in sent:
            how, reply = await caller.ended(request)
            assert how == "replied"
            assert codec.decode_reply(BY_NAME["run_update"], reply or b"").value.n_tokens_generated
            assert await caller.send_again(body_again) == 202
        calls = (await http.post("/canisters/llama_cpp/get_call_log", json={"max_entries": 100})).json()["Ok"]
        by_us = [call for call in calls if call["method"] == "run_update"]
        assert len(by_us) == 2 + len(sent) + len(names)  # a whole answer is in the log of its worker
        status = (await http.get("/herd/status")).json()
        assert (status["epoch"], status["leader"]["address"]) == (2, standby.url)
        asked = await http.get("/canisters/llama_cpp/whoami", headers={"Authorization": f"Bearer {key}"})
        assert asked.status_code == 200, asked.text
        assert standby.api_key == leader.api_key


async def _with_standby(http: httpx.AsyncClient) -> Any:
    """The herd's status, once it names one that stands by: which passes calls on before that is noted."""
    status = (await http.get("/herd/status")).json()
    return status if status["standing_by"] else None


async def _until_it_is_shared(url: str, name: bytes) -> None:
    journal = await Journal.open(url)
    while True:
        if name in (await journal.shared()).get(shared_keys.API_KEYS, b""):
            return await journal.close()
        await asyncio.sleep(0.05)


def test_a_folder_of_another_herd_is_not_taken_over(tmp_path: Path) -> None:
    """Its keys stay; an empty one gets the herd's."""
    shared = {CONTROLLER_KEY: b"key of the herd\n"}
    (tmp_path / "new").mkdir()
    shared_keys.take(tmp_path / "new", shared)
    assert (tmp_path / "new" / CONTROLLER_KEY).read_bytes() == shared[CONTROLLER_KEY]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / CONTROLLER_KEY).write_bytes(b"its own")
    with pytest.raises(Conflict, match=r"controller\.key is not the one that this herd has.*--data-dir"):
        shared_keys.take(tmp_path / "other", shared)
    assert (tmp_path / "other" / CONTROLLER_KEY).read_bytes() == b"its own"


def test_api_keys_are_taken_once_from_whoever_led(tmp_path: Path) -> None:
    """A key that was made in the folder of the last leader, while nobody led, is not undone at its next start."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    with open_keys(tmp_path / "one") as keys:
        key = keys.create("caller")
        copy = keys.copy()
    shared = {shared_keys.API_KEYS: copy}
    shared_keys.take(tmp_path / "two", shared)
    with open_keys(tmp_path / "two") as keys:
        assert keys.find(key) is not None
        own = keys.create("made-here")
    shared_keys.take(tmp_path / "two", shared)
    with open_keys(tmp_path / "two") as keys:
        assert keys.find(own) is not None
        keys.revoke("caller")
        later = keys.copy()
    shared_keys.take(tmp_path / "two", {shared_keys.API_KEYS: copy})
    with open_keys(tmp_path / "one") as keys:
        keys.put(later)
        assert keys.find(key) is None
        assert keys.find(own) is not None
