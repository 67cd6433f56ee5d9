"""`canister api-key` and `canister identity`, without a server."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from canister.ic.identity import Identity
from canister.state.api_keys import open_keys
from tests.cli.conftest import Command

PRINCIPAL = "2chl6-4hpzw-vqaaa-aaaaa-c"


@pytest.fixture(autouse=True)
def data_folder(canister: Command, tmp_path: Path) -> Path:
    """The default data folder, as the first start of a server leaves it."""
    folder = tmp_path / "data" / "llama-canister"
    with open_keys(folder):
        return folder


@pytest.mark.parametrize("line", [("create", "x"), ("list",), ("revoke", "x")])
def test_a_folder_without_a_server_is_not_made_into_one(
    canister: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: tuple[str, ...]
) -> None:
    absent, empty = tmp_path / "absent", tmp_path / "empty"
    empty.mkdir()
    for folder in (absent, empty):
        done = canister("api-key", *line, "--data-dir", folder)
        assert (done.code, done.out) == (1, "")
        assert done.err == f"canister: {folder} holds no server's data; name the folder with --data-dir\n"
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "of somebody else"))
    assert canister("api-key", *line).code == 1
    assert not absent.exists()
    assert list(empty.iterdir()) == []
    assert not (tmp_path / "of somebody else").exists()


def test_create_prints_the_key_and_nothing_else_on_stdout(canister: Command) -> None:
    done = canister("api-key", "create", "ci", "--principal", PRINCIPAL, "--expires", "30d")
    assert done.code == 0
    assert re.fullmatch(r"lc_[0-9a-f]{8}_[\w-]{43}\n", done.out)
    assert PRINCIPAL in done.err


def test_list_never_shows_a_key(canister: Command) -> None:
    key = canister("api-key", "create", "ci", "--principal", PRINCIPAL).out.strip()
    canister("api-key", "create", "own", "--expires", "1h")
    done = canister("api-key", "list")
    assert key not in done.out
    head, ci, own = done.out.splitlines()
    assert head.split() == ["NAME", "EXPIRES", "CREATED", "PRINCIPAL"]
    assert ci.split()[:2] == ["ci", "never"]
    assert ci.endswith(PRINCIPAL)
    assert re.match(r"own +\d{4}-\d\d-\d\d \d\d:\d\d  \d{4}-\d\d-\d\d \d\d:\d\d  \S{63}$", own)


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_a_list_is_no_wider_than_the_terminal(canister: Command, monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    principal = canister("api-key", "create", "a-service-with-a-name").err.split()[3].rstrip(";")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", str(width))
    _, line = canister("api-key", "list").out.splitlines()
    assert len(line) <= width
    assert line.split()[0] == "a-service-with-a-name"
    assert "never" in line
    if width == 200:
        assert line.endswith(principal)
    else:
        assert line.endswith(principal[-4:])


def test_revoke(canister: Command) -> None:
    canister("api-key", "create", "nightly")
    assert canister("api-key", "revoke", "nightly").code == 0
    assert "nightly" not in canister("api-key", "list").out
    canister("api-key", "create", "nightly")
    done = canister("api-key", "revoke", "nightl")
    assert (done.code, done.out) == (1, "")
    assert "did you mean 'nightly'?" in done.err


def test_mistakes_are_told(canister: Command) -> None:
    for arguments, what in (
        (("a b",), "no name"),
        (("x", "--principal", "nobody"), "nobody"),
        (("x", "--expires", "soon"), "no duration"),
    ):
        done = canister("api-key", "create", *arguments)
        assert (done.code, done.out) == (1, "")
        assert what in done.err
    canister("api-key", "create", "x")
    assert "already" in canister("api-key", "create", "x").err


def test_identity(canister: Command, tmp_path: Path) -> None:
    folder = tmp_path / "d"
    assert canister("identity", "path", "--data-dir", folder).out == f"{folder}/controller.pem\n"
    done = canister("identity", "principal", "--data-dir", folder)
    assert done.code == 1
    assert "canister serve" in done.err
    identity = Identity.generate()
    folder.mkdir()
    (folder / "controller.pem").write_bytes(identity.to_pem())
    assert canister("identity", "principal", "--data-dir", folder).out == f"{identity.principal}\n"
    (folder / "controller.pem").write_bytes(b"nothing")
    assert canister("identity", "principal", "--data-dir", folder).code == 1
