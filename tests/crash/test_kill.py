"""The server killed (SIGKILL) between and within calls: what was acknowledged is there, and nothing is half there."""

from __future__ import annotations

import concurrent.futures
import hashlib
import itertools
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

from canister.client.local_server import LocalServer
from canister.engine.llama_build import start_backend
from canister.ops.doctor import examine
from tests.crash.makers import Maker, folders
from tests.engine.conftest import MAKERS
from tests.harness import STORY_MODEL, needs_story_model
from tests.smoke.conftest import Json, Wire

FLAGS = ("--prompt-cache", "chat.cache", "--temp", "0.8", "--seed", "5", "-sp")
PROMPT = "Once upon a time there was a small boat"
READY_SECONDS = 240.0


@contextmanager
def wire_to(server: LocalServer) -> Iterator[Wire]:
    wire = Wire(server.url, "llama_cpp", server.api_key)
    with wire.http:
        yield wire


def wait_until_ready(server: LocalServer) -> None:
    """Until the models are back, as /readyz tells it."""
    end = time.monotonic() + READY_SECONDS
    while time.monotonic() < end:
        if httpx.get(f"{server.url}/readyz", trust_env=False).status_code == 200:
            return
        time.sleep(0.02)
    raise AssertionError("the server did not become ready")


def begin(wire: Wire, model: Path = STORY_MODEL) -> None:
    wire.upload("models/tiny.gguf", model.read_bytes())
    wire.ok("load_model", {"args": ["--model", "models/tiny.gguf"]})
    wire.ok("set_max_tokens", {"max_tokens_update": 3, "max_tokens_query": 0})


def chat(wire: Wire, before_each: Callable[[], None], prompt: str) -> list[Json]:
    """What nine calls answer."""
    records: list[Json] = []
    for _ in range(9):
        before_each()
        unfinished = not records or records[-1]["n_prompt_tokens_remaining"]
        records.append(wire.run(*FLAGS, "-p", prompt if unfinished else ""))
    return records


def often(name: str) -> object:
    return name if name == "lfm2 q4_k_m" else pytest.param(name, marks=pytest.mark.nightly)


@pytest.mark.parametrize(
    "model",
    [
        pytest.param("story", marks=needs_story_model),
        *(often(f"{kind} {name}") for kind in MAKERS for name in ("q8_0", "q4_k_m", "f16")),
    ],
)
@pytest.mark.parametrize("every", [4, pytest.param(1, marks=pytest.mark.nightly)])
def test_killed_between_any_two_calls_the_chat_goes_on_as_if_nothing_had_been(
    model: str, every: int, tmp_path: Path
) -> None:
    """every: so many calls between two kills."""
    file, prompt = STORY_MODEL, PROMPT
    if model != "story":
        kind, file_type = model.split()
        start_backend()
        file, prompt = MAKERS[kind](tmp_path / f"{kind}.gguf", file_type), "w1 w2 w3 w4"
    with LocalServer(tmp_path / "calm") as server, wire_to(server) as wire:
        begin(wire, file)
        expected = chat(wire, lambda: None, prompt)

    with LocalServer(tmp_path / "killed") as server, wire_to(server) as wire:
        begin(wire, file)

        before = itertools.count(1)

        def kill() -> None:
            if next(before) % every == 0:  # the fourth call is in the middle of the prompt, the eighth in the answer
                server.kill()
                server.start()

        assert chat(wire, kill, prompt) == expected
    assert expected[-1]["n_tokens_generated"] > 0


