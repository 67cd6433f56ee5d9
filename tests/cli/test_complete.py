"""What the shell offers after Tab, asked for as bash does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from canister.cli.local import LocalServer
from canister.ic.identity import Identity
from canister.identities import IdentityStore

PROGRAM = "import sys; sys.argv[0] = 'canister'; from canister.cli import main; main([])"


def offered(line: str, **environment: str) -> list[str]:
    """Offers for the last word of a line, which may be empty."""
    words = line.split(" ")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={
            **os.environ,
            **environment,
            "_CANISTER_COMPLETE": "complete_bash",
            "COMP_WORDS": line,
            "COMP_CWORD": str(len(words) - 1),
        },
        capture_output=True,
        text=True,
    )
    assert done.stderr == ""
    return done.stdout.split()


@pytest.fixture
def identities() -> None:
    """Those of this test, in the folder that the environment names."""
    IdentityStore().add("alice", Identity.generate().to_pem())


def test_commands() -> None:
    assert {"status", "settings", "network", "identity", "top-up", "id"} <= set(offered("canister "))
    assert offered("canister identity im") == ["import"]


def test_methods() -> None:
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
def test_identities(line: str) -> None:
    assert offered(f"canister {line}") == ["anonymous", "controller", "alice"]
    assert offered(f"canister {line}al") == ["alice"]


@pytest.mark.parametrize("line", ["call ", "status ", "settings update ", "top-up ", "upload x --canister ", "id lla"])
def test_canisters(running_server: LocalServer, line: str) -> None:
    assert offered(f"canister {line}", CANISTER_URL=running_server.url) == ["llama_cpp"]


def test_without_a_server_nothing_is_offered(tmp_path: Path) -> None:
    assert offered("canister status ", CANISTER_URL="http://127.0.0.1:1") == []
    assert offered("canister status ", CANISTER_URL="nonsense") == []


def test_the_server_that_the_line_names(running_server: LocalServer) -> None:
    assert offered(f"canister status --network {running_server.url} ") == ["llama_cpp"]
