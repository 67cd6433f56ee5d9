"""Where settings come from: flags > CANISTER_* > canister.toml > defaults.

A server gets its settings from its starter, and does not load what reads them here.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field, create_model
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from canister.config.settings import Settings
from canister.defaults import ENVIRONMENT_PREFIX


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
