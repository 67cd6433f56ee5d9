"""Which server and which caller a command line means."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer

from canister.cli.options import caller, connection, load_settings, url_of
from canister.client import Canister
from canister.config import LOCAL_URL
from canister.ic.identity import Identity
from canister.ic_client import IcCanister
from canister.identities import IdentityStore

REMOTE = "https://canisters.example.org"


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    (tmp_path / "controller.key").write_text("lc_from_the_folder\n")
    return tmp_path


def key_for(network: str = "local", api_key: str | None = None, data_dir: Path | None = None) -> str | None:
    return connection(network, api_key, False, data_dir).api_key


def test_local_is_the_default_port_or_what_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    assert url_of("local") == LOCAL_URL
    monkeypatch.setenv("CANISTER_URL", "http://10.0.0.7:9000/")
    assert url_of("local") == "http://10.0.0.7:9000"
    assert url_of(REMOTE) == REMOTE


@pytest.mark.parametrize("network", ["ic", "127.0.0.1:8000", "ftp://host", "http://", ""])
def test_other_networks_are_told(network: str) -> None:
    with pytest.raises(typer.BadParameter, match="'local' or a URL"):
        url_of(network)


def test_key_order(monkeypatch: pytest.MonkeyPatch, data_dir: Path) -> None:
    monkeypatch.setenv("CANISTER_DATA_DIR", str(data_dir))
    assert key_for() == "lc_from_the_folder"
    monkeypatch.setenv("CANISTER_API_KEY", "lc_environment")
    assert key_for() == "lc_environment"
    assert key_for(api_key="lc_flag") == "lc_flag"
    assert connection("local", None, True, None).api_key is None
    with pytest.raises(typer.BadParameter):
        connection("local", "lc_flag", True, None)


def test_without_any_key_the_caller_is_anonymous(tmp_path: Path) -> None:
    assert key_for(data_dir=tmp_path) is None


def test_the_controllers_key_is_not_sent_to_other_machines(monkeypatch: pytest.MonkeyPatch, data_dir: Path) -> None:
    monkeypatch.setenv("CANISTER_DATA_DIR", str(data_dir))
    assert key_for(REMOTE) is None
    assert key_for(REMOTE, data_dir=data_dir) == "lc_from_the_folder"


def test_unusable_key_is_told() -> None:
    with pytest.raises(typer.BadParameter, match="copied whole"):
        key_for(api_key="lc_broken\nin two")


def client_for(
    api_key: str | None = None, anonymous: bool = False, identity: str | None = None, rest: bool = False
) -> Canister | IcCanister:
    return caller("local", "llama_cpp", api_key, anonymous, None, identity=identity, rest=rest)()


def test_which_door(monkeypatch: pytest.MonkeyPatch, data_dir: Path) -> None:
    monkeypatch.setenv("CANISTER_DATA_DIR", str(data_dir))
    IdentityStore().add("alice", Identity.generate().to_pem())
    assert isinstance(client_for(), IcCanister)
    assert isinstance(client_for(rest=True), Canister)
    assert isinstance(client_for(api_key="lc_flag"), Canister)
    monkeypatch.setenv("CANISTER_API_KEY", "lc_environment")
    assert isinstance(client_for(), Canister)
    assert isinstance(client_for(identity="alice"), IcCanister)
    assert isinstance(client_for(anonymous=True), IcCanister)


def test_options_that_contradict_each_other() -> None:
    with pytest.raises(typer.BadParameter, match="either --anonymous or --api-key"):
        client_for(api_key="lc_flag", anonymous=True)
    for options in ({"rest": True}, {"anonymous": True}, {"api_key": "lc_flag"}):
        with pytest.raises(typer.BadParameter, match="--identity goes with none of"):
            client_for(identity="alice", **options)  # type: ignore[arg-type]


def test_bad_settings_are_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(typer.BadParameter, match=r"port.*70000"):
        load_settings(port=70000)
    monkeypatch.setenv("CANISTER_CONTROLLER", "not a list")
    with pytest.raises(typer.BadParameter, match="controller"):
        load_settings()
    monkeypatch.delenv("CANISTER_CONTROLLER")
    monkeypatch.chdir(tmp_path)
    Path("canister.toml").write_text("prot = 1\n")
    with pytest.raises(typer.BadParameter, match="prot"):
        load_settings()
    Path("canister.toml").write_text("port = \n")
    with pytest.raises(typer.BadParameter, match="settings"):
        load_settings()
