"""`canister identity`: from the first key to the call that it signs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from canister.client.local_server import LocalServer
from canister.ic.certificate import RootKey
from canister.ic.identity import Identity
from canister.ic.principal import ANONYMOUS
from tests.cli.conftest import Command


def test_new_prints_the_principal(canister: Command) -> None:
    done = canister("identity", "new", "alice", "--storage", "plaintext", "--key", "secp256k1")
    assert (done.code, done.err) == (0, "made identity alice\n")
    assert canister("identity", "principal", "--identity", "alice").out == done.out
    pem = canister("identity", "export", "alice").out
    assert "BEGIN EC PRIVATE KEY" in pem
    assert f"{Identity.from_pem(pem.encode()).principal}\n" == done.out
    again = canister("identity", "new", "alice")
    assert (again.code, again.out) == (1, "")
    assert "alice is there already" in again.err


def test_keys_are_kept_in_files_only(canister: Command) -> None:
    for arguments in (("new", "alice"), ("import", "alice", "--from-pem", "x.pem")):
        done = canister("identity", *arguments, "--storage", "keyring")
        assert done.code == 2
        assert "plaintext is the only way" in " ".join(done.err.split())


def test_import_what_was_exported(canister: Command, tmp_path: Path) -> None:
    principal = canister("identity", "new", "alice").out
    (tmp_path / "alice.pem").write_text(canister("identity", "export", "alice").out)
    assert canister("identity", "import", "copy", "--from-pem", tmp_path / "alice.pem").out == principal
    assert canister("identity", "import", "none", "--from-pem", tmp_path / "none.pem").code == 1
    (tmp_path / "bad.pem").write_text("nothing")
    done = canister("identity", "import", "bad", "--from-pem", tmp_path / "bad.pem")
    assert (done.code, done.out) == (1, "")
    assert "no private key" in done.err


def test_list_and_default(canister: Command, tmp_path: Path) -> None:
    assert canister("identity", "list").out == f"  anonymous {ANONYMOUS}\n"
    assert canister("identity", "default").out == "controller\n"
    alice = canister("identity", "new", "alice").out.strip()
    assert canister("identity", "default", "alice").out == ""
    assert canister("identity", "default").out == "alice\n"
    assert canister("identity", "principal").out == f"{alice}\n"
    folder = tmp_path / "data"
    folder.mkdir()
    own = Identity.generate()
    (folder / "controller.pem").write_bytes(own.to_pem())
    done = canister("identity", "list", "--data-dir", folder)
    assert done.out == f"  anonymous  {ANONYMOUS}\n  controller {own.principal}\n* alice      {alice}\n"
    assert canister("identity", "list", "-q").out == "anonymous\nalice\n"
    rows = json.loads(canister("identity", "list", "--json").out)
    assert rows[1] == {"name": "alice", "principal": alice, "is_default": True}


def test_delete(canister: Command) -> None:
    canister("identity", "new", "alice")
    assert canister("identity", "delete", "alice").code == 0
    done = canister("identity", "delete", "alice")
    assert done.code == 1
    assert "known: anonymous, controller" in done.err
    assert canister("identity", "export", "anonymous").code == 2


@pytest.mark.parametrize("by", ["option", "default"])
def test_who_calls(canister: Command, running_server: LocalServer, tmp_path: Path, by: str) -> None:
    """Somebody new may not upload, and the server knows whom it refused."""
    canister("identity", "new", "stranger")
    (tmp_path / "file").write_bytes(b"x")
    options = ["--network", running_server.url, "--data-dir", running_server.data_dir]
    if by == "option":
        options += ["--identity", "stranger"]
    else:
        canister("identity", "default", "stranger")
    done = canister("upload", tmp_path / "file", "--filetype", "other", *options)
    assert (done.code, done.out) == (1, "")
    assert "Access Denied" in done.err


def test_whose_word_counts(canister: Command, running_server: LocalServer, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    options = ["--network", running_server.url, "--data-dir", running_server.data_dir, "--filetype", "other"]
    wrong = RootKey.generate().public_key_der.hex()
    done = canister("upload", tmp_path / "file", *options, "--root-key", wrong)
    assert (done.code, done.out) == (1, "")
    assert "certificate that does not hold" in done.err
    done = canister("upload", tmp_path / "file", *options, "--root-key", "no hex")
    assert done.code == 2
