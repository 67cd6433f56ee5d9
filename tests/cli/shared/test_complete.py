"""What the shell offers after Tab, asked for as bash does."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from canister.cli import main
from canister.cli.shared import complete
from canister.client.identities import IdentityStore
from canister.client.local_server import LocalServer
from canister.ic.identity import Identity
from tests.cli.conftest import Command

PROGRAM = "import sys; sys.argv[0] = 'canister'; from canister.cli import main; main([])"

Offered = Callable[..., list[str]]


def asked(line: str) -> dict[str, str]:
    """What bash sets to ask for offers for the last word of a line, which may be empty."""
    words = line.split(" ")
    return {"_CANISTER_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}


@pytest.fixture
def offered(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Offered:
    """Offers for the last word of a line. In this process; a server has time to answer."""
    monkeypatch.setattr(complete, "SECONDS", 60.0)
    monkeypatch.setattr(sys, "argv", ["canister"])

    def ask(line: str, **environment: str) -> list[str]:
        with monkeypatch.context() as patch:
            for name, value in (asked(line) | environment).items():
                patch.setenv(name, value)
            with pytest.raises(SystemExit):
                main([])
        out, err = capsys.readouterr()
        assert err == ""
        return out.split()

    return ask


@pytest.fixture
def identities() -> None:
    """Those of this test, in the folder that the environment names."""
    IdentityStore().add("alice", Identity.generate().to_pem())


def test_the_program_is_asked_by_the_shell() -> None:
    environment = os.environ | asked("canister identity im")
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True)
    assert (done.stdout.split(), done.stderr) == (["import"], "")


def test_commands(offered: Offered) -> None:
    assert {"status", "settings", "network", "identity", "top-up", "id"} <= set(offered("canister "))
    assert offered("canister identity im") == ["import"]


def test_methods(offered: Offered) -> None:
    assert offered("canister call llama_cpp get_max") == ["get_max_tokens"]


@pytest.mark.usefixtures("identities")
@pytest.mark.parametrize(
    "line",
    [
        "identity default ",
        "identity export ",
        "call x whoami --identity ",
        "status llama_cpp --identity ",
        "upload x --identity ",
    ],
)
def test_identities(offered: Offered, line: str) -> None:
    assert offered(f"canister {line}") == ["anonymous", "controller", "alice"]
    assert offered(f"canister {line}al") == ["alice"]


@pytest.mark.parametrize("line", ["call ", "status ", "settings update ", "top-up ", "upload x --canister ", "id lla"])
def test_canisters(offered: Offered, running_server: LocalServer, line: str) -> None:
    assert offered(f"canister {line}", CANISTER_URL=running_server.url) == ["llama_cpp"]


def test_without_a_server_nothing_is_offered(offered: Offered, tmp_path: Path) -> None:
    assert offered("canister status ", CANISTER_URL="http://127.0.0.1:1") == []
    assert offered("canister status ", CANISTER_URL="nonsense") == []


def test_the_server_that_the_line_names(offered: Offered, running_server: LocalServer) -> None:
    assert offered(f"canister status --network {running_server.url} ") == ["llama_cpp"]


@pytest.mark.parametrize(
    ("line", "values"),
    [
        ("call x health --output ", "auto candid text hex json idl raw pp"),
        ("call x health --args-format h", "hex"),
        ("upload x --filetype pro", "promptcache"),
        ("serve --exact ", "auto on portable off"),
        ("serve --budget-policy ", "yield trap"),
        ("identity new --key ed", "ed25519"),
    ],
)
def test_values(offered: Offered, line: str, values: str) -> None:
    assert offered(f"canister {line}") == values.split()


def test_names_of_api_keys(offered: Offered, running_server: LocalServer, tmp_path: Path) -> None:
    folder = str(running_server.data_dir)
    assert offered("canister api-key revoke contr", CANISTER_DATA_DIR=folder) == ["controller"]
    assert offered("canister api-key revoke ", CANISTER_DATA_DIR=str(tmp_path / "none")) == []
    assert not (tmp_path / "none").exists()


def test_files_of_a_canister(offered: Offered, running_server: LocalServer, canister: Command, tmp_path: Path) -> None:
    where = {"CANISTER_URL": running_server.url, "CANISTER_DATA_DIR": str(running_server.data_dir)}
    (tmp_path / "notes.txt").write_text("x")
    options = ("--network", running_server.url, "--data-dir", running_server.data_dir)
    name = "folder-for-completion/notes.txt"
    assert canister("upload", tmp_path / "notes.txt", "--canister-filename", name, *options).code == 0
    assert offered("canister download folder-for-c", **where) == [name]
    assert offered("canister download folder-for-c", CANISTER_URL="http://127.0.0.1:1") == []


def test_words_of_dfx_and_icp(offered: Offered, running_server: LocalServer) -> None:
    assert offered("canister canister met") == ["metadata"]
    assert offered("canister canister info ", CANISTER_URL=running_server.url) == ["llama_cpp"]
