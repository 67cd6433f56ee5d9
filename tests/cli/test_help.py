"""What docs are made from is complete."""

from __future__ import annotations

from canister.cli import help as texts
from canister.config import Settings
from tests.cli.conftest import Command


def test_every_setting_is_a_flag_of_serve(canister: Command) -> None:
    shown = canister("serve", "--help").out
    for name, field in Settings.model_fields.items():
        assert field.description, name
        if name == "canisters":  # a table of tables: canister.toml says it better than a flag could
            continue
        assert f"--{name.replace('_', '-')}" in shown
        assert texts.default_text(name) in "".join(shown.split()), name


def test_configuration_lists_every_setting() -> None:
    page = texts.render_configuration()
    for name in Settings.model_fields:
        assert f"`{name}`" in page
        assert f"`CANISTER_{name.upper()}`" in page


def test_cli_page_lists_every_command(canister: Command) -> None:
    page = texts.render_cli_help()
    for name in (
        "serve",
        "call",
        "chat",
        "upload",
        "download",
        "estimate",
        "fit",
        "probe",
        "api-key create",
        "identity principal",
        "identity new",
        "id",
        "status",
        "settings update",
        "top-up",
        "network status",
    ):
        assert f"## canister {name}\n" in page
    assert "--candid" not in page
    assert "deposit-cycles" not in page
    assert "fabricate-cycles" not in page
    assert "|  |  |" not in page


def test_no_arguments_show_the_help(canister: Command) -> None:
    done = canister()
    assert "serve" in done.out + done.err
