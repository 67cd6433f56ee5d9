"""What of llama.cpp's log is passed on, and as how serious."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from canister.engine.llama import Context, Model
from canister.engine.llama_build import start_backend
from canister.engine.llama_log import complaint
from canister.engine.llama_types import ContextParams, DecodeAborted, EngineFault


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


def test_a_decode_that_was_told_to_end_is_no_error(
    model_path: Callable[[str], Path], caplog: pytest.LogCaptureFixture
) -> None:
    """And its lines explain no later fault, but those of a decode that fails are told."""
    caplog.set_level(logging.DEBUG, "canister.llama_cpp")
    start_backend()
    model = Model(model_path("q8_0"), "m")
    context = Context(model, ContextParams(1, 256, 64, 2), "m")
    complaint()
    context.abort()
    with pytest.raises(DecodeAborted):
        context.decode([0] * 8, range(8), [1] * 8, [7])
    aborted = [record for record in caplog.records if "failed" in record.getMessage()]
    assert aborted
    assert {record.levelno for record in aborted} == {logging.DEBUG}
    assert complaint() == ""

    caplog.clear()
    context.rearm()
    context.decode([0] * 8, range(8), [1] * 8, [7])
    with pytest.raises(EngineFault, match=r"-1 .+"):
        context.decode([0] * 8, range(8), [1] * 8, [7])  # positions that are taken
    assert logging.ERROR in {record.levelno for record in caplog.records}
    context.close()
