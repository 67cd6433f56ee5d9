"""What is loaded and what is refused: models in parts, models that were joined, and what loading takes."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from canister.api.records import RunOutputRecord
from canister.errors import InstructionLimit, OutOfCycles
from tests.engine.split_models import split
from tests.engine.tiny_models import llama_model, mamba_model
from tests.harness import GREEDY, ROOT, Harness, canister_in

pytestmark = pytest.mark.anyio

FLAGS = ("-c", "128")
JOINED = ROOT.parent / "shared" / "findings" / "inputs" / "split_merged.gguf"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return llama_model(tmp_path_factory.mktemp("load") / "model.gguf", "q8_0")


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[Harness]:
    async with canister_in(tmp_path / "home", slots=2) as harness:
        yield harness


async def load(harness: Harness, path: str) -> str:
    """What was said of it: empty for a model that is loaded."""
    reply = await harness.reply("load_model", {"args": ["--model", path, *FLAGS]})
    assert isinstance(reply.value, RunOutputRecord)
    return reply.value.error


async def text(harness: Harness) -> str:
    return (await harness.run("Once upon", *GREEDY, "-n", "12", cache=None)).conversation


# -- models in parts


async def test_a_model_in_parts_is_the_model(harness: Harness, model: Path, tmp_path: Path) -> None:
    await harness.load(model, *FLAGS)
    expected, cost = await text(harness), harness.canister.model.cost_model
    parts = split(model, 3, tmp_path, "m")
    for part in parts:
        await harness.upload(part, f"models/{part.name}")
    assert await load(harness, "models/m-00001-of-00003.gguf") == ""
    assert await text(harness) == expected
    info = harness.canister.model.engine.info  # type: ignore[union-attr]
    assert info.model_bytes == sum(part.stat().st_size for part in parts)
    assert harness.canister.model.cost_model.matrices == cost.matrices  # type: ignore[union-attr]
    assert harness.canister.model.is_loaded_from("models/m-00003-of-00003.gguf")
    estimate = await harness.call("estimate_run", {"args": ["-p", "Once upon"], "answer_tokens": 4})
    assert estimate.instructions > 0


async def test_chats_and_trials_of_a_model_in_parts_outlive_the_server(model: Path, tmp_path: Path) -> None:
    """Its identity is that of all parts: what was tried is not tried again, what was stored is used again."""
    parts = split(model, 2, tmp_path, "m")
    async with canister_in(tmp_path / "home") as harness:
        for part in parts:
            await harness.upload(part, f"models/{part.name}")
        assert await load(harness, "models/m-00001-of-00002.gguf") == ""
        assert harness.canister.model.trials.n_tried == 1
        begun = await harness.run("Once upon", *GREEDY, "-n", "9")
        whole = await harness.run("Once upon", *GREEDY, "-n", "15", cache=None)
        identity = harness.canister.model.engine.info.model_id  # type: ignore[union-attr]
    async with canister_in(tmp_path / "home") as harness:
        await harness.canister.model.loaded()
        assert harness.canister.model.trials.n_tried == 0
        assert harness.canister.model.engine.info.model_id == identity  # type: ignore[union-attr]
        more = await harness.run("", *GREEDY, "-n", "6")
        assert more.n_prompt_tokens_cached == (begun.n_prompt_tokens or 0) + (begun.n_tokens_generated or 0)
        assert whole.conversation.startswith(more.conversation)
        assert more.conversation.startswith(begun.conversation)
        assert more.n_tokens_generated
        assert harness.canister.model.engine.stats().sources.disk > 0  # type: ignore[union-attr]


async def test_parts_that_are_missing_or_wrong_are_named(harness: Harness, model: Path, tmp_path: Path) -> None:
    parts = split(model, 3, tmp_path, "m")
    first = "models/m-00001-of-00003.gguf"
    await harness.upload(parts[0], first)
    said = await load(harness, first)
    assert "in 3 parts, of which 2 are missing: models/m-00002-of-00003.gguf, models/m-00003-of-00003.gguf" in said
    await harness.upload(parts[1], "models/m-00002-of-00003.gguf")
    await harness.upload(parts[1], "models/m-00003-of-00003.gguf")
    assert "Part 3 of 3 says that it is part 2 of 3" in await load(harness, first)
    (tmp_path / "cut").write_bytes(parts[2].read_bytes()[:-64])
    await harness.upload(tmp_path / "cut", "models/m-00003-of-00003.gguf")
    said = await load(harness, first)
    assert "its part models/m-00003-of-00003.gguf: The file is cut off" in said
    assert "load the first one, models/m-00001-of-00003.gguf" in await load(harness, "models/m-00002-of-00003.gguf")
    await harness.upload(parts[0], "models/model.gguf")
    assert "give all of them names that say so, this one NAME-00001-of-00003.gguf" in await load(
        harness, "models/model.gguf"
    )


async def test_another_part_is_another_model(harness: Harness, model: Path, tmp_path: Path) -> None:
    """A run with --model loads again when any part was exchanged, and not otherwise."""
    other = llama_model(tmp_path / "other.gguf", "q8_0", seed=1)
    (tmp_path / "a").mkdir()
    parts, others = split(model, 2, tmp_path / "a", "m"), split(other, 2, tmp_path, "m")
    for part in parts:
        await harness.upload(part, f"models/{part.name}")
    first = "models/m-00001-of-00002.gguf"
    assert await load(harness, first) == ""
    engine = harness.canister.model.engine
    again = ["--model", first, *FLAGS, *GREEDY, "-p", "x", "-n", "1"]
    await harness.call("run_update", {"args": again})
    assert harness.canister.model.engine is engine
    await harness.upload(others[1], "models/m-00002-of-00002.gguf")
    await harness.call("run_update", {"args": again})
    assert harness.canister.model.engine is not engine


@pytest.mark.parametrize("count", [0, 1])
async def test_a_model_that_was_joined_is_loaded(count: int, harness: Harness, model: Path, tmp_path: Path) -> None:
    """llama.cpp's own tool leaves split.count 0 in what it joins."""
    data = split(model, 1, tmp_path, "m")[0].read_bytes()
    key = b"split.count" + struct.pack("<I", 2)
    assert data.count(key + struct.pack("<H", 1)) == 1
    joined = tmp_path / "joined.gguf"
    joined.write_bytes(data.replace(key + struct.pack("<H", 1), key + struct.pack("<H", count)))
    await harness.load(joined, *FLAGS)
    assert await text(harness)


