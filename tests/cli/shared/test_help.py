"""What docs are made from is complete."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache

import pytest
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from canister.cli import Root, app
from canister.cli.shared import help as texts
from canister.config import ServeOption, rows
from tests.cli.conftest import Command

MOST_CHARACTERS = 60  # of a summary that a list of commands shows whole, in 80 columns


def test_every_setting_is_a_flag_of_serve(canister: Command) -> None:
    shown = canister("serve", "--help").out
    for name, field in rows().items():
        assert field.description, name
        if name == "canisters":  # a table of tables: canister.toml says it better than a flag could
            continue
        assert f"--{name.replace('_', '-')}" in shown
        assert texts.default_text(name) in "".join(shown.split()), name


def test_configuration_lists_every_setting() -> None:
    page = texts.render_configuration()
    for name in rows():
        assert f"`{name}`" in page
        assert f"`CANISTER_{name.upper()}`" in page


def test_cli_page_lists_every_command(canister: Command) -> None:
    page = texts.render_cli_help(app)
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


def commands(group: TyperGroup, path: str = "") -> Iterator[tuple[str, TyperCommand | TyperGroup]]:
    """Those that a help lists, each with its words."""
    for name, command in group.commands.items():
        if not command.hidden:
            yield f"{path} {name}".strip(), command  # type: ignore[misc]
            if isinstance(command, TyperGroup):
                yield from commands(command, f"{path} {name}".strip())


@cache  # which loads the module of each command
def everything() -> dict[str, TyperCommand | TyperGroup]:
    root = get_command(app)
    assert isinstance(root, TyperGroup)
    return dict(commands(root))


@pytest.mark.parametrize("name", everything())
def test_a_list_of_commands_shows_whole_sentences(name: str) -> None:
    help_text = everything()[name].help or ""
    first = help_text.strip().splitlines()[0]
    assert first.endswith(".")
    assert len(first.partition(". ")[0]) <= MOST_CHARACTERS, first


def first_sentence(text: str) -> str:
    return text.strip().splitlines()[0].partition(". ")[0].rstrip(".") + "."


def test_the_help_of_all_commands_tells_of_each_what_its_own_does() -> None:
    shown = {name: entry.summary for name, entry in Root.entries.items() if entry.summary is not None}
    own = {name: command for name, command in everything().items() if " " not in name}
    assert shown == {name: first_sentence(command.help or "") for name, command in own.items()}
    assert {command.name for command in own.values()} == set(shown)


@pytest.mark.parametrize(
    "name", [name for name, command in everything().items() if not isinstance(command, TyperGroup)]
)
def test_usage_lines_read_as_they_are_typed(canister: Command, name: str) -> None:
    usage = canister(*name.split(), "--help").out.partition("\n\n")[0]
    assert not set("{}") & set(usage)
    assert "[[" not in usage
    assert "...]" not in usage


def test_the_options_of_serve_stand_in_groups(canister: Command) -> None:
    shown = canister("serve", "--help").out
    titles = [line.rstrip(":") for line in shown.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert titles[:2] == ["Basics", "Model and speed"]
    assert titles[-1] == "Options"
    panels = {flag.panel for field in rows().values() for flag in field.metadata if isinstance(flag, ServeOption)}
    assert sorted(titles) == sorted([*panels, "Options"])
    basics = shown.partition("Basics:")[2].partition("Model and speed:")[0]
    assert re.findall(r"^  (?:-m, )?(--\S+)", basics, re.MULTILINE) == [
        "--host",
        "--port",
        "--listen",
        "--data-dir",
        "--model",
        "--canister",
    ]


def test_no_arguments_show_the_help(canister: Command) -> None:
    done = canister()
    assert "serve" in done.out + done.err
