"""`canister ao serve`: `canister serve` with the doors of AO open, by options that are named for AO."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from canister.cli.commands.serve import parameters as serve_parameters
from canister.cli.shared import serving
from canister.cli.shared.parameters import give, parameter

AO = "AO"
OWN = {"model": "ao_model", "packages": "ao_packages", "workers": "ao_workers"}


def serve(**given: Any) -> None:
    """Serve a network of AO until SIGTERM or Ctrl-C.

    One root is a HyperBEAM node, a gateway, a bundler, and the legacy units at /mu, /cu and /graphql; with a token, a
    herder and its workers. All other options of `canister serve` count too.

    Example: canister ao serve --model Phi-3=phi-3-mini.gguf
    """
    renamed = {OWN.get(name, name): value for name, value in given.items()}
    serving.start(ao=True, **renamed)


def _parameters() -> list[inspect.Parameter]:
    others = [one for one in serve_parameters() if one.name not in (*OWN, *OWN.values(), "ao")]
    return [
        parameter(
            "model",
            list[str] | None,
            "A model that programs load by this id: a GGUF file; repeatable. The shipped one is there.",
            metavar="ID=FILE",
            panel=AO,
        ),
        parameter(
            "packages",
            Path | None,
            "Lua packages that programs may install, as DIR/@vendor/Name.lua.",
            metavar="DIR",
            panel=AO,
        ),
        parameter("workers", int | None, "Workers of the herder. [default: 2]", metavar="N", least=0, panel=AO),
        *others,
    ]


give(serve, _parameters())
