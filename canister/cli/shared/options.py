"""Options that several commands share. `connection.py` finds out what they mean."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from canister.cli.shared.complete import canister_names, identity_names
from canister.cli.shared.connection import LOCAL, Connected, Connection, caller, connection, only_local
from canister.defaults import DEFAULT_CANISTER, LOCAL_URL

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
    str, typer.Option("--canister-id", metavar="ID", help="Id of the canister, instead of --canister.")
]
ApiKey = Annotated[
    str | None,
    typer.Option(
        metavar="KEY",
        help="API key of the caller. [default: CANISTER_API_KEY, else controller.key of the data folder for a server "
        "on this machine, else anonymous]",
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
        help="Identity that signs, by its name in `canister identity list` or its PEM file. [default: the default "
        "identity]",
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
        help="Root key of a server on another machine, which checks its answers; `canister network status` prints it.",
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
        help="The network in icp's words; only local is known.",
        callback=only_local,
        show_default=False,
    ),
]


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """What a command line says of a server, a canister on it, and who calls."""

    network: str
    canister: str
    api_key: str | None
    anonymous: bool
    data_dir: Path | None
    identity: str | None
    rest: bool
    root_key: str | None

    def caller(self) -> Connected:
        """See `connection.caller`."""
        return caller(
            self.network,
            self.canister,
            self.api_key,
            self.anonymous,
            self.data_dir,
            identity=self.identity,
            rest=self.rest,
            root_key=self.root_key,
        )

    def connection(self) -> Connection:
        """See `connection.connection`."""
        return connection(self.network, self.api_key, self.anonymous, self.data_dir)


SERVER: Any = None  # stands where `takes_server` puts the options


def takes_server(command: Callable[..., None]) -> Callable[..., None]:
    """A command with a parameter `server: ServerOptions`, in whose place it takes the options that make one."""
    options = inspect.signature(_server, eval_str=True).parameters
    signature = inspect.signature(command, eval_str=True)

    @functools.wraps(command)
    def run(**given: Any) -> None:
        command(server=_server(**{name: given.pop(name) for name in options}), **given)

    parameters: list[inspect.Parameter] = []
    for parameter in signature.parameters.values():
        parameters += options.values() if parameter.name == "server" else [parameter]
    del run.__wrapped__  # typer would ask it
    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def _server(
    network: Network = LOCAL,
    canister: CanisterName = DEFAULT_CANISTER,
    canister_id: CanisterId = "",
    api_key: ApiKey = None,
    anonymous: Anonymous = False,
    data_dir: DataDir = None,
    identity: IdentityName = None,
    rest: Rest = False,
    root_key: RootKey = None,
) -> ServerOptions:
    return ServerOptions(network, canister_id or canister, api_key, anonymous, data_dir, identity, rest, root_key)
