"""`serve -m FILE`: the model is put in place and loaded, once, and a failure is told."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from canister.config import Settings
from canister.errors import BadRequest, NotFound
from canister.runtime.host import Host
from canister.server import preload
from canister.server.app import running
from tests.engine.split_models import split
from tests.engine.tiny_models import llama_model
from tests.harness import STORY_MODEL, needs_story_model

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def serving(data_dir: Path, model: Path) -> AsyncIterator[Host]:
    async with running(Host(Settings(data_dir=data_dir, slots=1))) as host:
        task = preload.begin(host, model)
        assert "is being put into it" in host.not_ready()["llama_cpp"]
        await task
        yield host


@needs_story_model
async def test_it_is_uploaded_and_loaded_once(tmp_path: Path) -> None:
    model = tmp_path / "story.gguf"
    model.write_bytes(STORY_MODEL.read_bytes())
    stored = []
    for _ in range(2):
        async with serving(tmp_path / "data", model) as host:
            assert host.not_ready() == {}
            assert host.default.model.is_loaded_from("models/story.gguf")
            stored.append(host.default.stable.stat("models/story.gguf"))
    assert stored[0] == stored[1]


@needs_story_model
async def test_a_changed_file_is_loaded_anew(tmp_path: Path) -> None:
    model = tmp_path / "story.gguf"
    model.write_bytes(STORY_MODEL.read_bytes())
    async with serving(tmp_path / "data", model) as host:
        first = host.default.stable.stat("models/story.gguf")
    model.write_bytes(STORY_MODEL.read_bytes() + bytes(32))  # padding behind the tensors does no harm
    async with serving(tmp_path / "data", model) as host:
        assert host.not_ready() == {}
        assert host.default.stable.stat("models/story.gguf") != first
        assert host.default.model.is_loaded_from("models/story.gguf")


async def test_a_draft_model_is_put_beside_it_and_stays(tmp_path: Path) -> None:
    model, draft = llama_model(tmp_path / "big.gguf", "q8_0"), llama_model(tmp_path / "small.gguf", "q8_0", seed=1)
    name = f"models/{draft.name}"
    for given, expected in ((None, ""), (draft, name), (draft, name), (None, name)):
        async with running(Host(Settings(data_dir=tmp_path / "data", slots=1))) as host:
            await preload.begin(host, model, draft=given)
            assert host.not_ready() == {}
            engine = host.default.model.engine
            assert engine is not None
            assert engine.info.draft_model == expected


async def test_a_draft_model_that_is_not_there(tmp_path: Path) -> None:
    model = llama_model(tmp_path / "big.gguf", "q8_0")
    with pytest.raises(NotFound, match=r"--model-draft .*small\.gguf: there is no such file"):
        preload.check(model, tmp_path / "small.gguf")


async def test_a_file_that_is_no_model(tmp_path: Path) -> None:
    model = tmp_path / "story.gguf"
    model.write_bytes(b"not a model")
    async with serving(tmp_path / "data", model) as host:
        reason = host.not_ready()["llama_cpp"]
        assert reason.startswith(f"{model} could not be loaded: ")


def test_a_missing_file_is_told_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"--model .*missing\.gguf: there is no such file"):
        preload.check(tmp_path / "missing.gguf")


def test_what_is_no_model_is_told_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("# Not a model")
    with pytest.raises(BadRequest, match=r"--model .*README\.md: Not a GGUF file"):
        preload.check(tmp_path / "README.md")
    parts = split(llama_model(tmp_path / "model.gguf"), 3, tmp_path)
    preload.check(parts[0])
    parts[2].unlink()
    with pytest.raises(BadRequest, match=r"1 are missing: split-00003-of-00003\.gguf"):
        preload.check(parts[0])


async def test_all_parts_of_a_split_model_are_put_in_place(tmp_path: Path) -> None:
    parts = split(llama_model(tmp_path / "model.gguf"), 3, tmp_path)
    async with serving(tmp_path / "data", parts[0]) as host:
        assert host.not_ready() == {}
        assert host.default.model.is_loaded_from("models/split-00001-of-00003.gguf")
