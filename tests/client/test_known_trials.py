"""Servers of one's own begin with what those before them have found out of llama.cpp and of model files."""

from __future__ import annotations

import json
import os
from pathlib import Path

import httpx
import pytest

from canister.client import known_trials
from canister.client.local_server import LocalServer
from canister.engine.load import calibration_file
from canister.system.data_dir import TRIED
from tests.harness import CHAT_MODEL
from tests.server.test_process import wait_for_status


def test_the_next_server_tries_nothing_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name, n_tried in (("first", 1), ("second", 0)):
        with LocalServer(tmp_path / name, "-m", str(CHAT_MODEL)) as server, httpx.Client(base_url=server.url) as http:
            wait_for_status(http, "/readyz", 200)
        log = (tmp_path / name / "serve.err").read_text()
        assert log.count("llama.cpp tried on this processor") == n_tried
        assert log.count("model file tried") == n_tried
        # What was measured of the model's kernels is there too, once.
        measured = json.loads((tmp_path / name / TRIED / calibration_file.NAME).read_bytes())
        assert [entry["kernels"] is not None for entry in measured.values()] == [True]
        assert (tmp_path / "cache" / "llama-canister" / TRIED / calibration_file.NAME).is_file()


def test_newer_notes_win_and_the_oldest_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    data_dir = tmp_path / "data"
    kept = tmp_path / "cache" / "llama-canister" / TRIED
    known_trials.borrow(data_dir)  # there is nothing yet
    for i in range(known_trials.MAX_FILES + 5):
        note = data_dir / TRIED / f"{i:03}"
        note.write_text(str(i))
        os.utime(note, ns=(i, i))
    known_trials.lend(data_dir)
    assert sorted(path.name for path in kept.iterdir()) == [f"{i:03}" for i in range(5, known_trials.MAX_FILES + 5)]
    (kept / "100").write_text("newer")
    known_trials.lend(data_dir)
    assert (kept / "100").read_text() == "newer"
    known_trials.borrow(data_dir)
    assert (data_dir / TRIED / "100").read_text() == "newer"


def test_a_cache_that_cannot_be_written_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("no folder can be made here")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    (tmp_path / "data").mkdir()
    known_trials.borrow(tmp_path / "data")
    known_trials.lend(tmp_path / "data")
