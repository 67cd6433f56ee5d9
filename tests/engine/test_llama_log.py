"""What of llama.cpp's log is passed on, and as how serious."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from canister.engine.llama import Context, Model, start_backend
from canister.engine.llama_types import ContextParams


def test_cells_beyond_the_training_context_are_no_warning(
    model_path: Callable[[str], Path], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "canister.llama_cpp")
    start_backend()
    model = Model(model_path("q8_0"), "m")
    Context(model, ContextParams(1, (model.n_ctx_train // 256 + 1) * 256, 64, 2), "m").close()
    said = [
        record.levelno
        for record in caplog.records
        if "n_ctx_train" in record.getMessage() and "overflow" in record.getMessage()
    ]
    assert said
    assert set(said) == {logging.DEBUG}
