"""Tests that fail beside others are run once more, alone; what fails there too fails the run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
STEADY = "def test_steady(): pass\n"
UNSTEADY = """
from pathlib import Path
def test_unsteady():
    mark = Path("was here")
    first = not mark.exists()
    mark.touch()
    assert not first
"""
BROKEN = "import pytest\n@pytest.mark.parametrize('n', range({n}))\ndef test_broken(n): assert n < 0\n"


def run(folder: Path, **files: str) -> tuple[int, str]:
    for name, text in files.items():
        (folder / f"test_{name}.py").write_text(text)
    # Schemathesis' plugin costs each of the four processes of a run two seconds.
    (folder / "pytest.ini").write_text("[pytest]\naddopts = -p no:schemathesis\n")
    command = [sys.executable, str(ROOT / "scripts" / "run_tests.py")]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    return done.returncode, done.stdout


def test_one_that_passes_alone_is_named(tmp_path: Path) -> None:
    code, told = run(tmp_path, steady=STEADY, unsteady=UNSTEADY)
    assert code == 0
    assert told.rstrip().splitlines()[-2:] == [
        "UNSTEADY: failed beside others, passed alone:",
        "  test_unsteady.py::test_unsteady",
    ]


def test_one_that_fails_alone_too_fails_the_run(tmp_path: Path) -> None:
    code, told = run(tmp_path, unsteady=UNSTEADY, broken=BROKEN.format(n=1))
    assert (code, "UNSTEADY" in told) == (1, False)


def test_many_are_not_run_again(tmp_path: Path) -> None:
    code, told = run(tmp_path, broken=BROKEN.format(n=6))
    assert (code, "once more" in told) == (1, False)
