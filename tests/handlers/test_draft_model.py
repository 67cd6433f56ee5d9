"""A model that guesses for the loaded one is loaded, told, refused and lost, and no answer or cost depends on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from canister.cli.shared.status_view import SHORT
from canister.dispatch import inspection
from canister.engine import verifier
from canister.engine.drafting import cost
from canister.engine.drafting.habit import Habit
from tests.engine import tiny_models
from tests.harness import CONTROLLER, Harness, canister_in

pytestmark = pytest.mark.anyio

MODEL, DRAFT = "models/model.gguf", "models/draft.gguf"
LOAD = ("--model", MODEL, "--ctx-size", "256")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    other_start = {"tokenizer.ggml.bos_token_id": 3}
    return {
        "model": tiny_models.llama_model(folder / "model.gguf", "q8_0"),
        "other": tiny_models.llama_model(folder / "other.gguf", "q8_0", seed=7),
        "other start": tiny_models.llama_model(folder / "start.gguf", "q8_0", changes=other_start),
        "mamba": tiny_models.mamba_model(folder / "mamba.gguf", "f32"),
    }


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is guessed is decoded, whatever it costs."""
    monkeypatch.setattr(cost, "WORTH", 0.0)
    monkeypatch.setattr(verifier, "CREDIT", 1e9)
    monkeypatch.setattr(Habit, "settle", lambda *_: None)
    monkeypatch.setattr(Habit, "spend", lambda *_: None)


async def speculation(canister: Harness) -> Any:
    reply = await inspection.inspect_engine(canister.canister, CONTROLLER)
    assert isinstance(reply.value, dict)
    return {**reply.value["speculation"], "drafted": reply.value["total"]["drafted_tokens"]}


async def status(canister: Harness) -> dict[str, str]:
    """What `canister status` says of the engine."""
    report = (await inspection.inspect_engine(canister.canister, CONTROLLER)).value
    return {title: text for title, told in SHORT if (text := told(report)) is not None}  # type: ignore[arg-type]


async def conversation(canister: Harness) -> list[object]:
    """Records and instructions of a chat's calls."""
    told: list[object] = []
    for prompt, n in (("hello again and again", "7"), ("", "40"), ("once more", "30"), ("", "11")):
        told.append(await canister.run(prompt, "--temp", "0.7", "-s", "3", "--ignore-eos", "-n", n, cache="a.cache"))
        [entry] = await canister.call("get_call_log", {"max_entries": 1})
        told.append(entry.instructions)
    return told


async def test_answers_and_costs_are_those_without_it(tmp_path: Path, models: dict[str, Path], eager: None) -> None:
    expected = None
    for name, draft in (("none", None), ("own", "model"), ("other", "other")):
        async with canister_in(tmp_path / name, slots=2) as canister:
            await canister.upload(models["model"], MODEL)
            flags = []
            if draft is not None:
                await canister.upload(models[draft], DRAFT)
                flags = ["--model-draft", DRAFT, "--spec-type", "draft-simple"]
            reply = await canister.reply("load_model", {"args": [*LOAD, *flags]})
            assert reply.error is None
            assert reply.charge is not None
            assert reply.charge.instructions == 10 * models["model"].stat().st_size
            said = await conversation(canister)
            expected = expected or said
            assert said == expected
            known = await speculation(canister)
            assert known["draft_model"] == (DRAFT if draft else None)
            assert (known["drafted"] > 0) == (draft is not None)
            assert (f"guessed by {DRAFT}" in (await status(canister)).get("drafts", "")) == (draft is not None)


async def test_flags_of_llama_server_reach_it(tmp_path: Path, models: dict[str, Path], eager: None) -> None:
    async with canister_in(tmp_path, slots=1) as canister:
        await canister.upload(models["model"], MODEL)
        flags = ["-md", MODEL, "--spec-draft-n-max", "3", "--spec-draft-n-min", "1", "--draft-p-min", "0.0"]
        await canister.call("load_model", {"args": [*LOAD, *flags, "-ctkd", "q8_0", "-ctvd", "q8_0"]})
        known = await speculation(canister)
        assert (known["draft_model"], known["most_rows"]) == (MODEL, 4)
        await canister.run("hello", "--temp", "0", "--ignore-eos", "-n", "20")
        assert (await speculation(canister))["drafted"] > 0
        await canister.call("load_model", {"args": [*LOAD, "-md", MODEL, "--spec-draft-p-min", "1.1"]})
        await canister.run("hello", "--temp", "0", "--ignore-eos", "-n", "8", cache="other.cache")
        assert (await speculation(canister))["drafted"] == 0  # nothing is so likely


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("other start", ["Cannot use the draft model models/draft.gguf", "a text begins", "same vocabulary"]),
        ("mamba", ["Cannot use the draft model models/draft.gguf", "cannot take back"]),
    ],
)
async def test_a_model_that_cannot_draft_is_refused(
    tmp_path: Path, models: dict[str, Path], name: str, words: list[str]
) -> None:
    async with canister_in(tmp_path, slots=1) as canister:
        await canister.load(models["model"], "--ctx-size", "256", path=MODEL)
        await canister.upload(models[name], DRAFT)
        said = await canister.fails("load_model", {"args": [*LOAD, "--model-draft", DRAFT]})
        assert all(word in said for word in words), said
        assert (await canister.run("hello", "-n", "3")).status_code == 200  # the loaded one stays


async def test_a_file_that_is_no_model_or_not_there_is_refused(tmp_path: Path, models: dict[str, Path]) -> None:
    async with canister_in(tmp_path, slots=1) as canister:
        await canister.upload(models["model"], MODEL)
        said = await canister.fails("load_model", {"args": [*LOAD, "--model-draft", DRAFT]})
        assert DRAFT in said
        assert "upload it first" in said
        (tmp_path / "bad.gguf").write_bytes(models["model"].read_bytes()[:5000])
        await canister.upload(tmp_path / "bad.gguf", DRAFT)
        assert DRAFT in await canister.fails("load_model", {"args": [*LOAD, "--model-draft", DRAFT]})


async def test_a_server_without_its_file_answers_all_the_same(
    tmp_path: Path, models: dict[str, Path], eager: None
) -> None:
    async with canister_in(tmp_path, slots=1) as canister:
        await canister.upload(models["model"], MODEL)
        await canister.upload(models["other"], DRAFT)
        await canister.call("load_model", {"args": [*LOAD, "--model-draft", DRAFT]})
        begun = await canister.run("hello", "--temp", "0", "--ignore-eos", "-n", "9")
    async with canister_in(tmp_path, slots=1) as canister:
        await canister.canister.model.loaded()
        assert (await speculation(canister))["draft_model"] == DRAFT
        await canister.call("filesystem_remove", {"filename": DRAFT})
    async with canister_in(tmp_path, slots=1) as canister:
        await canister.canister.model.loaded()
        assert (await speculation(canister))["draft_model"] is None
        assert (await canister.run("hello", "--temp", "0", "--ignore-eos", "-n", "9", cache="b.cache")) == begun


async def test_where_nothing_is_drafted_it_is_told(tmp_path: Path, models: dict[str, Path]) -> None:
    for settings, word in (({"spec_type": "none"}, "--spec-type none"), ({"exact": "off"}, "one by one")):
        async with canister_in(tmp_path / word[:3], slots=1, **settings) as canister:
            await canister.upload(models["model"], MODEL)
            await canister.call("load_model", {"args": [*LOAD, "--model-draft", MODEL]})
            known = await speculation(canister)
            assert known["draft_model"] is None
            assert word in known["notes"][0]
            assert word in (await status(canister))["drafts"]
