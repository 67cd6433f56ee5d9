"""`canister fit`: files and contexts around the limits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from canister.metering.estimate import HEAP_LIMIT_BYTES
from tests.cli.conftest import Command
from tests.engine.gguf_writer import write_gguf
from tests.shapes import Q8_0, QWEN3_17B, SMOLLM2_135M, q4_k_m, write_model

SMALL_CACHE = "-b 8 -ctk q8_0 -ctv q8_0"


def fit(canister: Command, *arguments: object) -> Any:
    done = canister("fit", *arguments, "--json")
    document = json.loads(done.out)
    assert (done.code, done.err) == (0 if document["fits"] else 1, "")
    return document


def verdict(canister: Command, *arguments: object) -> str:
    """The last line, whose exit code says the same."""
    done = canister("fit", *arguments)
    line = done.out.splitlines()[-1]
    assert line.startswith("fits ")
    assert done.code == (1 if line.split()[1] == "no:" else 0)
    return line.removeprefix("fits").strip()


def test_a_small_model_fits(canister: Command, tmp_path: Path) -> None:
    file = write_model(tmp_path / "smol.gguf", SMOLLM2_135M, Q8_0)
    found = fit(canister, file, "--args", SMALL_CACHE)
    assert (found["loads"], found["fits"], found["heap_fits"]) == ("yes", True, True)
    assert found["n_ctx"] == found["n_ctx_asked"] == SMOLLM2_135M.n_ctx_train
    assert found["file_bytes"] == file.stat().st_size
    assert verdict(canister, file, "--args", SMALL_CACHE) == "yes"
    told = verdict(canister, file, "--args", "-c 999999999")
    assert told == "no: the heap is too small for this context; --ctx-size 8192 does"
    assert "no token fits a call" in verdict(canister, file, "--args", SMALL_CACHE, "--instruction-limit", 5)
    shown = canister("fit", file, "--args", SMALL_CACHE).out
    assert "largest context        8,192 tokens" in shown
    assert "a token fits even at the end" in shown


def test_the_largest_context_fits_and_a_larger_one_does_not(canister: Command, tmp_path: Path) -> None:
    file = write_model(tmp_path / "qwen.gguf", QWEN3_17B, q4_k_m)
    found = fit(canister, file, "--args", SMALL_CACHE)
    assert found["loads"] == "yes"
    assert found["fits"] is False
    assert 0 < found["n_ctx"] < QWEN3_17B.n_ctx_train
    assert found["heap_limit_bytes"] == HEAP_LIMIT_BYTES
    largest = found["n_ctx"]
    assert fit(canister, file, "--args", f"{SMALL_CACHE} -c {largest}")["fits"] is True
    assert fit(canister, file, "--args", f"{SMALL_CACHE} -c {largest + 256}")["fits"] is False
    assert "at its end no token fits" in canister("fit", file, "--args", SMALL_CACHE).out
    free = fit(canister, file, "--args", SMALL_CACHE, "--instruction-limit", "none")
    assert free["n_ctx"] == free["n_ctx_heap"] > largest
    assert fit(canister, file, "--args", SMALL_CACHE, "--page-cost", "legacy")["n_ctx"] > largest


def test_a_file_that_is_too_large(canister: Command, tmp_path: Path) -> None:
    file = write_model(tmp_path / "qwen.gguf", QWEN3_17B, Q8_0)
    found = fit(canister, file, "--args", "-c 2048")
    assert (found["loads"], found["fits"]) == ("no", False)
    assert verdict(canister, file, "--args", "-c 2048").startswith("no: the file is too large to load")
    shown = canister("fit", file).out
    assert "more than 2 GiB of stable memory" in shown
    assert "too much" in shown  # the heap, with the model's own context


def test_a_model_that_does_not_continue_texts(canister: Command, tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "bert.gguf", {"general.architecture": "nomic-bert"})
    for verb in ("fit", "estimate"):
        done = canister(verb, file)
        assert done.code != 0
        assert "it is an embedding model (architecture 'nomic-bert')" in done.err


def test_wrong_usage(canister: Command, tmp_path: Path) -> None:
    assert canister("fit", tmp_path / "none.gguf").code == 2
    (tmp_path / "text.gguf").write_text("no model")
    assert canister("fit", tmp_path / "text.gguf").code == 1
    file = write_model(tmp_path / "smol.gguf", SMOLLM2_135M, Q8_0)
    assert canister("fit", file, "--args", "--no-such-flag").code == 2
