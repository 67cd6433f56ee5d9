"""What the commands of `canister ao` share: the wallet, the network's root, tags."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import EllipsisType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from canister.cli.shared.app import Command
from canister.cli.shared.settings import served_url

if TYPE_CHECKING:
    from canister.ao.signing.wallets import ArweaveWallet
    from canister.client.ao.network import Network

_IS_ID, _DASHED_ID = "id:", re.compile(r"-[A-Za-z0-9_-]{42}")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
OWN_WALLET = "ao-wallet.json"  # in the folder of identities
WalletFile = Annotated[
    Path | None,
    typer.Option(
        "--wallet",
        "-w",
        metavar="FILE",
        help="The wallet that signs: a JWK file. [default: one of your own, made when it is first needed]",
        show_default=False,
    ),
]
To = Annotated[
    str | None,
    typer.Option(
        "--to",
        "--url",
        "--network",
        metavar="URL",
        help="Root of the network. [default: CANISTER_URL, else as `canister serve` listens]",
        show_default=False,
    ),
]


class IdCommand(Command):
    """A command whose arguments may be ids, of which one in 64 begins with a dash, as options do."""

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        return super().parse_args(ctx, [f"{_IS_ID}{each}" if _DASHED_ID.fullmatch(each) else each for each in args])


def bare_id(text: str) -> str:
    """An id as it was typed."""
    return text.removeprefix(_IS_ID)


ProcessId = Annotated[str, typer.Argument(metavar="PROCESS", help="Its id.", show_default=False, parser=bare_id)]
TagOption = Annotated[
    list[str] | None, typer.Option("--tag", metavar="NAME=VALUE", help="A tag; repeatable.", show_default=False)
]


def read_wallet(file: Path | None) -> ArweaveWallet:
    """file: None for the wallet in the user's folder, which is made where there is none. Raises typer.BadParameter,
    Malformed.
    """
    from canister.ao.signing.wallets import ArweaveWallet
    from canister.client.identities import default_folder

    if file is None:
        file = default_folder() / OWN_WALLET
        if not file.exists():
            wallet = write_wallet(file)
            print(f"made the wallet {wallet.address} in {file}", file=sys.stderr)
            return wallet
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise typer.BadParameter(f"{file}: there is no such file; `canister ao keygen {file}` makes a wallet") from None
    except UnicodeDecodeError:
        text = ""
    return ArweaveWallet.from_jwk(text)


def write_wallet(file: Path) -> ArweaveWallet:
    """A new one, for its owner alone. Raises FileExistsError."""
    from canister.ao.signing.wallets import ArweaveWallet

    wallet = ArweaveWallet.generate()
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as opened:
        opened.write(wallet.to_jwk())
        opened.flush()
        os.fsync(opened.fileno())
    return wallet


def root_url(given: str | None) -> str:
    return given or os.environ.get("CANISTER_URL") or served_url()


def tags_of(given: Sequence[str] | None) -> list[tuple[str, str]]:
    """Raises typer.BadParameter."""
    found = []
    for tag in given or ():
        name, equals, value = tag.partition("=")
        if not name or not equals:
            raise typer.BadParameter(f"{tag!r} is no NAME=VALUE, such as Action=Ping", param_hint="--tag")
        found.append((name, value))
    return found


def connected(to: str | None, wallet: Path | EllipsisType | None = ...) -> Network:
    """The network, with the wallet that signs; without one only questions are asked."""
    from canister.client.ao.network import Network

    signer = None if isinstance(wallet, EllipsisType) else read_wallet(wallet)
    return Network(root_url(to), signer)


def shown_result(told: Mapping[str, object]) -> str:
    """What a result's output says to a person, without the colours of a console that this may not be."""
    output = told.get("Output")
    data = output.get("data") if isinstance(output, dict) else output
    if isinstance(data, dict):
        data = data.get("output")
    text = data if isinstance(data, str) else "" if data is None else json.dumps(data, ensure_ascii=False)
    return text if sys.stdout.isatty() else _COLOUR.sub("", text)


def tell_stranger(network: Network, process: str, told: Mapping[str, object]) -> None:
    """Where nothing came of code, it may be that the process is somebody else's: that is told on stderr."""
    output = told.get("Output")
    has_output = isinstance(output, Mapping) and output.get("data")
    if has_output or any(told.get(name) for name in ("Error", "Messages", "Spawns", "Assignments")):
        return
    owner = network.owner(process)
    if owner is not None and owner != network.address:
        print(
            f"canister: nothing came of it: {process} was made by {owner}, and the wallet is {network.address}; "
            "a process runs code of its owner alone. --wallet FILE names another wallet",
            file=sys.stderr,
        )
