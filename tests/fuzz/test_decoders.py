"""Every decoder takes any bytes: a refusal of its own kind, or a value; never another error, never a loop."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.targets import TARGETS, run_mutations, seeds

N_INPUTS = 1500  # a decoder, in every run; 14 decoders
NIGHTLY_SECONDS = 120


@pytest.mark.parametrize("name", TARGETS)
def test_mutations(name: str) -> None:
    assert run_mutations(name, seed=1, n_inputs=N_INPUTS) == N_INPUTS


@pytest.mark.parametrize("name", TARGETS)
def test_what_the_mutations_begin_with(name: str) -> None:
    for data in seeds(name):
        TARGETS[name](data)


@pytest.mark.nightly
@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris is not installed: pip install .[fuzz]")
@pytest.mark.parametrize("name", TARGETS)
def test_guided_by_coverage(name: str, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "tests.fuzz.targets",
        name,
        "--seconds",
        str(NIGHTLY_SECONDS),
        "--corpus",
        str(tmp_path),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=NIGHTLY_SECONDS + 120, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert re.search(r"Done (\d+) (?:runs )?in", done.stderr), done.stderr[-500:]


@pytest.mark.nightly
@pytest.mark.parametrize("name", TARGETS)
def test_many_mutations(name: str) -> None:
    assert run_mutations(name, seed=2, seconds=NIGHTLY_SECONDS) > N_INPUTS
