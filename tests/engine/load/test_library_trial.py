"""A build of llama.cpp that crashes, hangs or computes nonsense on this processor ends a child process.

The faults are planted (`tests/planted.py`); the last tests run what is really there.
"""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from canister.engine.llama_types import ModelError
from canister.engine.load import child, library
from canister.engine.load.library_trial import LibraryTrials
from canister.engine.load.loaded import LoadParams
from canister.engine.load.ways import WEIGHT_TYPES, Restrictions, first_ways
from canister.system.machine import cpu_flags
from tests.planted import plant

pytestmark = pytest.mark.anyio

PARAMS = LoadParams(path=Path("models/some.gguf"), name="models/some.gguf")


# Weights that no kernel of AMX is for, so that what is planted is all there is, also where AMX crashes.
KINDS = ["f32", "q5_1", "q3_K"]


async def restrictions(file: Path, *kinds: str, params: LoadParams = PARAMS) -> Restrictions:
    return (await LibraryTrials(file, step_seconds=3).restrict(params, kinds or ("f32",))).restrictions


@pytest.mark.parametrize("how", ["SIGILL", "SIGSEGV", "SIGABRT", "SIGBUS", "nan", "hang"])
async def test_what_fails_with_extra_buffers_is_done_without(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch, tmp_path / "plant", how, rows=2, extra=True)
    found = await restrictions(tmp_path / "notes.json")
    assert found == Restrictions(extra_buffers=False)
    told = {"nan": "failed: what it computes are no numbers", "hang": "took more than 3 s"}
    what = told.get(how, f"crashed ({how})")
    expected = f"extra buffer types (repacked weights, AMX) are off: with f32 weights a decode of 2 rows {what}"
    assert found.reasons == (expected,)
    assert "pip install --no-binary llama-cpp-python" in found.advice


@pytest.mark.parametrize(
    ("compiled", "told"),
    [
        (("SSE3", "AVX", "AVX2", "F16C", "FMA", "REPACK"), ""),
        (("AVX2", "FMA", "AVX512", "AVX512_VNNI"), "this one has those of AVX512, AVX512_VNNI; compile it so"),
        (("AVX2", "AMX_INT8"), "this one has those of AMX_INT8"),
        (("NEON", "DOTPROD"), "this one has those of NEON"),
        ((), "this one does not tell that it has those"),
    ],
)
async def test_a_portable_build_has_kernels_of_avx2_alone(compiled: tuple[str, ...], told: str, tmp_path: Path) -> None:
    outcomes = {"f32 f16 f16": dict.fromkeys(first_ways(), "")}
    library.keep(tmp_path / "notes.json", library.BuildFacts(compiled, outcomes))
    asked = LibraryTrials(tmp_path / "notes.json").restrict(replace(PARAMS, exact="portable"), ["f32"])
    if not told:
        assert (await asked).exact == "on"
        return
    with pytest.raises(ModelError, match=told) as caught:
        await asked
    assert "or take --exact on" in str(caught.value)


@pytest.mark.parametrize(("type_v", "is_told"), [("f16", True), ("q8_0", False)])
def test_a_quantized_v_cache_needs_flash_attention_and_that_is_no_problem(
    type_v: str, is_told: bool, tmp_path: Path
) -> None:
    outcomes = {way: "" if way.flash_attn else "no context can be made" for way in first_ways()}
    library.keep(tmp_path / "notes.json", library.BuildFacts(("AVX2",), {f"f32 f16 {type_v}": outcomes}))
    told = library.problems(tmp_path / "notes.json")
    assert any("without flash attention" in problem for problem in told) == is_told
    assert bool(told) == is_told


@pytest.mark.parametrize(("rows", "most"), [(512, 32), (32, 8), (3, 2), (2, 1)])
async def test_rows_are_as_many_as_survive(
    rows: int, most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch, tmp_path / "plant", "SIGILL", rows=rows)
    found = await restrictions(tmp_path / "notes.json")
    assert found == Restrictions(max_rows=most)
    (reason,) = found.reasons
    assert reason.startswith(f"a decode has at most {'one row' if most == 1 else f'{most} rows'}: with f32 weights")


async def test_several_streams_count_by_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, tmp_path / "plant", "SIGSEGV", streams=2)
    found = await restrictions(tmp_path / "notes.json")
    assert found == Restrictions(max_rows=1)
    assert "a decode of one row in each of 2 streams crashed (SIGSEGV)" in found.reasons[0]


