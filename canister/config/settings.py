"""All settings: sorted into sections, and those of single canisters completed by those of every one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field, ValidationError, ValidationInfo, field_validator
from pydantic.fields import FieldInfo

from canister.config.sections import CanisterSettings, Section, ServerSettings
from canister.config.values import PANELS, ServeOption


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
        return next((PANELS.index(mark.panel) for mark in row.metadata if isinstance(mark, ServeOption)), len(PANELS))

    return dict(sorted(Settings.rows().items(), key=lambda row: place(row[1])))


def settings_from_json(values: dict[str, Any]) -> Settings:
    """All settings, as `Settings.model_dump_json` wrote them."""
    return Settings.model_validate(values)
