"""A crash leaves the stacks of all threads, and the next start knows by which signal."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from canister.system.data_dir import CRASH, LAST_CRASH


@pytest.mark.parametrize("name", ["SIGSEGV", "SIGABRT", "SIGILL", "SIGBUS", "SIGFPE"])
def test_a_fault_leaves_the_stacks_of_all_threads(tmp_path: Path, name: str) -> None:
    code = (
        "import os, pathlib, signal, sys; from canister.server.crash_stacks import faults_written\n"
        "def was_at_work():\n"
        "    with faults_written(pathlib.Path(sys.argv[1])): os.kill(os.getpid(), signal.Signals[sys.argv[2]])\n"
        "was_at_work()"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path), name], capture_output=True, check=False)
    assert done.returncode < 0
    assert "in was_at_work" in (tmp_path / CRASH).read_text()
    assert (tmp_path / CRASH).stat().st_mode & 0o077 == 0
    code = (
        "import pathlib, sys; from canister.server.crash_stacks import faults_written\n"
        "with faults_written(pathlib.Path(sys.argv[1])) as before: print(before)"
    )
    for told in (name, "None"):  # the next start, and the one after it
        done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, check=True)
        assert done.stdout.decode().strip() == told
        assert (tmp_path / CRASH).read_bytes() == b""
        assert "in was_at_work" in (tmp_path / LAST_CRASH).read_text()