@needs_story_model
@pytest.mark.parametrize("n_kills", [8, pytest.param(200, marks=[pytest.mark.nightly, pytest.mark.timeout(3600)])])
def test_killed_at_random_moments_under_chats_uploads_and_new_canisters(tmp_path: Path, n_kills: int) -> None:
    """All go on; after each kill what was answered is there, every text is the right one, and nothing leaks."""
    names = [f"chat-{n}" for n in range(3)]
    flags = {name: ("--temp", "0.9", "--seed", str(n), "-sp") for n, name in enumerate(names)}
    prompts = {name: f"{PROMPT} {name}" for name in names}
    whole: dict[str, str] = {}
    with LocalServer(tmp_path / "calm") as server, wire_to(server) as wire:
        begin(wire)
        wire.ok("set_max_tokens", {"max_tokens_update": 0, "max_tokens_query": 0})
        for name in names:
            whole[name] = wire.run("-p", prompts[name], "-n", "80", *flags[name])["conversation"]

    stop = threading.Event()
    answered = dict.fromkeys([*names, "uploads"], 0)

    def talk(wire: Wire, name: str) -> None:
        cache = ("--prompt-cache", name)
        known = 0  # tokens that the chat has for certain
        while not stop.is_set():
            try:
                record = wire.run(*cache, *flags[name], "-p", prompts[name] if known == 0 or known > 90 else "")
            except httpx.HTTPError:
                time.sleep(0.01)
                continue
            assert record["n_prompt_tokens_cached"] >= min(known, record["n_prompt_tokens"])
            text = record["conversation"]
            shorter = min(len(text), len(whole[name]))
            assert text[:shorter] == whole[name][:shorter]
            if record["n_prompt_tokens_remaining"]:
                known = 0  # the whole prompt is to be sent again
            else:
                known = record["n_prompt_tokens"] + record["n_tokens_generated"]
            answered[name] += 1

    def upload(wire: Wire) -> None:
        data = os.urandom(3_000_000)
        confirmed = 0
        while not stop.is_set():
            try:
                known = wire.call("uploaded_file_details", {"filename": "big.bin"}).document.get("Ok")
                size = known["filesize"] if known else 0
                assert size >= confirmed, "acknowledged bytes are gone"
                if known:
                    assert known["filesha256"] == hashlib.sha256(data[:size]).hexdigest()
                if size == len(data):
                    confirmed = 0  # the removal may be done although its answer is lost
                    wire.ok("filesystem_remove", {"filename": "big.bin"})
                    continue
                url = f"/files/big.bin?offset={size}"
                response = wire.http.put(url, content=data[size : size + 50_000])
                if response.status_code == 200:
                    confirmed = response.json()["Ok"]["filesize"]
                    answered["uploads"] += 1
            except httpx.HTTPError:
                time.sleep(0.01)

    dice = random.Random(1)
    with LocalServer(tmp_path / "killed") as server, ExitStack() as stack:
        wires = [stack.enter_context(wire_to(server)) for _ in range(len(names) + 2)]
        begin(wires[0])
        pool = stack.enter_context(concurrent.futures.ThreadPoolExecutor())
        work = [pool.submit(talk, wire, name) for wire, name in zip(wires, names, strict=False)]
        work.append(pool.submit(upload, wires[-2]))
        maker = Maker(server)
        work.append(pool.submit(maker.work, stop))
        try:
            for _ in range(n_kills):
                time.sleep(dice.uniform(0.05, 0.8))
                server.kill()
                server.start()
            end = time.monotonic() + READY_SECONDS
            while not (all(answered.values()) and maker.n_acked) and time.monotonic() < end:
                time.sleep(0.05)
        finally:
            stop.set()
        for done in work:
            done.result(timeout=60)
        assert all(answered.values()), answered
        assert maker.n_acked
        wait_until_ready(server)
        maker.check()
        assert maker.listed() == folders(server.data_dir)
    n_answered = sum(answered.values()) + maker.n_acked
    print(f"\n{n_kills} kills, {n_answered} answered calls, {len(maker.deleted)} canisters deleted, nothing lost")
    # The server has stopped: everything on its disk is known, whole, and what its checksums say.
    found = examine(tmp_path / "killed")
    assert found.findings == []
    assert found.n_containers == len(names)
    for folder in (tmp_path / "killed" / "canisters").iterdir():
        assert not list((folder / "staging").iterdir())
