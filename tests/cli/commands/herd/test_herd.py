"""`canister herd`: money on the journal itself, and looking at a herd that runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from canister.cli import main
from canister.ic import principal as principals
from tests.herd.herds import herd_process

PAYER = principals.to_text(principals.self_authenticating(b"payer"))
OTHER = principals.to_text(principals.self_authenticating(b"other"))


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(["herd", *arguments])
    assert isinstance(end.value.code, int)
    return end.value.code


def test_money(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    journal = ("--journal", f"sqlite:///{tmp_path / 'herd.db'}")
    assert run("mint", PAYER, "100", "--key", "first", *journal) == 0
    assert "100 for" in capsys.readouterr().out
    assert run("mint", PAYER, "100", "--key", "first", *journal) == 0
    assert "done before" in capsys.readouterr().out
    assert run("transfer", PAYER, OTHER, "1.5", *journal) == 0
    capsys.readouterr()
    assert run("balance", *journal) == 0
    shown = capsys.readouterr().out
    assert "98.5" in shown
    assert "1.5" in shown
    assert run("transfer", OTHER, PAYER, "2", *journal) == 1
    assert "1500000000000 units free" in capsys.readouterr().err
    assert run("mint", PAYER, "much", *journal) == 1
    assert "such as 1.5" in capsys.readouterr().err


def test_without_a_journal_it_says_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("balance", "--data-dir", str(tmp_path)) == 1
    assert "--journal" in capsys.readouterr().err


def test_status_and_drain(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with herd_process(tmp_path, workers=1) as server:
        where = ("--network", server.url, "--data-dir", str(tmp_path))
        assert run("status", "--json", *where) == 0
        status = json.loads(capsys.readouterr().out)
        assert [worker["id"] for worker in status["workers"]] == ["w1"]
        assert run("status", *where) == 0
        assert "w1" in capsys.readouterr().out
        assert run("drain", "w1", *where) == 0
        assert "draining" in capsys.readouterr().out
        assert run("drain", "w7", *where) == 1
        assert "this herd has: w1" in capsys.readouterr().err
        assert run("mint", PAYER, "5", "--data-dir", str(tmp_path)) == 0  # beside the herd that runs
