"""The server killed (SIGKILL) while answers are made: OpenAI's own client goes on, and its events are the same."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from canister.client.local_server import LocalServer
from tests.crash.test_kill import wait_until_ready
from tests.harness import CHAT_MODEL
from tests.server.doors.openai.responses.sdk import check_events

WANTED: dict[str, Any] = {
    "model": "llama_cpp",
    "input": "Tell me a long story about a boat, a canister and the sea.",
    "max_output_tokens": 90,
    "temperature": 1.1,
    "extra_body": {"seed": 11, "stop": ["no such words"]},
}
BOUND: dict[str, Any] = {
    "text": {
        "format": {
            "type": "json_schema",
            "name": "words",
            "schema": {"type": "array", "items": {"enum": ["a", "bc", "def"]}, "minItems": 12, "maxItems": 12},
        }
    },
    "include": ["message.output_text.logprobs"],
    "top_logprobs": 2,
}
CUT = ("usage", "created_at", "completed_at")  # times, and how the answer was cut into calls


@contextmanager
def client_of(server: LocalServer) -> Iterator[openai.OpenAI]:
    """It repeats by itself what a server answers whose model is not there yet: 503, and when to come again."""
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=server.api_key, max_retries=20, timeout=60) as client:
        yield client


@contextmanager
def served(folder: Path) -> Iterator[LocalServer]:
    with LocalServer(folder, "-m", str(CHAT_MODEL), "--slots", "2") as server:
        wait_until_ready(server)
        headers = {"Authorization": f"Bearer {server.api_key}"}
        limit = {"max_tokens_update": 5, "max_tokens_query": 5}  # so that there are many calls
        answer = httpx.post(f"{server.url}/set_max_tokens", json=limit, headers=headers, trust_env=False)
        assert answer.status_code == 200
        yield server


def comparable(value: Any, id: str) -> Any:
    """Without what another answer with the same tokens has differently."""
    if isinstance(value, dict):
        return {name: comparable(part, id) for name, part in value.items() if name not in CUT}
    if isinstance(value, list):
        return [comparable(part, id) for part in value]
    return value.replace(id, "ID") if isinstance(value, str) else value


def told(events: list[dict[str, Any]]) -> list[Any]:
    return [comparable(event, events[0]["response"]["id"].removeprefix("resp_")) for event in events]


def whole(client: openai.OpenAI, **more: Any) -> list[dict[str, Any]]:
    """All events of an answer in a stream that nobody breaks off."""
    return [event.to_dict(mode="json") for event in client.responses.create(**WANTED, **more, stream=True)]


def heard(stream: Any, server: LocalServer, dice: random.Random) -> list[dict[str, Any]]:
    """What comes until the server is killed, at some moment."""
    events: list[dict[str, Any]] = []
    n_most = dice.randint(1, 25)
    try:
        for event in stream:
            events.append(event.to_dict(mode="json"))
            if len(events) >= n_most:
                time.sleep(dice.uniform(0, 0.05))
                server.kill()
    except (httpx.HTTPError, openai.APIError):
        pass
    return events


def resumed(
    server: LocalServer, first: list[dict[str, Any]], dice: random.Random, n_kills: int
) -> list[dict[str, Any]]:
    """The events of an answer whose server is killed again and again, put together by number."""
    events, id = list(first), first[0]["response"]["id"]
    while True:
        server.kill()
        server.start()
        with client_of(server) as client:
            stream = client.responses.retrieve(id, stream=True, starting_after=events[-1]["sequence_number"])
            if n_kills:
                n_kills -= 1
                events += heard(stream, server, dice)
                continue
            events += [event.to_dict(mode="json") for event in stream]
            return events


def often(more: dict[str, Any], background: bool, seed: int) -> Any:
    """Two of the kinds each time, all of them and at many places nightly."""
    is_often = seed == 1 and background == (not more)
    name = f"{'bound' if more else 'free'}-{'background' if background else 'left'}-{seed}"
    return pytest.param(more, background, seed, id=name, marks=() if is_often else pytest.mark.nightly)


@pytest.mark.parametrize(
    ("more", "background", "seed"),
    [often(more, background, seed) for more in ({}, BOUND) for background in (True, False) for seed in range(1, 11)],
)
def test_killed_anywhere_a_stream_goes_on_with_the_same_events(
    tmp_path: Path, more: dict[str, Any], background: bool, seed: int
) -> None:
    dice = random.Random(seed)
    with served(tmp_path) as server:
        with client_of(server) as client:
            expected = told(whole(client, **more, background=background))
            stream = client.responses.create(**WANTED, **more, background=background, stream=True)
            first = heard(stream, server, dice)
        events = resumed(server, first, dice, n_kills=2)
        check_events(events)
        assert told(events) == expected
        with client_of(server) as client:
            id = first[0]["response"]["id"]
            assert [event.to_dict(mode="json") for event in client.responses.retrieve(id, stream=True)] == events
            final = client.responses.retrieve(id)
            assert final.to_dict(mode="json")["output"] == events[-1]["response"]["output"]


def test_one_of_the_background_is_made_by_the_next_server(tmp_path: Path) -> None:
    """Nobody asks for it in between; nor is what it had made again."""
    with served(tmp_path) as server:
        with client_of(server) as client:
            expected = client.responses.create(**WANTED)
            begun = client.responses.create(**WANTED, background=True)
            while client.responses.retrieve(begun.id).status == "queued":
                time.sleep(0.01)
        for _ in range(2):
            server.kill()
            server.start()
            wait_until_ready(server)
        with client_of(server) as client:
            while (done := client.responses.retrieve(begun.id)).status in ("queued", "in_progress"):
                time.sleep(0.02)
            assert done.output_text == expected.output_text
            assert done.status == expected.status


def test_a_key_joins_after_a_kill(tmp_path: Path) -> None:
    """The client knows no id: it sends its request again, as its retries do."""
    wanted = {**WANTED, "extra_headers": {"Idempotency-Key": "story"}}
    dice = random.Random(5)
    with served(tmp_path) as server:
        with client_of(server) as client:
            expected = told(whole(client))
            first = heard(client.responses.create(**wanted, stream=True), server, dice)
        for _ in range(2):
            server.kill()
            server.start()
            wait_until_ready(server)
            with client_of(server) as client:
                again = heard(client.responses.create(**wanted, stream=True), server, dice)
            shorter = min(len(first), len(again))
            assert again[:shorter] == first[:shorter]
        server.kill()
        server.start()
        wait_until_ready(server)
        with client_of(server) as client:
            events = [event.to_dict(mode="json") for event in client.responses.create(**wanted, stream=True)]
        assert events[: len(first)] == first
        assert told(events) == expected


def test_what_was_removed_stays_away(tmp_path: Path) -> None:
    with served(tmp_path) as server:
        with client_of(server) as client:
            begun = client.responses.create(**WANTED, background=True)
            client.responses.delete(begun.id)
        server.kill()
        server.start()
        wait_until_ready(server)
        with client_of(server) as client, pytest.raises(openai.NotFoundError):
            client.responses.retrieve(begun.id)
