"""How a server is started from the command line: its settings, and what they put behind its doors."""

from __future__ import annotations

from typing import Any


def start(**given: Any) -> None:
    """Serve until the end. given: settings as flags give them; a repeatable one that was not given is an empty list."""
    from canister.cli.shared.settings import load_settings

    settings = load_settings(**{name: None if value == [] else value for name, value in given.items()})

    from canister.server.process import start as start_process

    if settings.server.ao:
        from canister.cli.shared import ao_front

        settings = ao_front.with_models(settings)
        start_process(settings, ao_front.opened, ao_front.__name__)
    else:
        start_process(settings)
