"""The server killed at random moments among chats, cuts, draws, copies and roll-backs: all its receipts verify.

A call that was answered has its record, with the id that the answer named, whatever came after.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from canister.cli.verify.run import Asked, verify
from canister.client.local_server import LocalServer
from tests.cli.verify.test_random_calls import CACHES, SAMPLED, TEXTS
from tests.harness import CHAT_MODEL
from tests.smoke.conftest import Wire

WAIT_SECONDS = 120.0
N_TALKERS = 3


@dataclass
class Talkers:
    """Clients that call until they are told to stop, whatever becomes of the server. ids: what answers named."""

    server: LocalServer
    stop: threading.Event = field(default_factory=threading.Event)
    ids: list[str] = field(default_factory=list)

    def talk(self, seed: int) -> None:
        draw = random.Random(seed)
        with Wire(self.server.url, "llama_cpp", self.server.api_key).http as http:
            while not self.stop.is_set():
                method, arg = an_act(draw)
                try:
                    answer = http.post(f"/{method}", json=arg)
                except httpx.HTTPError:
                    time.sleep(0.02)
                    continue
                id = answer.headers.get("x-ic-receipt")
                if id is not None:
                    self.ids.append(id)


def an_act(draw: random.Random) -> tuple[str, object]:
    """A method with its argument."""
    cache, kind = draw.choice(CACHES), draw.random()
    if kind < 0.75:
        flags = [*draw.choice(SAMPLED), "-n", str(draw.randint(0, 9))]
        flags += ["--seed", str(draw.randint(0, 99))] if draw.random() < 0.4 else []
        prompt = draw.choice(TEXTS) if draw.random() < 0.6 else ""
        return "run_update", {"args": ["-p", prompt, "--prompt-cache", cache, "--prompt-cache-all", *flags]}
    if kind < 0.85:
        return "copy_prompt_cache", {"from": cache, "to": draw.choice([one for one in CACHES if one != cache])}
    if kind < 0.9:
        return "remove_prompt_cache", {"args": ["--prompt-cache", cache]}
    if kind < 0.95:
        limit = draw.choice((0, 3, 7))
        return "set_max_tokens", {"max_tokens_update": limit, "max_tokens_query": limit}
    return "run_update", {"args": ["--nonsense"]}


def receipts_of(server: LocalServer, folder: Path) -> list[Path]:
    """All that the server has, as files."""
    files = []
    with Wire(server.url, "llama_cpp", server.api_key).http as http:
        size = http.get("/receipts").json()["size"]
        for number in range(size):
            answer = http.get(f"/receipts/{number}", headers={"Accept": "application/cbor"})
            assert answer.status_code == 200, answer.text
            files.append(folder / f"{number}.cbor")
            files[-1].write_bytes(answer.content)
    return files


def check(files: Sequence[Path], ids: Sequence[str], n_calls: int) -> None:
    outcome = asyncio.run(verify(Asked(files, CHAT_MODEL)))
    wrong = [line for verdict in outcome.verdicts if not verdict.is_ok for line in verdict.lines()]
    assert wrong == []
    assert outcome.faults == []
    assert {verdict.proven.id for verdict in outcome.verdicts if verdict.proven is not None} >= set(ids)
    decoded = [verdict for verdict in outcome.verdicts if "all as the model draws them" in verdict.tokens]
    assert len(decoded) > n_calls // 4


@pytest.mark.parametrize(
    ("n_calls", "n_kills"),
    [(40, 2), pytest.param(1000, 60, marks=[pytest.mark.nightly, pytest.mark.timeout(3600)])],
)
def test_that_receipts_verify_whenever_the_server_was_killed(n_calls: int, n_kills: int, tmp_path: Path) -> None:
    dice, folder = random.Random(3), tmp_path / "receipts"
    folder.mkdir()
    flags = ("--receipts", "full", "--slots", "3", "--threads", "1")
    with (
        LocalServer(tmp_path / "data", "-m", str(CHAT_MODEL), *flags) as server,
        concurrent.futures.ThreadPoolExecutor() as pool,
    ):
        talkers = Talkers(server)
        work = [pool.submit(talkers.talk, seed) for seed in range(N_TALKERS)]
        try:
            for number in range(n_kills):
                wait_for(talkers, n_calls * (number + 1) // (n_kills + 1))
                time.sleep(dice.uniform(0.0, 0.2))
                server.kill()
                server.start()
            wait_for(talkers, n_calls)
        finally:
            talkers.stop.set()
        for done in work:
            done.result(timeout=WAIT_SECONDS)
        files = receipts_of(server, folder)
    check(files, talkers.ids, n_calls)
    print(f"\n{n_kills} kills, {len(talkers.ids)} answered calls, {len(files)} receipts, all verify")


def wait_for(talkers: Talkers, n: int) -> None:
    """Until so many calls were answered."""
    end = time.monotonic() + WAIT_SECONDS
    while len(talkers.ids) < n:
        assert time.monotonic() < end, f"{len(talkers.ids)} calls were answered, {n} are waited for"
        time.sleep(0.02)
