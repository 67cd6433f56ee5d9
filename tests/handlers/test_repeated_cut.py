"""Models whose prompts give other bits when they are cut otherwise: what is decoded again is cut as it was."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from canister.api.records import RunOutputRecord
from tests.engine.tiny_models import llama_model, mamba_model
from tests.handlers.test_invariance import forget_all
from tests.harness import Harness, canister_in

pytestmark = pytest.mark.anyio

FLAGS = ("--temp", "0.9", "--seed", "7", "-sp")
LONG = " ".join(f"w{n % 200}" for n in range(40))
TURNS = [LONG, f"{LONG} w3 w4 w5", f"{LONG} w9 w8", " ".join(LONG.split()[:13]), f"{LONG} w1 w2 w3"]  # some roll back


@pytest.fixture(params=["mamba q4_k_m", "llama f16", "llama q4_k_m"])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    kind, file_type = request.param.split()
    make = mamba_model if kind == "mamba" else llama_model
    return make(tmp_path / f"{kind}.gguf", file_type)


async def turns(harness: Harness, cache: str, between: Callable[[Harness], None]) -> list[RunOutputRecord]:
    """All that a chat answers whose prompt is edited again and again, in calls of seven tokens."""
    records = []
    for prompt in TURNS:
        record = await harness.run(prompt, *FLAGS, cache=cache)
        records.append(record)
        while record.n_prompt_tokens_remaining:
            between(harness)
            record = await harness.run(prompt, *FLAGS, cache=cache)
            records.append(record)
        for _ in range(3):
            between(harness)
            records.append(await harness.run("", *FLAGS, cache=cache))
        between(harness)
    return records


async def test_an_edited_chat_goes_on_the_same_when_its_memory_is_gone(model: Path, tmp_path: Path) -> None:
    async with canister_in(tmp_path / "canister", exact="off") as harness:
        await harness.load(model, "--ctx-size", "256")
        await harness.limit(7)
        expected = await turns(harness, "calm", lambda _: None)
        await harness.call("remove_prompt_cache", {"args": ["--prompt-cache", "calm"]})
        assert await turns(harness, "killed", forget_all) == expected


async def test_copies_and_uploads_of_a_chat_know_its_cut(model: Path, tmp_path: Path) -> None:
    async with canister_in(tmp_path / "canister", exact="off") as harness:
        await harness.load(model, "--ctx-size", "256")
        await harness.limit(7)
        record = await harness.run(LONG, *FLAGS)
        while record.n_prompt_tokens_remaining:
            record = await harness.run(LONG, *FLAGS)
        await harness.call("copy_prompt_cache", {"from": "prompt.cache", "to": "copy"})
        name, size = "prompt.cache", 2_000_000
        chunk = await harness.call("download_prompt_cache_chunk", {"promptcache": name, "chunksize": size, "offset": 0})
        await harness.call(
            "upload_prompt_cache_chunk",
            {"promptcache": "upload", "chunk": chunk.chunk, "chunksize": size, "offset": 0},
        )
        expected = [await harness.run("", *FLAGS) for _ in range(4)]
        for cache in ("copy", "upload"):
            forget_all(harness)
            assert [await harness.run("", *FLAGS, cache=cache) for _ in range(4)] == expected


async def test_what_another_chat_has_decoded_is_used_as_it_was_cut(model: Path, tmp_path: Path) -> None:
    async with canister_in(tmp_path / "canister", exact="off") as harness:
        await harness.load(model, "--ctx-size", "256")
        engine = harness.canister.model.engine
        assert engine is not None
        await harness.run(LONG, *FLAGS, "-n", "0", cache="other")

        async def answer(cache: str, between: Callable[[Harness], None]) -> list[RunOutputRecord]:
            record = await harness.run(LONG, *FLAGS, "-n", "4", cache=cache)
            records = [record]
            while record.n_prompt_tokens_remaining:
                between(harness)
                record = await harness.run(LONG, *FLAGS, "-n", "4", cache=cache)
                records.append(record)
            for _ in range(3):
                between(harness)
                records.append(await harness.run("", *FLAGS, "-n", "4", cache=cache))
            return records

        expected = await answer("calm", lambda _: None)
        assert engine.stats().sources.shared > 100
        await harness.call("remove_prompt_cache", {"args": ["--prompt-cache", "calm"]})
        assert await answer("killed", forget_all) == expected
        if not engine.info.kv_layout:  # else rows are stored, and a piece may find more there than the next one
            await harness.limit(40)
            expected = await answer("calm", lambda _: None)
            assert await answer("killed in pieces", forget_all) == expected
