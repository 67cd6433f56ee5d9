"""Commands that do not read the settings mean the same server as those that do."""

from __future__ import annotations

from pathlib import Path

import pytest

from canister.cli.shared.settings import data_folder, load_settings, served_url
from canister.defaults import DEFAULT_PORT


@pytest.fixture(autouse=True)
def _nothing_is_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("CANISTER_DATA_DIR", "CANISTER_PORT", "CANISTER_HOST", "CANISTER_URL", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("file", ["", "data_dir = 'of-file'\n", "port = 9001\nhost = '::'\n"])
@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"XDG_DATA_HOME": "/data"},
        {"CANISTER_DATA_DIR": "of-environment"},
        {"CANISTER_DATA_DIR": ""},
        {"canister_data_dir": "of-small-letters"},
        {"CANISTER_DATA_DIR": "~/there", "CANISTER_PORT": "9002"},
        {"CANISTER_HOST": "0.0.0.0", "CANISTER_API_KEY": "k"},
        {"Canister_Port": "9003"},
    ],
)
def test_without_reading_settings_the_same_is_meant(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], file: str
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    if file:
        Path("canister.toml").write_text(file)
    settings = load_settings().server
    assert data_folder(None) == settings.data_dir.expanduser().absolute()
    host, port = served_url().removeprefix("http://").rsplit(":", 1)
    assert int(port) == settings.port
    assert (settings.host, host) in {
        ("127.0.0.1", "127.0.0.1"),
        ("0.0.0.0", "127.0.0.1"),
        ("::", "[::1]"),
    }
    assert data_folder(Path("given")) == Path("given").absolute()


def test_a_misspelt_variable_is_told_though_settings_are_defaults(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CANISTER_PROT", "9004")
    assert served_url() == f"http://127.0.0.1:{DEFAULT_PORT}"
    load_settings.__globals__["_tell_misspelt_variables"].cache_clear()
    data_folder(None)
    assert "CANISTER_PROT is no setting and has no effect; did you mean CANISTER_PORT?" in capsys.readouterr().err
