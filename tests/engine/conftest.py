"""The models that engine tests run on: made on the spot, the story model, and the shipped one when they are there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from canister.engine.llama_build import start_backend
from tests.engine import tiny_models
from tests.engine.driver import Driver

ROOT = Path(__file__).resolve().parents[2]
STORY_MODEL = ROOT.parent / "shared" / "models" / "stories260Ktok512.gguf"
CHAT_MODEL = ROOT / "models" / "llama-canister-tiny.gguf"
# A chat is promised to be the same on all of these.
_MORE = [pytest.param(name, marks=pytest.mark.nightly) for name in ("f16", "f32", "q4_0")]
MAKERS: dict[str, Callable[[Path, str], Path]] = {
    "llama": tiny_models.llama_model,
    "gemma": tiny_models.gemma_model,
    "mamba": tiny_models.mamba_model,
    "lfm2": tiny_models.lfm2_model,
}
MODELS = ["story", "chat", "q8_0", *_MORE]


@pytest.fixture(scope="session")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The path of a model by its short name, a kind and a file type; skips the test when it is not there."""
    folder = tmp_path_factory.mktemp("models")
    start_backend()

    def path_of(name: str) -> Path:
        if name in ("story", "chat"):
            path = STORY_MODEL if name == "story" else CHAT_MODEL
            if not path.exists():
                pytest.skip(f"there is no {path}")
            return path
        kind, _, file_type = name.rpartition(" ")
        if name in ("gemma", "mamba", "lfm2"):
            kind, file_type = name, "f32"
        kind = kind or "llama"
        path = folder / f"{kind}.{file_type}.gguf"
        if not path.exists():
            MAKERS[kind](folder / f"{kind}.gguf", file_type).rename(path)
        return path

    return path_of


@pytest.fixture
def drive(model_path: Callable[[str], Path], tmp_path: Path) -> Iterator[Callable[..., Driver]]:
    """drive(model, **LoadParams) → Driver, closed at the end of the test."""
    drivers: list[Driver] = []

    def start(model: str, **params: object) -> Driver:
        named = {"model_id": model.encode(), "calibration_file": tmp_path / "engine.json"}  # so it is measured once
        drivers.append(Driver(model_path(model), **(named | params)))
        return drivers[-1]

    yield start
    for driver in drivers:
        driver.close()
