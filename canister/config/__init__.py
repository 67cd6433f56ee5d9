"""Settings of the server and the clients: their rows (`sections.py`), and where values come from (`sources.py`)."""

from canister.config.sections import CanisterSettings, EngineSettings, ServerSettings
from canister.config.settings import Settings, rows, settings_from_json
from canister.config.values import ServeOption

__all__ = [
    "CanisterSettings",
    "EngineSettings",
    "ServeOption",
    "ServerSettings",
    "Settings",
    "rows",
    "settings_from_json",
]
