"""Contexts that cannot fit are refused by arithmetic, before llama.cpp takes a byte; the error names what would fit."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from canister.engine.engine import Engine, LoadParams, ModelError
from canister.engine.llama import Context, Model
from canister.engine.llama_types import ContextParams
from canister.engine.load import loader
from canister.engine.load.memory_budget import CELLS_STEP, MAX_CELLS, Need, check
from tests.engine.driver import Driver

GB = 10**9


def need_of(n_ctx: int, n_chats: int = 1, bytes_per_token: int = 1536) -> Need:
    n_cells = -(-n_ctx // CELLS_STEP) * CELLS_STEP
    return Need(n_ctx, n_cells, n_chats, bytes_per_token, n_cells * bytes_per_token)


def refusal(need: Need, free_bytes: int) -> str:
    with pytest.raises(ModelError) as refused:
        check("models/m.gguf", need, free_bytes)
    return str(refused.value)


def test_what_fits_is_let_through() -> None:
    check("m", need_of(4096), GB)
    check("m", need_of(1024, n_chats=8), GB)
    check("m", Need(MAX_CELLS // 2, MAX_CELLS // 2, 1, 0, 0), GB)  # a recurrent state does not grow


def test_the_error_names_model_setting_and_largest() -> None:
    said = refusal(need_of(200_000_000), 20 * GB)
    assert said.startswith("Cannot make a context of 200000000 tokens for the model models/m.gguf: that takes 318.4 GB")
    assert "19.0 GB are free; give a smaller --ctx-size, at most " in said
    said = refusal(need_of(8192, n_chats=4), GB // 100)
    assert "for each of 4 chats (--slots): that takes 52.2 MB, and 9.5 MB are free" in said
    assert "more than llama.cpp can count" in refusal(need_of(2**30, n_chats=4, bytes_per_token=1), 10**15)
    assert refusal(need_of(4096), 1000).endswith("free some memory")


@given(st.integers(1, 2**33), st.integers(1, 64), st.integers(1, 1_000_000), st.integers(0, 10**13))
def test_the_largest_that_is_named_fits_and_no_larger_one_would(
    n_ctx: int, n_chats: int, bytes_per_token: int, free_bytes: int
) -> None:
    try:
        check("m", need_of(n_ctx, n_chats, bytes_per_token), free_bytes)
        return
    except ModelError as error:
        said = str(error)
    found = re.search(r"at most (\d+)$", said)
    largest = int(found[1]) if found else 0
    assert largest < n_ctx
    if largest:
        check("m", need_of(largest, n_chats, bytes_per_token), free_bytes)
    with pytest.raises(ModelError):
        check("m", need_of(largest + 2 * CELLS_STEP, n_chats, bytes_per_token), free_bytes)


def test_no_large_context_is_begun(
    drive: Callable[..., Driver], model_path: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """llama.cpp is asked only for the small contexts in which the model is looked at."""
    made: list[int] = []

    def making(model: Model, shape: ContextParams, name: str) -> Context:
        made.append(shape.n_streams * shape.n_cells)
        return Context(model, shape, name)

    monkeypatch.setattr(loader, "Context", making)
    params: dict[str, Any] = {"name": "models/some.gguf", "n_slots": 1}
    with pytest.raises(ModelError, match=r"context of 200000000 tokens for the model models/some\.gguf: that takes"):
        asyncio.run(Engine.load(LoadParams(model_path("q8_0"), n_ctx=200_000_000, **params)))
    assert max(made) <= 64 * CELLS_STEP
    # What is named can be loaded.
    monkeypatch.setattr(loader, "available_bytes", lambda: 6_000_000 + model_path("q8_0").stat().st_size)
    with pytest.raises(ModelError) as refused:
        asyncio.run(Engine.load(LoadParams(model_path("q8_0"), n_ctx=100_000, **params)))
    found = re.search(r"--ctx-size, at most (\d+)$", str(refused.value))
    assert found is not None
    assert drive("q8_0", n_ctx=int(found[1]), n_slots=1).engine.info.n_ctx == int(found[1])
    with pytest.raises(ModelError):
        asyncio.run(Engine.load(LoadParams(model_path("q8_0"), n_ctx=int(found[1]) + 2 * CELLS_STEP, **params)))
