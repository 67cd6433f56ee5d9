"""What is noted of crashes while a model is decoded; crashes of real servers are in tests/server/test_supervise.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from canister.engine.crash_notes import BUSY_NAME, COUNT_NAME, MAX_IN_A_ROW, CrashNotes
from canister.errors import Conflict

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
