"""Settings of the server and the clients: their rows (`sections.py`), and where values come from (`reading.py`)."""

from canister.config.reading import Settings, load_settings, rows, settings_from_json
from canister.config.sections import CanisterSettings, EngineSettings, ServerSettings
from canister.config.values import Flag

__all__ = [
    "CanisterSettings",
    "EngineSettings",
    "Flag",
    "ServerSettings",
    "Settings",
    "load_settings",
    "rows",
    "settings_from_json",
]
