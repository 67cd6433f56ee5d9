"""`canister api-key` and `canister identity`, without a server."""

from __future__ import annotations

import re
from pathlib import Path

from canister.ic.identity import Identity
from tests.cli.conftest import Command

PRINCIPAL = "2chl6-4hpzw-vqaaa-aaaaa-c"


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
    assert head.split() == ["NAME", "PRINCIPAL", "CREATED", "EXPIRES"]
    assert ci.split()[:2] == ["ci", PRINCIPAL]
    assert ci.endswith("never")
    assert own.startswith("own")
    assert own.endswith("UTC")


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
