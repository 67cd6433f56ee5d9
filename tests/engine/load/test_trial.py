"""A model file that makes llama.cpp crash, hang or take all memory ends a child process, never the server."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from canister.engine.llama_types import ModelError
from canister.engine.load.loaded import LoadParams
from canister.engine.load.trial import MAX_NOTES, TrialLimits, Trials, path_of_descriptor
from canister.engine.load.ways import Restrictions
from tests.engine.hostile_models import CRASHING, ENDLESS, REFUSED, Hostile
from tests.engine.tiny_models import llama_model
from tests.planted import plant

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def good_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # Of weights that no kernel of AMX is for: what is planted is all there is, also where AMX crashes.
    return llama_model(tmp_path_factory.mktemp("trial") / "good.gguf", "f32")


def params_of(path: Path, **other: object) -> LoadParams:
    digest = hashlib.sha256(path.read_bytes()).digest()
    return LoadParams(path=path, name="models/some.gguf", model_id=digest, **other)  # type: ignore[arg-type]


async def refusal(trials: Trials, params: LoadParams) -> str:
    with pytest.raises(ModelError) as caught:
        await trials.check(params)
    text = str(caught.value)
    assert "models/some.gguf" in text
    assert len(text) < 700
    return text


@pytest.mark.parametrize("name", CRASHING)
async def test_what_crashes_llama_cpp_is_refused(name: str, tmp_path: Path) -> None:
    trials = Trials(tmp_path / "tried")
    text = await refusal(trials, params_of(CRASHING[name].write(tmp_path / "model.gguf")))
    assert "llama.cpp crashed on it (SIG" in text
    assert "cannot run this file" in text
    assert not (tmp_path / "tried").exists()


@pytest.mark.parametrize("name", ["negative epsilon", "bytes as weights"])
def test_these_files_are_as_dangerous_as_they_claim(name: str, tmp_path: Path) -> None:
    """Without the trial the loading process is gone: else the tests above would show nothing."""
    path = CRASHING[name].write(tmp_path / "model.gguf")
    code = (
        "import sys, pathlib; from canister.engine.load.loaded import LoadParams; "
        "from canister.engine.load.loader import load; "
        "load(LoadParams(path=pathlib.Path(sys.argv[1]))); print('survived')"
    )
    environment = {**os.environ, "GGML_NO_BACKTRACE": "1"}
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, env=environment, timeout=60)
    assert done.returncode in (-signal.SIGABRT, -signal.SIGSEGV)
    assert b"survived" not in done.stdout


@pytest.mark.parametrize("name", REFUSED)
async def test_what_llama_cpp_complains_of_is_told(name: str, tmp_path: Path) -> None:
    text = await refusal(Trials(tmp_path / "tried"), params_of(REFUSED[name].write(tmp_path / "model.gguf")))
    assert "crashed" not in text


async def test_a_trial_that_does_not_end_is_ended(tmp_path: Path) -> None:
    trials = Trials(tmp_path / "tried", limits=TrialLimits(seconds=4))
    text = await refusal(trials, params_of(ENDLESS.write(tmp_path / "model.gguf")))
    assert "trying it took more than 4 s" in text


async def test_memory_is_bounded(good_model: Path, tmp_path: Path) -> None:
    trials = Trials(tmp_path / "tried", limits=TrialLimits(memory_bytes=1_500_000_000))
    await trials.check(params_of(good_model, n_ctx=512, n_slots=1))
    text = await refusal(trials, params_of(good_model, n_ctx=2_000_000, n_slots=1))
    assert "failed to allocate" in text or "memory" in text


async def test_what_survived_is_not_tried_again(good_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "tried"
    trials = Trials(folder)
    await trials.check(params_of(good_model))
    await trials.check(params_of(good_model))
    assert trials.n_tried == 1
    again = Trials(folder)  # after a restart
    await again.check(params_of(good_model))
    assert again.n_tried == 0
    await again.check(params_of(good_model, type_k="q8_0"))
    assert again.n_tried == 1
    (other := tmp_path / "other.gguf").write_bytes(good_model.read_bytes() + b"\0")
    await again.check(params_of(other))
    assert again.n_tried == 2


async def test_a_note_counts_only_if_it_is_whole(good_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "tried"
    await Trials(folder).check(params_of(good_model))
    (note,) = folder.iterdir()
    whole = note.read_bytes()
    for damaged in (b"", whole[:-1], whole + b" ", whole.replace(b"f16", b"f32"), b"\0" * len(whole)):
        note.write_bytes(damaged)
        trials = Trials(folder)
        await trials.check(params_of(good_model))
        assert trials.n_tried == 1
        assert note.read_bytes() == whole


async def test_a_note_of_one_file_is_none_of_another(good_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "tried"
    await Trials(folder).check(params_of(good_model))
    bad = CRASHING["negative epsilon"].write(tmp_path / "model.gguf")
    assert "crashed" in await refusal(Trials(folder), params_of(bad))


async def test_notes_are_bounded_and_not_needed(good_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "tried"
    folder.mkdir()
    for i in range(MAX_NOTES + 5):
        (folder / f"{i:064}").write_bytes(b"old")
    await Trials(folder).check(params_of(good_model))
    assert len(list(folder.iterdir())) == MAX_NOTES
    (tmp_path / "file").write_bytes(b"no folder can be made here")
    await Trials(tmp_path / "file" / "tried").check(params_of(good_model))


FINDINGS = Path(__file__).resolve().parents[4] / "shared" / "findings" / "inputs"


async def test_flash_attention_that_a_model_cannot_have_is_switched_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """llama.cpp ends the process for some architectures with it; the server does without."""
    path = FINDINGS / "plm-tiny.gguf"
    if not path.exists():
        pytest.skip("the model of the report is in ../shared/findings, which is not here")
    trials = Trials(tmp_path / "tried")
    found = await trials.check(params_of(path))
    assert found.allowed_flash_attn == "off"
    (reason,) = found.restrictions.reasons
    assert reason.startswith("flash attention is off: llama.cpp crashed on it (SIGABRT): GGML_ASSERT")
    assert trials.n_tried == 1
    assert await Trials(tmp_path / "tried").check(params_of(path)) == found
    # Where it would not be used it is not tried.
    exact = await trials.check(params_of(path, exact="on"))
    assert (exact.restrictions.reasons, trials.n_tried) == ((), 2)
    # Who asks for it gets the reason, and no accusation.
    text = await refusal(trials, params_of(path, flash_attn="on"))
    assert "cannot run this file" in text


@pytest.mark.parametrize("how", ["SIGSEGV", "SIGABRT"])
async def test_what_ends_the_child_with_several_streams_leaves_one(
    how: str, good_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch, tmp_path / "plant", how, streams=2)
    trials = Trials(tmp_path / "tried")
    found = await trials.check(params_of(good_model, n_slots=3))
    assert found.restrictions == Restrictions()
    assert str(found.memory.one_stream).startswith(f"llama.cpp crashed ({how}")
    assert found.allowed_slots == 1
    again = Trials(tmp_path / "tried")
    assert (await again.check(params_of(good_model, n_slots=3))).memory == found.memory
    assert again.n_tried == 0


async def test_several_streams_that_give_no_numbers_leave_one(
    good_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch, tmp_path / "plant", "nan", streams=2)
    found = await Trials(tmp_path / "tried").check(params_of(good_model, n_slots=3))
    assert "gets other logits than alone" in str(found.memory.one_stream)


@pytest.mark.nightly  # it waits for the time to be over
async def test_several_streams_that_hang_leave_one_until_the_next_load(
    good_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch, tmp_path / "plant", "hang", streams=2)
    trials = Trials(tmp_path / "tried", limits=TrialLimits(seconds=20))
    found = await trials.check(params_of(good_model, n_slots=3, flash_attn="off"))
    assert "had not come to an end after 20 s" in str(found.memory.one_stream)
    monkeypatch.undo()
    again = await Trials(tmp_path / "tried").check(params_of(good_model, n_slots=3, flash_attn="off"))
    assert again.memory.one_stream is None


@pytest.mark.parametrize(
    ("planted", "restrictions"),
    [
        ({"flash": True}, Restrictions(flash="off")),
        ({"flash": False}, Restrictions(flash="on")),
        ({"extra": True}, Restrictions(extra_buffers=False)),
        ({"extra": True, "rows": 33}, Restrictions(extra_buffers=False)),
        ({"rows": 33}, Restrictions(extra_buffers=False, max_rows=1)),
    ],
)
@pytest.mark.parametrize("how", ["SIGSEGV", "SIGABRT"])
async def test_ways_that_a_file_does_not_survive_narrow_the_choice(
    how: str,
    planted: dict[str, Any],
    restrictions: Restrictions,
    good_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plant(monkeypatch, tmp_path / "plant", how, **planted)
    found = (await Trials(tmp_path / "tried").check(params_of(good_model, n_slots=3))).restrictions
    assert found == restrictions
    assert all(f"llama.cpp crashed on it ({how})" in reason for reason in found.reasons)
    assert len(found.reasons) == (planted.get("flash") is not None or not restrictions.extra_buffers) + (
        restrictions.max_rows == 1
    )
    # A note brings back the same.
    again = Trials(tmp_path / "tried")
    assert (await again.check(params_of(good_model, n_slots=3))).restrictions.reasons == found.reasons
    assert again.n_tried == 0


async def test_no_way_survives(good_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, tmp_path / "plant", "SIGSEGV")
    assert "llama.cpp crashed on it (SIGSEGV)" in await refusal(Trials(tmp_path / "tried"), params_of(good_model))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux names open files")
async def test_what_was_tried_is_what_is_open(good_model: Path, tmp_path: Path) -> None:
    """Another file takes the name after the check: the open one is tried and loaded all the same."""
    path = tmp_path / "model.gguf"
    path.write_bytes(good_model.read_bytes())
    params = params_of(path)
    with path.open("rb") as opened:
        Hostile({"llama.attention.layer_norm_rms_epsilon": -1.0}).write(tmp_path / "bad.gguf").replace(path)
        held = LoadParams(
            path=path_of_descriptor(opened.fileno(), path), name="models/some.gguf", model_id=params.model_id
        )
        await Trials(tmp_path / "tried").check(held, [opened.fileno()])
