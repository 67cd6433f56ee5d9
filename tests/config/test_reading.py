"""Settings: one row each, sorted into sections, read from flags, environment and file, and told apart by canister."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from canister.config import CanisterSettings, Settings, rows, settings_from_json
from canister.config.sections import Section
from canister.config.sources import load_settings


@pytest.fixture(autouse=True)
def _empty_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def own_rows(section: type[Section]) -> list[str]:
    inside = section.inside()
    found = [name for name in section.model_fields if name not in inside]
    return found + [name for other in inside.values() for name in own_rows(other)]


def test_each_setting_stands_in_one_section() -> None:
    names = own_rows(Settings)
    assert len(names) == len(set(names))
    assert sorted(names) == sorted(rows())


def test_flags_win_over_the_environment_and_that_over_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("canister.toml").write_text("port = 9001\nslots = 2\nthreads = 3\n")
    monkeypatch.setenv("CANISTER_SLOTS", "4")
    monkeypatch.setenv("canister_controller", '["aaaaa-aa"]')
    settings = load_settings(port=9002, threads=None, ram_cache="1K")
    assert settings.server.port == 9002
    assert settings.server.controller == ["aaaaa-aa"]
    engine = settings.every_canister.engine
    assert (engine.slots, engine.threads, engine.ram_cache) == (4, 3, 1024)


def test_a_canister_has_what_it_does_not_say_itself_from_every_one() -> None:
    Path("canister.toml").write_text(
        "slots = 2\nthreads = 3\ncall_timeout = 9\n"
        "[canisters.one]\nslots = 5\nmax_calls = 7\ninstruction_limit = 'none'\n"
    )
    settings = load_settings(page_cost="legacy")
    one, other = settings.of("one"), settings.of("other")
    assert (one.engine.slots, one.engine.threads, one.call_timeout, one.page_cost) == (5, 3, 9, "legacy")
    assert (one.max_calls, one.instruction_limit) == (7, None)
    assert other == settings.every_canister
    assert other.engine.slots == 2


@pytest.mark.parametrize(
    ("own", "told"),
    [
        ({"port": 1}, "[canisters.one] port: only slots, threads, "),
        ({"slots": "many"}, "[canisters.one] slots: "),
        ({"ram_cache": "1X"}, "[canisters.one] ram_cache: '1X' is not a size: "),
        (5, "canisters.one"),
    ],
)
def test_what_is_wrong_with_one_canister_is_told_at_the_start(own: object, told: str) -> None:
    with pytest.raises(ValidationError) as error:
        Settings.model_validate({"canisters": {"one": own}})
    assert told in str(error.value)


def test_settings_go_through_json_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings.model_validate({"port": 9003, "exact": "on", "canisters": {"a": {"slots": 3, "max_queue": 1}}})
    monkeypatch.setenv("CANISTER_PORT", "1")
    assert settings_from_json(json.loads(settings.model_dump_json())) == settings


def test_a_section_is_not_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        CanisterSettings().max_calls = 1  # type: ignore[misc]
