"""`canister probe`: the search, its manners towards the canister, and a real server that traps."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from canister.api.records import EstimateRecord
from canister.client.errors import Rejected
from canister.client.local_server import LocalServer
from canister.client.probe import DoesNotTrap, Probe, largest
from canister.client.rest import Canister
from tests.cli.conftest import Command
from tests.harness import STORY_MODEL, needs_story_model

pytestmark = pytest.mark.anyio

BEFORE = {"max_tokens_update": 7, "max_tokens_query": 3}
N_PROMPT = 20


@given(st.integers(0, 300), st.integers(1, 300))
async def test_the_search_finds_the_largest(answer: int, guess: int) -> None:
    asked: list[int] = []

    async def fits(n: int) -> bool:
        assert n > 0
        asked.append(n)
        return n <= answer

    assert await largest(fits, guess) == answer
    assert len(asked) == len(set(asked))
    if guess == answer:
        assert len(asked) == 2


@dataclass
class Trapping:
    """A canister that decodes at most `most` tokens in a call, and has room for `room` after the prompt."""

    most: int
    predicted: int
    room: int = 1000
    traps: bool = True
    limits: dict[str, int] = field(default_factory=lambda: dict(BEFORE))
    caches: dict[str, int] = field(default_factory=dict)

    def client(self) -> Canister:
        return Canister("http://127.0.0.1:1", "fake", transport=httpx.MockTransport(self._answer))

    def _answer(self, request: httpx.Request) -> httpx.Response:
        arg = json.loads(request.content or b"{}")
        args = arg.get("args", [])
        flags = dict(pairwise(args))
        match request.url.path.rpartition("/")[2]:
            case "get_max_tokens":
                return httpx.Response(200, json=self.limits)
            case "set_max_tokens":
                self.limits = arg
                return _ok(status_code=200)
            case "copy_prompt_cache":
                self.caches[arg["to"]] = self.caches[arg["from"]]
                return _ok(status_code=200)
            case "remove_prompt_cache":
                self.caches.pop(flags["--prompt-cache"], None)
                return _ok(**_record())
            case "estimate_run":
                return _ok(**_estimate(self.predicted))
            case "run_update":
                return self._run(flags["--prompt-cache"], flags["-p"])
        raise AssertionError(request.url.path)

    def _run(self, cache: str, prompt: str) -> httpx.Response:
        start = self.caches.get(cache, 0)
        n = min(self.limits["max_tokens_update"], (N_PROMPT if prompt else N_PROMPT + self.room) - start)
        if n > self.most and self.traps:
            reject = {"reject_code": 5, "error_code": "IC0522", "reject_message": "exceeded the limit"}
            return httpx.Response(429, json=reject)
        n = min(n, self.most)
        self.caches[cache] = start + n
        if not prompt:
            return _ok(**_record(n_tokens_generated=n))
        remaining = N_PROMPT - start - n
        return _ok(**_record(n_prompt_tokens=N_PROMPT, n_prompt_tokens_decoded=n, n_prompt_tokens_remaining=remaining))


def _ok(**record: Any) -> httpx.Response:
    return httpx.Response(200, json={"Ok": record})


def _record(**counts: int) -> dict[str, Any]:
    texts = {"output": "", "conversation": "", "error": "", "prompt_remaining": "", "generated_eog": False}
    return {"status_code": 200, **texts, **counts}


def _estimate(max_generate: int) -> dict[str, Any]:
    return dict.fromkeys(EstimateRecord.model_fields, 0) | {
        "fits": True,
        "parts": [],
        "estimated": [],
        "max_generate": max_generate,
    }


@pytest.mark.parametrize("most", [1, 2, 5, 64])
@pytest.mark.parametrize("predicted", [0, 5, 90])
async def test_what_traps_is_found_whatever_was_predicted(most: int, predicted: int) -> None:
    fake = Trapping(most, predicted)
    async with fake.client() as client:
        found = await Probe(client).find("Who are you?")
    assert (found.cached_tokens, found.most_tokens, found.traps_at) == (N_PROMPT, most, most + 1)
    assert (found.predicted_most_tokens, found.predicted_traps_at) == (predicted, predicted + 1)
    assert (fake.limits, fake.caches) == (BEFORE, {})


@pytest.mark.parametrize("predicted", [0, 30, 40])
async def test_a_full_context_does_not_trap(predicted: int) -> None:
    async with Trapping(100, predicted, room=30).client() as client:
        found = await Probe(client).find("Who are you?")
    assert (found.most_tokens, found.traps_at) == (30, None)
    assert (found.predicted_traps_at is None) == (predicted == 30)


async def test_a_canister_that_does_not_trap() -> None:
    fake = Trapping(5, 5, traps=False)
    async with fake.client() as client:
        with pytest.raises(DoesNotTrap, match="--budget-policy trap"):
            await Probe(client).find("Who are you?")
    assert (fake.limits, fake.caches) == (BEFORE, {})


async def test_a_canister_in_which_nothing_fits() -> None:
    fake = Trapping(0, 0)
    async with fake.client() as client:
        with pytest.raises(Rejected):
            await Probe(client).find("Who are you?")
    assert (fake.limits, fake.caches) == (BEFORE, {})


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    """The story model, and room for some twenty tokens in a call."""
    flags = ("--instruction-limit", "150000000", "--budget-policy", "trap")
    with LocalServer(tmp_path_factory.mktemp("trapping") / "data", *flags) as server:
        headers = {"Authorization": f"Bearer {server.api_key}"}
        with httpx.Client(base_url=server.url, headers=headers, timeout=60, trust_env=False) as http:
            http.put("/canisters/llama_cpp/files/story.gguf", content=STORY_MODEL.read_bytes()).raise_for_status()
            http.post("/load_model", json={"args": ["--model", "story.gguf"]}).raise_for_status()
        yield server


@needs_story_model
@pytest.mark.parametrize("flags", ["", "--repeat-penalty 1.1"])
def test_found_is_what_was_predicted(canister: Command, server: LocalServer, flags: str) -> None:
    done = canister("probe", "--url", server.url, "--api-key", server.api_key, "--args", flags, "--json")
    assert (done.code, done.err) == (0, "")
    found = json.loads(done.out)
    assert found["most_tokens"] == found["predicted_most_tokens"] > 1
    assert found["traps_at"] == found["predicted_traps_at"] == found["most_tokens"] + 1
    assert found["n_trials"] == 2
    assert estimate(canister, found["cached_tokens"], flags)["max_generate"] == found["most_tokens"]
    assert list(server.data_dir.glob("canisters/*/stable/.canister_cache/*/sessions/probe-*")) == []


@needs_story_model
def test_numbers_side_by_side(canister: Command, server: LocalServer) -> None:
    done = canister("probe", "--url", server.url, "--api-key", server.api_key)
    assert done.code == 0
    rows = [line.rsplit(maxsplit=2) for line in done.out.splitlines()[2:]]
    assert rows[0] == ["found", "predicted"]
    assert [row[0] for row in rows[1:]] == ["most tokens in a call", "traps at max_tokens"]
    assert all(found == predicted for _, found, predicted in rows[1:])


@needs_story_model
def test_who_may_not_set_the_limits_may_not_probe(canister: Command, server: LocalServer) -> None:
    done = canister("probe", "--url", server.url, "--anonymous")
    assert (done.code, done.out) == (1, "")
    assert "Access Denied" in done.err


def test_an_empty_prompt_is_wrong_usage(canister: Command) -> None:
    done = canister("probe", "--url", "http://127.0.0.1:1", "--prompt", "")
    assert (done.code, done.out) == (2, "")
    assert "--prompt is empty" in done.err


def estimate(canister: Command, n_tokens: int, flags: str) -> Any:
    tokens = ("--prompt-tokens", n_tokens, "--cached-tokens", n_tokens)
    done = canister("estimate", STORY_MODEL, *tokens, "--args", flags, "--instruction-limit", 150_000_000, "--json")
    return json.loads(done.out)