@pytest.mark.skipif(not JOINED.exists(), reason="the reported file is in ../shared/findings, which is not here")
async def test_the_joined_model_of_the_report_is_loaded(harness: Harness) -> None:
    await harness.load(JOINED, *FLAGS)
    assert await text(harness)


# -- what loading takes


def limited(harness: Harness, limit: int | None, **more: Any) -> None:
    """Change a canister's settings as a restart with other ones would."""
    canister = harness.canister
    canister.settings = canister.settings.model_copy(update={"instruction_limit": limit, **more})


async def test_loading_is_metered_and_not_refused(harness: Harness, model: Path) -> None:
    """As large models are loaded: with the default limit of 4e10 instructions one of 4.0 GB was refused."""
    limited(harness, 5_000_000)
    size = model.stat().st_size
    assert 10 * size > 5_000_000
    limited(harness, None)
    await harness.upload(model, "models/model.gguf")
    limited(harness, 5_000_000)
    before = harness.canister.ledger.cycles
    reply = await harness.reply("load_model", {"args": ["--model", "models/model.gguf", *FLAGS]})
    assert reply.error is None
    assert reply.charge is not None
    assert (reply.charge.instructions, reply.charge.limit) == (10 * size, None)
    assert harness.canister.ledger.cycles == before - reply.charge.cycles
    entry = (await harness.call("get_call_log", {"max_entries": 1}))[0]
    assert (entry.method, entry.outcome, entry.instructions) == ("load_model", "ok", 10 * size)


