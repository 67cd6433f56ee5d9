"""Options that several commands share. `connection.py` finds out what they mean."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from canister.cli.shared.complete import canister_names, identity_names
from canister.cli.shared.connection import only_local
from canister.defaults import LOCAL_URL

Network = Annotated[
    str,
    typer.Option(
        "--network",
        "--url",
        "-n",
        metavar="local|URL",
        help=f"Server to talk to; local: CANISTER_URL, else host and port of the settings, {LOCAL_URL}.",
    ),
]
CanisterName = Annotated[
    str,
    typer.Option("--canister", metavar="NAME", help="Name or id of the canister.", autocompletion=canister_names),
]
CanisterId = Annotated[
    str, typer.Option("--canister-id", metavar="ID", help="Id of the canister; overrules --canister.")
]
ApiKey = Annotated[
    str | None,
    typer.Option(
        metavar="KEY",
        help="Who calls. Otherwise CANISTER_API_KEY; otherwise, for a server on this machine, controller.key "
        "of the data folder; otherwise anonymous.",
    ),
]
Anonymous = Annotated[bool, typer.Option("--anonymous", help="Call without any key.")]
DataDir = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Data folder of the server, for its controller.key.", show_default=False),
]

IdentityName = Annotated[
    str | None,
    typer.Option(
        "--identity",
        metavar="NAME",
        help="Who signs: a name that `canister identity list` shows, or a PEM file. [default: the default identity]",
        show_default=False,
        autocompletion=identity_names,
    ),
]
RootKey = Annotated[
    str | None,
    typer.Option(
        "--root-key",
        "-k",
        metavar="HEX",
        help="Key that vouches for the answers of a server elsewhere; `canister network status` prints it.",
        show_default=False,
    ),
]
Rest = Annotated[bool, typer.Option("--rest", help="Call over REST, with an API key, instead of signing.")]

# Of icp and dfx: which network of a project. Here there is one.
Environment = Annotated[
    str | None,
    typer.Option(
        "--environment",
        "-e",
        metavar="local",
        help="As icp names the network: local.",
        callback=only_local,
        show_default=False,
    ),
]
