"""The command as a whole: how it ends when it is ended while it is being put together."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

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


INTERRUPTS_ITSELF = """\
import os, signal, sys

signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background of a shell it is ignored

class Interrupted:
    def find_spec(self, name, path=None, target=None):
        if name == "typer":
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupted())
from canister.__main__ import main
main()
"""


def test_ctrl_c_while_the_command_is_imported_shows_no_stack() -> None:
    done = subprocess.run([sys.executable, "-c", INTERRUPTS_ITSELF], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (130, "")


def test_the_script_is_the_module_that_takes_ctrl_c() -> None:
    (script,) = importlib.metadata.entry_points(group="console_scripts", name="canister")
    assert script.value == "canister.__main__:main"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no device that is always full")
def test_a_full_disk_behind_the_output_is_told_once() -> None:
    for line in (["candid"], ["--help"], ["version", "--json"]):
        with open("/dev/full", "w") as full:
            done = subprocess.run(
                [sys.executable, "-m", "canister", *line], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60
            )
        assert done.returncode == 1
        assert done.stderr == f"canister: [Errno 28] {os.strerror(28)}\n"
