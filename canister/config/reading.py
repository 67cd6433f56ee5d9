"""Settings read: flags > CANISTER_* > canister.toml > defaults."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field, ValidationError, ValidationInfo, create_model, field_validator
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from canister.config.sections import CanisterSettings, Section, ServerSettings
from canister.config.values import PANELS, Flag
from canister.defaults import ENVIRONMENT_PREFIX


class Settings(Section):
    """All settings: of the server, of every canister, and the differing ones of single canisters.

    `Settings(port=9000, slots=2)` sorts the names into the sections, and reads neither environment nor canister.toml.
    """

    server: ServerSettings = Field(default_factory=ServerSettings.defaults)
    every_canister: CanisterSettings = Field(default_factory=CanisterSettings.defaults)
    canisters: dict[str, CanisterSettings] = Field(
        default={},
        description=f"Settings of single canisters, by name: {', '.join(CanisterSettings.rows())}. "
        "In canister.toml: [canisters.llama_cpp]",
    )

    def of(self, canister: str) -> CanisterSettings:
        """The settings of one canister: its own before those of every one."""
        return self.canisters.get(canister, self.every_canister)

    @field_validator("canisters", mode="before")
    @classmethod
    def _with_those_of_every_one(cls, canisters: Any, info: ValidationInfo) -> Any:
        every = info.data.get("every_canister")
        if every is None or not isinstance(canisters, Mapping):
            return canisters  # the check of that value reports what is wrong
        return {name: _completed(name, own, every) for name, own in canisters.items()}


def _completed(canister: str, own: Any, every: CanisterSettings) -> Any:
    if not isinstance(own, Mapping):
        return own
    known = CanisterSettings.rows()
    for name in own:
        if name not in known and name not in CanisterSettings.inside():
            raise ValueError(f"[canisters.{canister}] {name}: only {', '.join(known)} can be set there")
    try:
        return CanisterSettings.model_validate({**dict(every), **own})
    except ValidationError as error:
        first = error.errors()[0]
        what = str(first["msg"]).removeprefix("Value error, ")
        raise ValueError(f"[canisters.{canister}] {first['loc'][-1]}: {what} (given: {first['input']!r})") from None


def rows() -> dict[str, FieldInfo]:
    """All settings by name, in the order of the help of `canister serve`."""

    def place(row: FieldInfo) -> int:
        return next((PANELS.index(mark.panel) for mark in row.metadata if isinstance(mark, Flag)), len(PANELS))

    return dict(sorted(Settings.rows().items(), key=lambda row: place(row[1])))


class _Sources(BaseSettings):
    model_config = SettingsConfigDict(env_prefix=ENVIRONMENT_PREFIX, toml_file="canister.toml")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings, env_settings, TomlConfigSettingsSource(settings_cls))


def load_settings(**flags: Any) -> Settings:
    """Settings from given flags (those that are None are not given), environment and canister.toml.

    Raises pydantic's ValidationError, which names the setting and the value, and SettingsError for what is no JSON.
    """
    fields: dict[str, Any] = {name: (row.annotation, row) for name, row in Settings.rows().items()}
    fields["canisters"] = (dict[str, dict[str, Any]], Field(default={}))
    read = create_model("Read", __base__=_Sources, **fields)
    given = read(**{name: value for name, value in flags.items() if value is not None})
    return Settings.model_validate({name: getattr(given, name) for name in given.model_fields_set})


def settings_from_json(values: dict[str, Any]) -> Settings:
    """All settings, as `Settings.model_dump_json` wrote them."""
    return Settings.model_validate(values)
