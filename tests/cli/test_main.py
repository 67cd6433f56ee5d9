"""The command as a whole: how it ends when it is ended while it is being put together."""

from __future__ import annotations

import pytest

from canister import cli


def test_ctrl_c_before_a_command_runs_shows_no_stack(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> list[str]:
        raise KeyboardInterrupt

    monkeypatch.setattr("canister.cli.habits.translated", interrupted)
    with pytest.raises(SystemExit) as end:
        cli.main(["status"])
    assert end.value.code == 130
    assert "Traceback" not in capsys.readouterr().err