async def test_flash_attention_goes_where_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, tmp_path / "plant", "SIGILL", flash=True)
    file = tmp_path / "notes.json"
    found = await restrictions(file)
    assert found == Restrictions(flash="off")
    assert found.reasons == ("flash attention is off: with f32 weights a decode of one row crashed (SIGILL)",)
    assert found.flash_attn("auto") == "off"
    # Who needs it is told; who does not want it is not.
    with pytest.raises(ModelError, match="a decode of one row crashed"):
        await restrictions(file, params=LoadParams(path=PARAMS.path, flash_attn="on"))
    assert (await restrictions(file, params=LoadParams(path=PARAMS.path, flash_attn="off"))).reasons == ()


async def test_attention_without_flash_goes_where_only_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch, tmp_path / "plant", "SIGILL", flash=False)
    assert await restrictions(tmp_path / "notes.json") == Restrictions(flash="on")


async def test_nothing_survives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, tmp_path / "plant", "SIGILL")
    with pytest.raises(ModelError) as caught:
        await restrictions(tmp_path / "notes.json")
    text = str(caught.value)
    assert "models/some.gguf" in text
    assert library.processor() in text
    assert "a decode of one row crashed (SIGILL)" in text
    assert "the build makes use of SSE3" in text or "the build makes use of NEON" in text
    assert "pip install --no-binary llama-cpp-python --force-reinstall --no-cache-dir llama-cpp-python==" in text


async def test_what_was_found_out_is_not_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "made when needed" / "notes.json"
    trials = LibraryTrials(file)
    await trials.restrict(PARAMS, ["f32", "q5_1"])
    assert trials.n_tried == 1
    again = LibraryTrials(file)
    await again.restrict(PARAMS, ["f32"])
    assert again.n_tried == 0
    await again.restrict(PARAMS, ["f32", "q3_K"])
    assert again.n_tried == 1
    await again.restrict(LoadParams(path=PARAMS.path, type_k="q8_0"), ["f32"])
    assert again.n_tried == 2
    # Another build, or another processor, is tried anew, and what is known of this one stays.
    with monkeypatch.context() as patch:
        patch.setattr(library, "library_id", lambda: "another build")
        await again.restrict(PARAMS, ["f32"])
        assert again.n_tried == 3
    await again.restrict(PARAMS, KINDS)
    assert again.n_tried == 3


async def test_what_was_slow_once_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that is busy beyond measure is no reason to do without extra buffers for good."""
    run = child.run
    n_runs = 0

    async def slow_once(*asked: Any) -> child.ChildEnd:
        nonlocal n_runs
        n_runs += 1
        outcome = await run(*asked)
        lines = outcome.lines[:6]  # in the midst of the first trial
        return replace(outcome, exit_code=-signal.SIGALRM, lines=lines) if n_runs == 1 else outcome

    monkeypatch.setattr(child, "run", slow_once)
    assert await restrictions(tmp_path / "notes.json") == Restrictions()
    assert n_runs == 2
    assert library.recall(tmp_path / "notes.json").tried["f32 f16 f16"] == dict.fromkeys(first_ways(), "")


async def test_a_damaged_note_is_no_note(tmp_path: Path) -> None:
    file = tmp_path / "notes.json"
    await LibraryTrials(file).restrict(PARAMS, ["f32"])
    whole = json.loads(file.read_text())
    (key,) = whole
    for damaged in ("", "[]", "{", json.dumps({key: []}), json.dumps({key: {"compiled": [], "tried": {"f32": 1}}})):
        file.write_text(damaged)
        trials = LibraryTrials(file)
        await trials.restrict(PARAMS, ["f32"])
        assert trials.n_tried == 1
        assert json.loads(file.read_text())[key] == whole[key]


async def test_every_type_of_weights_can_be_tried(tmp_path: Path) -> None:
    """With the real library: no sample is refused, none computes infinities."""
    found = await restrictions(tmp_path / "notes.json", *WEIGHT_TYPES, *(f"{name} experts" for name in WEIGHT_TYPES))
    assert [reason for reason in found.reasons if "crashed" not in reason] == []


@pytest.mark.skipif(not cpu_flags() >= {"amx_tile", "amx_int8"}, reason="this processor has no AMX")
async def test_amx_is_used_or_told(tmp_path: Path) -> None:
    found = await restrictions(tmp_path / "notes.json", "q8_0", "q4_0")
    compiled = library.recall(tmp_path / "notes.json").compiled
    if not found.extra_buffers:
        assert "crashed (SIGILL)" in found.reasons[0]
    if not found.extra_buffers or "AMX_INT8" not in compiled:
        assert "-fno-tree-dse -fno-dse" in found.advice
    else:
        assert found == Restrictions()
