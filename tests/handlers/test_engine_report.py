"""What a canister tells of its engine, to whom, and what of it is still known after a restart."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from canister.cli.shared import status_view
from canister.client import known_trials
from canister.defaults import QUERY_LIMIT, UPDATE_LIMIT
from canister.dispatch import inspection
from canister.engine import devices, info
from canister.engine.drafting.cost import MOST_ROWS
from canister.engine.load import calibration, calibration_file, loader
from canister.engine.load.trial import Trials
from canister.runtime import loaded_model
from canister.system.data_dir import TRIED
from canister.system.machine import usable_cores
from tests.engine import tiny_models
from tests.harness import CONTROLLER, GREEDY, canister_in, someone

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.llama_model(tmp_path_factory.mktemp("model") / "tiny.gguf", "q8_0")


@pytest.fixture(autouse=True)
def measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """What is measured is kept in this file, as in a server and unlike in other tests; what they have tried counts."""
    shared, own = loaded_model.Trials(tmp_path).folder, tmp_path / TRIED
    known_trials.copy(shared, own)
    (own / calibration_file.NAME).unlink(missing_ok=True)
    monkeypatch.setattr(loader, "kept", calibration_file)
    monkeypatch.setattr(loaded_model, "Trials", Trials)
    yield own / calibration_file.NAME
    known_trials.copy(own, shared)


async def test_how_the_model_is_run(tmp_path: Path, model: Path) -> None:
    async with canister_in(tmp_path, slots=2) as canister:
        none = await inspection.inspect_engine(canister.canister, CONTROLLER)
        assert isinstance(none.value, dict)
        assert (none.value["model"], none.value["reason"]) == (None, "none")
        await canister.load(model, "--ctx-size", "300")
        await canister.call("set_access", {"level": 1})
        await canister.run("hello", *GREEDY, "-n", "5", caller=someone(7), cache="secret.cache")
        reply = await inspection.inspect_engine(canister.canister, CONTROLLER)
        told: Any = reply.value
        assert told["file"] == {"name": "models/model.gguf", "bytes": model.stat().st_size}
        assert told["limits"] == {
            "max_tokens_update": 0,
            "max_tokens_query": 0,
            "instruction_limit": UPDATE_LIMIT,
            "query_instruction_limit": QUERY_LIMIT,
        }
        assert told["access"] == {"level": 1, "who": "All except anonymous"}
        assert told["uptime_seconds"] >= 0
        assert told["cycles"] == canister.canister.ledger.cycles
        assert told["exact"]["is_exact"]
        assert told["exact"]["repeats_cut"] is False
        assert told["exact"]["row_classes"]
        assert told["speculation"] == {
            "type": "ngram-simple",
            "most_rows": MOST_ROWS,
            "draft_model": None,
            "notes": [],
        }
        assert told["total"]["drafted_tokens"] >= told["total"]["accepted_tokens"] >= 0
        assert told["threads"]["count"] >= 1
        assert (told["memory"]["slots"], told["memory"]["context"]) == (2, 300)
        assert told["memory"]["kv_bytes_per_token"] == 3 * 2 * 4 * 32 * 2
        counts = {"resident": 1, "running": 0, "waiting": 0, "parked": 0, "parked_bytes": 0}
        slots = told["now"].pop("slots")
        assert told["now"].pop("kv_tokens") == sum(slot["tokens"] for slot in slots) > 5
        assert sorted(slot["state"] for slot in slots) == ["free", "resident"]
        assert told["now"] == counts
        assert told["speed"]["answer_tokens_per_second"] > 0
        assert told["speed"]["longest_pause_ms"] > 0
        assert told["total"]["reused_tokens"] == {"slot": 0, "memory": 0, "disk": 0, "shared": 0}
        assert told["total"]["steps"] >= 4
        text = json.dumps(told)
        assert not [word for word in ("secret", someone(7), str(tmp_path)) if word in text]


async def test_flags_for_devices_are_told_where_none_is(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "can_offload", lambda: False)
    async with canister_in(tmp_path) as canister:
        await canister.load(model, "-ngl", "99", "--no-kv-offload")
        told: Any = canister.canister.model.report()
        assert (told["devices"]["computing"], told["devices"]["gpu_layers"]) == (["the processor"], 0)
        [note] = told["devices"]["notes"]
        assert "--n-gpu-layers and --no-kv-offload have no effect" in note
        assert note in status_view.as_few_lines({"name": "it", "id": "it", "engine": told})
        engine = canister.canister.model.engine
        # Nothing of it makes another model, so a call that names the file without it loads nothing.
        await canister.run("hello", *GREEDY, "-n", "2", "--model", "models/model.gguf")
        assert canister.canister.model.engine is engine


async def test_the_memory_of_devices_is_told(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = devices.Device("CUDA0", "a card", "gpu", 3_000_000_000, 8_000_000_000)
    for module in (devices, loaded_model, info):
        monkeypatch.setattr(module, "devices", lambda: [card])
    monkeypatch.setattr(devices, "can_offload", lambda: True)
    async with canister_in(tmp_path) as canister:
        await canister.load(model, "-ngl", "all")
        told: Any = canister.canister.model.report()
        assert (told["devices"]["gpu_layers"], told["devices"]["kv_rows"]) == ("all", "beside their layers")
        assert told["devices"]["memory"]["CUDA0"]["free_bytes"] == 3_000_000_000
        short = status_view.as_few_lines({"name": "it", "id": "it", "engine": told})
        assert "devices      all layers on CUDA0 a card: 3 GB of 8 GB free" in short
        observed = canister.canister.model.observed()
        assert observed["canister_engine_device_free_bytes"] == 3_000_000_000
        assert observed["canister_engine_device_bytes"] == 8_000_000_000
        engine = canister.canister.model.engine
        await canister.load(model)
        assert canister.canister.model.engine is not engine
        assert "canister_engine_device_bytes" not in canister.canister.model.observed()


async def test_who_may_see_it(tmp_path: Path) -> None:
    async with canister_in(tmp_path) as canister:
        stranger = await inspection.inspect_engine(canister.canister, someone(3))
        assert stranger.error is not None
        assert stranger.error.http_status == 401
        await canister.call("assignAdminRole", {"principal": someone(3), "role": {"AdminQuery": None}, "note": ""})
        assert (await inspection.inspect_engine(canister.canister, someone(3))).error is None


async def test_a_restart_measures_nothing(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "QUIET_SHARE", 0.0)  # whatever else runs here
    monkeypatch.setattr(calibration, "ABSURD", 1e9)
    async with canister_in(tmp_path) as canister:
        await canister.load(model)
        first: Any = canister.canister.model.report()

    def never(*_: object) -> Generator[None, None, None]:
        raise AssertionError("measured again")

    for name in ("measure_kernels", "measure_threads"):
        monkeypatch.setattr(calibration, name, never)
    async with canister_in(tmp_path) as canister:
        await canister.canister.model.loaded()
        again: Any = canister.canister.model.report()
        assert (again["exact"], again["threads"]) == (first["exact"], first["threads"])


async def test_damaged_findings_are_measured_again(tmp_path: Path, model: Path, measured: Path) -> None:
    async with canister_in(tmp_path) as canister:
        await canister.load(model)
        first: Any = canister.canister.model.report()
    measured.write_text("{")
    async with canister_in(tmp_path) as canister:
        await canister.canister.model.loaded()
        again: Any = canister.canister.model.report()
        assert again["exact"] == first["exact"]
    assert len(json.loads(measured.read_text())) == 1


@pytest.mark.parametrize("flags", [("--flash-attn", "on"), ("--cache-type-v", "q8_0")])
async def test_exact_on_and_flash_attention_are_refused(tmp_path: Path, model: Path, flags: tuple[str, ...]) -> None:
    async with canister_in(tmp_path, exact="on") as canister:
        await canister.upload(model, "m.gguf")
        told = await canister.fails("load_model", {"args": ["--model", "m.gguf", *flags]})
        assert "exact mode is on" in told
        assert flags[0] in told


async def test_asking_for_flash_attention_wins_over_auto(tmp_path: Path, model: Path) -> None:
    async with canister_in(tmp_path) as canister:
        await canister.load(model, "--flash-attn", "on")
        told: Any = canister.canister.model.report()
        assert (told["exact"]["is_exact"], told["exact"]["flash_attention"]) == (False, True)
        assert "--flash-attn on" in told["exact"]["why"]


@pytest.mark.skipif(usable_cores() < 2, reason="with one core there is nothing to choose")
async def test_threads_that_were_measured_beside_other_work_are_measured_again(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibration, "ABSURD", 1e9)
    for share, why in ((1e9, "measured again at the next load, or set --threads"), (0.0, "the fastest for one chat")):
        monkeypatch.setattr(calibration, "QUIET_SHARE", share)
        async with canister_in(tmp_path) as canister:
            await canister.load(model)
            told: Any = canister.canister.model.report()
            assert why in told["threads"]["why"]
            assert told["threads"]["tokens_per_second"]


@pytest.mark.skipif(usable_cores() < 2, reason="with one core there is nothing to choose")
async def test_absurd_speeds_of_an_older_server_are_measured_again(
    tmp_path: Path, model: Path, measured: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As they were found: `1: 1602.9, 2: 0.8`, kept over five restarts."""
    monkeypatch.setattr(calibration, "QUIET_SHARE", 0.0)
    async with canister_in(tmp_path) as canister:
        await canister.load(model)
    kept = json.loads(measured.read_text())
    for entry in kept.values():
        entry["speeds"] = {"1": 1602.9, "2": 0.8}
    measured.write_text(json.dumps(kept))
    monkeypatch.setattr(calibration, "ABSURD", 500)
    async with canister_in(tmp_path) as canister:
        await canister.canister.model.loaded()
        told: Any = canister.canister.model.report()
        assert told["threads"]["tokens_per_second"].get("2") != 0.8