async def test_a_run_that_loads_is_limited_in_what_it_decodes(harness: Harness, model: Path) -> None:
    await harness.upload(model, "models/model.gguf")
    run = {"args": ["--model", "models/model.gguf", *FLAGS, *GREEDY, "-p", "Once upon a time", "-n", "4"]}
    limited(harness, 400_000_000)
    reply = await harness.reply("run_update", run)
    assert reply.error is None
    assert reply.charge is not None
    assert reply.charge.parts["load"] == 10 * model.stat().st_size
    assert reply.charge.limit == 400_000_000
    assert reply.charge.instructions - reply.charge.parts["load"] <= 400_000_000


async def test_where_calls_trap_a_load_over_the_limit_names_the_way_out(harness: Harness, model: Path) -> None:
    await harness.upload(model, "models/model.gguf")
    limited(harness, 5_000_000, budget_policy="trap")
    with pytest.raises(InstructionLimit) as refused:
        await harness.reply("load_model", {"args": ["--model", "models/model.gguf"]})
    said = str(refused.value)
    assert "exceeded the limit of 5000000 instructions for single message execution." in said
    for word in ("models/model.gguf", "at most 500000 bytes", "--instruction-limit", "--budget-policy yield"):
        assert word in said
    limited(harness, 10 * model.stat().st_size, budget_policy="trap")
    assert await load(harness, "models/model.gguf") == ""


async def test_what_is_no_model_is_told_by_its_header_whatever_its_size(harness: Harness, tmp_path: Path) -> None:
    (tmp_path / "garbage").write_bytes(b"not a model" + bytes(1_000_000))
    await harness.upload(tmp_path / "garbage", "models/model.gguf")
    for policy in ("yield", "trap"):
        limited(harness, 5_000_000, budget_policy=policy)
        reply = await harness.reply("load_model", {"args": ["--model", "models/model.gguf"]})
        assert isinstance(reply.value, RunOutputRecord)
        assert reply.value.status_code == 500
        assert "Not a GGUF file" in reply.value.error


async def test_a_load_is_paid_where_balances_are_enforced(harness: Harness, model: Path) -> None:
    await harness.upload(model, "models/model.gguf")
    limited(harness, 5_000_000, balance_policy="enforce")
    canister = harness.canister
    canister.ledger.committed(-canister.ledger.cycles + 15_000_000)  # enough for the limit, not for the load
    with pytest.raises(OutOfCycles):
        await harness.reply("load_model", {"args": ["--model", "models/model.gguf", *FLAGS]})
    assert canister.model.engine is None


# -- contexts that do not fit


async def test_a_context_that_cannot_fit_is_refused_before_anything_is_tried(harness: Harness, model: Path) -> None:
    await harness.upload(model, "models/model.gguf")
    reply = await harness.reply("load_model", {"args": ["--model", "models/model.gguf", "-c", "200000000"]})
    assert isinstance(reply.value, RunOutputRecord)
    assert reply.value.status_code == 500
    for word in ("models/model.gguf", "200000000 tokens", "--ctx-size, at most "):
        assert word in reply.value.error
    assert harness.canister.model.trials.n_tried == 0
    assert await load(harness, "models/model.gguf") == ""


async def test_what_only_the_trial_can_tell_is_told_by_the_trial(
    harness: Harness, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of architectures whose header was never fitted, rows are measured; the child refuses in the same words."""
    monkeypatch.setattr("canister.runtime.loaded_model.FITTED", frozenset())
    await harness.upload(model, "models/model.gguf")
    reply = await harness.reply("load_model", {"args": ["--model", "models/model.gguf", "-c", "200000000"]})
    assert isinstance(reply.value, RunOutputRecord)
    assert reply.value.error.startswith(
        "Cannot make a context of 200000000 tokens for the model models/model.gguf, for"
    )
    assert "--ctx-size, at most " in reply.value.error
    assert harness.canister.model.trials.n_tried == 1
    await harness.upload(mamba_model(tmp_path / "mamba.gguf"), "models/mamba.gguf")
    assert await load(harness, "models/mamba.gguf") == ""
