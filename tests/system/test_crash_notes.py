"""What is noted of crashes while a model is decoded; crashes of real servers are in tests/server/test_supervise.py."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from canister.errors import Conflict
from canister.system.crash_notes import BUSY_NAME, COUNT_NAME, MAX_IN_A_ROW, CrashNotes
from canister.system.data_dir import CRASH, LAST_CRASH

ONE, OTHER = b"\x01" * 32, b"\x02" * 32


def crash(folder: Path, model: bytes, how: str = "decoding", *, told: str | None = "SIGSEGV") -> CrashNotes:
    """A process that ends within a decode, and the notes of the next one."""
    before = CrashNotes(folder)
    before.open(None)
    watch = before.of_model(model)
    (watch.decoding if how == "decoding" else watch.loading).__enter__()
    before.close()  # as the kernel does: what is mapped stays as it was
    after = CrashNotes(folder)
    after.open(told)
    return after


def is_held_back(notes: CrashNotes, model: bytes) -> bool:
    try:
        notes.check(model, "models/m.gguf")
    except Conflict:
        return True
    return False


@pytest.mark.parametrize("how", ["decoding", "loading"])
def test_three_in_a_row(tmp_path: Path, how: str) -> None:
    for n in range(1, MAX_IN_A_ROW + 1):
        notes = crash(tmp_path, ONE, how)
        assert is_held_back(notes, ONE) == (n == MAX_IN_A_ROW)
        assert not is_held_back(notes, OTHER)


def test_what_begins_the_count_anew(tmp_path: Path) -> None:
    for begin_anew in (
        lambda notes: notes.of_model(ONE).went_well(),
        lambda notes: notes.forget(),
        lambda notes: crash(tmp_path, OTHER),
        lambda notes: (tmp_path / COUNT_NAME).unlink(),
        lambda notes: (tmp_path / COUNT_NAME).write_bytes(b'{"model": "half'),
    ):
        for _ in range(MAX_IN_A_ROW - 1):
            notes = crash(tmp_path, ONE)
        begin_anew(notes)
        assert not is_held_back(crash(tmp_path, ONE), ONE)
        notes.forget()
        (tmp_path / COUNT_NAME).unlink(missing_ok=True)


def test_what_does_not(tmp_path: Path) -> None:
    for _ in range(MAX_IN_A_ROW - 1):
        crash(tmp_path, ONE)
    notes = crash(tmp_path, ONE, told=None)  # a power cut, or a kill from outside
    notes.of_model(OTHER).went_well()
    idle = CrashNotes(tmp_path)
    idle.open("SIGSEGV")  # a crash while nothing was decoded
    assert not is_held_back(idle, ONE)
    assert is_held_back(crash(tmp_path, ONE), ONE)


def test_a_decode_that_ends_leaves_nothing(tmp_path: Path) -> None:
    notes = CrashNotes(tmp_path)
    notes.open(None)
    with notes.of_model(ONE).decoding:
        assert (tmp_path / BUSY_NAME).read_bytes().startswith(b"\x01" + ONE)
    assert (tmp_path / BUSY_NAME).read_bytes()[:1] == b"\0"
    notes.close()
    with notes.of_model(ONE).decoding:  # nothing is noted any more, and nothing fails
        pass


def test_a_folder_that_cannot_be_written_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    notes = CrashNotes(tmp_path / "file")
    notes.open("SIGSEGV")
    with notes.of_model(ONE).decoding:
        pass
    notes.forget()


@pytest.mark.parametrize("name", ["SIGSEGV", "SIGABRT", "SIGILL", "SIGBUS", "SIGFPE"])
def test_a_fault_leaves_the_stacks_of_all_threads(tmp_path: Path, name: str) -> None:
    code = (
        "import os, pathlib, signal, sys; from canister.system.crash_notes import faults_written\n"
        "def was_at_work():\n"
        "    with faults_written(pathlib.Path(sys.argv[1])): os.kill(os.getpid(), signal.Signals[sys.argv[2]])\n"
        "was_at_work()"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path), name], capture_output=True, check=False)
    assert done.returncode < 0
    assert "in was_at_work" in (tmp_path / CRASH).read_text()
    assert (tmp_path / CRASH).stat().st_mode & 0o077 == 0
    code = (
        "import pathlib, sys; from canister.system.crash_notes import faults_written\n"
        "with faults_written(pathlib.Path(sys.argv[1])) as before: print(before)"
    )
    for told in (name, "None"):  # the next start, and the one after it
        done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, check=True)
        assert done.stdout.decode().strip() == told
        assert (tmp_path / CRASH).read_bytes() == b""
        assert "in was_at_work" in (tmp_path / LAST_CRASH).read_text()
