"""`canister ao serve`: `canister serve` with the doors of AO open, by options that are named for AO."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Annotated, Any

import typer

from canister.cli.commands.serve import parameters as serve_parameters
from canister.cli.shared import serving

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
    own = {
        "model": Annotated[
            list[str] | None,
            typer.Option(
                metavar="ID=FILE",
                help="A model that programs load by this id: a GGUF file; repeatable. The shipped one is there.",
                show_default=False,
                rich_help_panel=AO,
            ),
        ],
        "packages": Annotated[
            Path | None,
            typer.Option(
                metavar="DIR",
                help="Lua packages that programs may install, as DIR/@vendor/Name.lua.",
                show_default=False,
                rich_help_panel=AO,
            ),
        ],
        "workers": Annotated[
            int | None,
            typer.Option(
                min=0,
                metavar="N",
                help="Workers of the herder. [default: 2]",
                show_default=False,
                rich_help_panel=AO,
            ),
        ],
    }
    mine = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind)
        for name, kind in own.items()
    ]
    others = [one for one in serve_parameters() if one.name not in (*OWN, *OWN.values(), "ao")]
    return [*mine, *others]


serve.__signature__ = inspect.Signature(_parameters())  # type: ignore[attr-defined]  # typer reads it
serve.__annotations__ = {parameter.name: parameter.annotation for parameter in _parameters()}
