"""`canister bench`: on a server that runs it leaves nothing behind; with a file it starts one of its own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from canister.api.records import DirContentInputRecord, MaxTokensRecord
from canister.client.local_server import LocalServer
from canister.client.rest import Canister
from tests.cli.conftest import Command
from tests.harness import CHAT_MODEL

SMALL = ("--prompt-words", "5", "--tokens", "4", "--per-call", "2", "--rounds", "2")
LIMITS = MaxTokensRecord(max_tokens_update=7, max_tokens_query=3)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    folder = tmp_path_factory.mktemp("benched") / "data"
    with LocalServer(folder, "--slots", "2", "-m", str(CHAT_MODEL)) as server:
        yield server


def test_a_running_server_is_left_as_it_was(canister: Command, server: LocalServer) -> None:
    async def files_of_chats() -> list[str]:
        async with Canister(server.url, "llama_cpp", server.api_key) as client:
            found = await client.recursive_dir_content_query(
                DirContentInputRecord(dir=".canister_cache", max_entries=0)
            )
            return [entry.filename for entry in found.value if entry.filetype == "file"]

    async def limits(new: MaxTokensRecord | None = None) -> MaxTokensRecord:
        async with Canister(server.url, "llama_cpp", server.api_key) as client:
            if new is not None:
                await client.set_max_tokens(new)
            return (await client.get_max_tokens()).value

    asyncio.run(limits(LIMITS))
    done = canister("bench", "-n", server.url, "--data-dir", server.data_dir, *SMALL)
    assert done.code == 0, done.err
    assert "4 tokens, 2 per call" in done.out
    ratio, added = (line for line in done.out.splitlines() if line.endswith("*"))
    assert ratio.startswith("  speed in calls / speed in one call ")
    assert added.startswith("  what each further call adds ")
    assert "All are medians of 2. *: of what the two ways took" in done.out
    assert "after a restart" not in done.out
    assert asyncio.run(limits()) == LIMITS
    assert asyncio.run(files_of_chats()) == []


def test_a_file_is_measured_on_a_server_of_its_own(canister: Command) -> None:
    done = canister("bench", CHAT_MODEL, *SMALL, "--json")
    assert done.code == 0, done.err
    speed = json.loads(done.out)
    assert speed["n_prompt"] > 5
    assert all(speed[name] > 0 for name in ("ingested", "uninterrupted", "in_calls", "ratio", "call_ms"))
    assert speed["restore_ms"] is not None


def test_an_answer_that_does_not_fit_is_told(canister: Command, server: LocalServer) -> None:
    done = canister(
        "bench", "-n", server.url, "--data-dir", server.data_dir, "--tokens", "100000", "--per-call", "50000"
    )
    assert done.code == 1
    assert "a call of 50000 tokens gave " in done.err or "a call of 100000 tokens gave " in done.err
    assert "--ctx-size" in done.err


def test_options_that_measure_nothing_are_refused(canister: Command, tmp_path: Path) -> None:
    for tokens, per_call in ((10, 10), (15, 10)):
        done = canister("bench", CHAT_MODEL, "--tokens", tokens, "--per-call", per_call)
        assert done.code == 2
        assert "no multiple" in done.err
    done = canister("bench", tmp_path / "absent.gguf")
    assert done.code == 2
    assert "absent.gguf is not a file" in done.err
