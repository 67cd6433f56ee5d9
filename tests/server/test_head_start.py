"""The first server imports while the command line is read: it gets its task, or it ends without a trace."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from canister.server import head_start, process
from tests.processes import is_there
from tests.server.test_supervise import children, wait_for

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are found in /proc")


def test_what_is_imported_ahead_starts_no_thread_and_no_numpy() -> None:
    code = f"""
import importlib, os, sys
for name in {process.AHEAD!r}: importlib.import_module(name)
print(len(os.listdir("/proc/self/task")), "numpy" in sys.modules, "llama_cpp" in sys.modules)
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["1", "False", "False"], found.stderr


def test_the_child_that_was_begun_becomes_the_server(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "canister", "serve", "--port", "0", "--data-dir", str(tmp_path)]
    # Nobody reads more than the first line, which is written by itself so.
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path, env=environment) as server:
        try:
            assert server.stdout is not None
            assert "http://" in server.stdout.readline()
            (child,) = children(server.pid)
            told = Path(f"/proc/{server.pid}/cmdline").read_text().split("\0")
            assert told[-2].startswith(f"{child}:")
        finally:
            server.terminate()
    assert server.returncode == 0


@pytest.mark.parametrize("arguments", [["serve", "--port", "many"], ["serve", "--data-dir", "/dev/null/none"]])
def test_after_wrong_usage_nothing_stays(arguments: list[str], tmp_path: Path) -> None:
    mark = f"HEAD_START_TEST={tmp_path}"
    environment = {**os.environ, "HEAD_START_TEST": str(tmp_path)}
    command = [sys.executable, "-m", "canister", *arguments]
    found = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert found.returncode in (1, 2)
    assert "Traceback" not in found.stderr
    wait_for(lambda: not marked(mark), "a process stayed")


def marked(mark: str) -> list[int]:
    """Processes that have this in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
        except OSError:
            continue
    return [pid for pid in found if is_there(pid)]


def test_only_what_will_serve_under_a_supervisor_is_begun() -> None:
    for arguments in ([], ["call", "health"], ["serve", "--help"], ["serve", "--no-supervise"], ["herd", "serve"]):
        head_start.begin(arguments)
        assert head_start.handed_on() == []
    head_start.begin(["serve"])
    try:
        (told,) = head_start.handed_on()
        pid = int(told.partition(":")[0])
        assert is_there(pid)
    finally:
        head_start.withdraw()
    assert not is_there(pid)
    assert head_start.handed_on() == []


def test_a_child_that_is_taken_over_tells_how_it_ended() -> None:
    ended = subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"])
    taken = head_start._Adopted(ended.pid)
    wait_for(lambda: taken.poll() is not None, "it did not end")
    assert taken.poll() == 3
    taken.send_signal(15)  # to nobody
    ended.returncode = 3  # it was waited for here
