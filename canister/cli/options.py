"""Options that several commands share, and what they stand for: which server, and who calls."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

import typer

from canister.cli.complete import canister_names, identity_names
from canister.config import LOCAL_URL

if TYPE_CHECKING:
    from canister.agent import Agent
    from canister.client import Canister
    from canister.config import Settings
    from canister.ic.identity import Identity
    from canister.ic_client import IcCanister

Network = Annotated[
    str,
    typer.Option(
        "--network",
        "--url",
        "-n",
        metavar="local|URL",
        help=f"Server to talk to; local: CANISTER_URL, or {LOCAL_URL}.",
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

LOCAL = "local"


@dataclass(frozen=True, slots=True)
class Connection:
    """url: without a path. api_key None: anonymous."""

    url: str
    api_key: str | None


def connection(network: str, api_key: str | None, anonymous: bool, data_dir: Path | None) -> Connection:
    """Which server and which caller the options mean. Raises typer.BadParameter."""
    url = url_of(network)
    if anonymous:
        if api_key:
            raise typer.BadParameter("either --anonymous or --api-key")
        return Connection(url, None)
    key = api_key or os.environ.get("CANISTER_API_KEY") or _controller_key(url, data_dir)
    if key and not (key.isascii() and key.isprintable()):
        raise typer.BadParameter("the API key has characters that no key has; was it copied whole?")
    return Connection(url, key or None)


def caller(
    network: str,
    canister: str,
    api_key: str | None,
    anonymous: bool,
    data_dir: Path | None,
    *,
    identity: str | None,
    rest: bool,
    root_key: str | None = None,
) -> Callable[[], Canister | IcCanister]:
    """Makes the client that the options mean: one that signs, or one over REST when they speak of that or of a key."""
    from canister.client import Canister
    from canister.ic_client import IcCanister

    if identity is not None and (rest or anonymous or api_key):
        raise typer.BadParameter("--identity goes with none of --rest, --anonymous and --api-key")
    if anonymous and api_key:
        raise typer.BadParameter("either --anonymous or --api-key")
    url = url_of(network)
    api_key = api_key or os.environ.get("CANISTER_API_KEY")
    if rest or (api_key and identity is None and not anonymous):
        server = connection(network, api_key, anonymous, data_dir)
        return lambda: Canister(server.url, canister, server.api_key)
    sender = None if anonymous else signer(url, data_dir, identity)
    key = _root_key(root_key)
    return lambda: IcCanister(url, canister, sender, root_key=key)


def agent_for(network: str, identity: str | None, data_dir: Path | None, root_key: str | None) -> Agent:
    """The agent that the options mean. Raises typer.BadParameter, CanisterError."""
    from canister.agent import Agent

    url = url_of(network)
    return Agent(url, signer(url, data_dir, identity), _root_key(root_key))


def _root_key(text: str | None) -> bytes | None:
    try:
        return None if text is None else bytes.fromhex(text.removeprefix("0x"))
    except ValueError:
        raise typer.BadParameter("--root-key is not hex; was it copied whole?") from None


def url_of(network: str) -> str:
    """`local` or a URL, as the URL of a server."""
    url = os.environ.get("CANISTER_URL") or LOCAL_URL if network == LOCAL else network
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise typer.BadParameter(f"a network is 'local' or a URL like {LOCAL_URL}, not {url!r}")
    return url.rstrip("/")


def load_settings(**flags: Any) -> Settings:
    """Settings, or a usage error that names the setting and the value."""
    from pydantic import ValidationError
    from pydantic_settings import SettingsError

    from canister import config

    try:
        return config.load_settings(**flags)
    except ValidationError as error:
        problems = (
            f"{'.'.join(map(str, problem['loc']))}: {problem['msg']} (given: {problem['input']!r})"
            for problem in error.errors()
        )
        raise typer.BadParameter("settings: " + "; ".join(problems)) from None
    except (SettingsError, ValueError) as error:  # the environment or canister.toml cannot be read
        raise typer.BadParameter(f"settings: {error}") from None


def signer(url: str, data_dir: Path | None, name: str | None) -> Identity | None:
    """Who signs, None for nobody; the server's own identity only where its folder is at hand. Raises CanisterError."""
    from canister.client import is_loopback
    from canister.identities import load_identity

    is_ours = data_dir is not None or is_loopback(url)
    return load_identity(name, load_settings(data_dir=data_dir).data_dir if is_ours else None)


def _controller_key(url: str, data_dir: Path | None) -> str | None:
    """The key of the server's own identity; it leaves this machine only if its folder was named."""
    from canister.client import is_loopback

    if data_dir is None and not is_loopback(url):
        return None
    path = load_settings(data_dir=data_dir).data_dir.expanduser() / "controller.key"
    if not path.exists():
        return None
    return path.read_text(encoding="utf-8").strip()
