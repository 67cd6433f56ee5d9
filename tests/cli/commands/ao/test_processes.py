"""Processes from the command line, against a real `canister ao serve`."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from canister.ao.signing.wallets import ArweaveWallet, Ed25519Wallet
from canister.cli import app
from canister.client.errors import NotConnected
from canister.client.local_server import LocalServer
from tests.cli.conftest import Command

PING = """
Handlers.add("ping", "Ping", function(msg)
  print("pinged by " .. msg.From)
  msg.reply({ Action = "Pong", Data = "pong" })
end)
"""


@pytest.fixture(scope="module")
def wallet(tmp_path_factory: pytest.TempPathFactory, rsa_wallet: ArweaveWallet) -> Path:
    file = tmp_path_factory.mktemp("wallet") / "wallet.json"
    file.write_text(rsa_wallet.to_jwk())
    return file


@pytest.fixture
def network(ao_server: LocalServer, wallet: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Options of a command that signs."""
    monkeypatch.setenv("CANISTER_URL", ao_server.url)
    return ["--wallet", str(wallet)]


def test_a_process_is_made_loaded_and_talked_to(
    canister: Command, network: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = ArweaveWallet.from_jwk(Path(network[1]).read_text()).address
    source = tmp_path / "ping.lua"
    source.write_text(PING)
    loaded = canister("ao", "load", source, "--name", "pinger", *network)
    assert loaded.code == 0, loaded.err
    process = loaded.out.strip()
    assert canister("ao", "eval", process, "Name .. ' ' .. 1 + 1", *network).out == "pinger 2\n"
    sent = canister("ao", "send", process, "--action", "Ping", "--data", "hello", "--tag", "X-Y=z", *network)
    assert sent.out == f"pinged by {address}\n"
    again = canister("ao", "result", process, sent.err.strip(), "--json")
    (message,) = json.loads(again.out)["Messages"]
    assert (message["Data"], message["Target"]) == ("pong", address)

    monkeypatch.setattr("sys.stdin", io.StringIO("6 * 7\n.load none.lua\n.help\nerror('no')\n.exit\nnever\n"))
    typed = canister("ao", "console", process, *network)
    assert (typed.code, typed.out.splitlines()[0]) == (0, "42")
    assert "No such file" in typed.err
    assert "no" in typed.err
    assert "never" not in typed.out


def test_what_a_program_does_wrong_is_told(canister: Command, network: list[str], tmp_path: Path) -> None:
    process = canister("ao", "spawn", *network).out.strip()
    failed = canister("ao", "eval", process, "error('broken')", *network)
    assert failed.code == 1
    assert "broken" in failed.err
    source = tmp_path / "wrong.lua"
    source.write_text("this is no Lua")
    loaded = canister("ao", "load", source, "--id", process, *network)
    assert loaded.code == 1
    assert str(source) in loaded.err
    nobody = canister("ao", "send", "0" * 43, "--action", "Ping", *network)
    assert nobody.code == 1
    assert "0000" in nobody.err


def test_who_does_not_own_a_process_is_told(
    canister: Command, network: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = canister("ao", "spawn", *network).out.strip()
    source = tmp_path / "source.lua"
    source.write_text("X = 1")
    canister("ao", "spawn")  # with a wallet of one's own
    monkeypatch.setattr("sys.stdin", io.StringIO("X = 1\n.exit\n"))
    for command in (("eval", process, "X = 1"), ("load", source, "--id", process), ("console", process)):
        told = canister("ao", *command)
        assert f"{process} was made by" in told.err, told
        assert "--wallet" in told.err
    assert canister("ao", "eval", process, "X = 1", *network).err == ""
    assert canister("ao", "eval", process, "X", *network).out == "1\n"


def test_data_is_run_when_the_process_begins(canister: Command, network: list[str], tmp_path: Path) -> None:
    source = tmp_path / "boot.lua"
    source.write_text("Booted = 'yes'")
    process = canister("ao", "spawn", "--on-boot", source, *network).out.strip()
    assert canister("ao", "eval", process, "Booted", *network).out == "yes\n"


def test_a_wallet_of_ones_own_is_made_at_the_first_use(canister: Command, network: list[str]) -> None:
    made = canister("ao", "spawn")
    assert made.code == 0, made.err
    assert "made the wallet" in made.err
    assert canister("ao", "eval", made.out.strip(), "1").out == "1\n"


def test_an_id_may_begin_with_a_dash(canister: Command, network: list[str]) -> None:
    for id in ("-" + "w" * 42, "--to" + "_" * 38 + "w"):
        for command in (
            ("send", id, *network),
            ("result", id, id),
            ("eval", id, "1", *network),
            ("load", __file__, "--id", id, *network),
        ):
            done = canister("ao", *command)
            assert (done.code, id in done.err) == (1, True), done.err
        assert canister("ao", "balance", id).out == "0\n"


def test_money_is_made_by_controllers_alone(canister: Command, network: list[str], ao_server: LocalServer) -> None:
    address = Ed25519Wallet.generate().address
    refused = canister("ao", "mint", address, "1.5", "--api-key", "wrong")
    assert refused.code == 1
    minted = canister("ao", "mint", address, "1.5", "--api-key", ao_server.api_key)
    assert minted.out == f"1.5 for {address}\n"
    assert canister("ao", "balance", address).out == "1.5\n"
    assert canister("ao", "balance", *network).out == "0\n"
    for wrong in ("-1", "0", "many"):
        assert canister("ao", "mint", "--api-key", ao_server.api_key, "--", address, wrong).code != 0
    assert "address" in canister("ao", "balance", "nobody").err
    assert "address" in canister("ao", "mint", "nobody", "1", "--api-key", ao_server.api_key).err


def test_what_a_failure_names_is_an_option_here_too() -> None:
    """`--network` is how other commands name a server, and what `nobody listens there` tells people to use."""
    done = CliRunner().invoke(app, ["ao", "balance", "ADDRESS", "--network", "http://127.0.0.1:1"])
    assert isinstance(done.exception, NotConnected)
    assert "--network" in str(done.exception)
