"""What the commands of `canister ao` share: the wallet, the network's root, tags."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from canister.cli.shared.settings import served_url

if TYPE_CHECKING:
    from canister.ao.signing.wallets import ArweaveWallet

WalletFile = Annotated[
    Path,
    typer.Option("--wallet", "-w", metavar="FILE", help="The wallet that signs: a JWK file.", show_default=False),
]
To = Annotated[
    str | None,
    typer.Option(
        "--to",
        "--url",
        metavar="URL",
        help="Root of the network. [default: CANISTER_URL, else as `canister serve` listens]",
        show_default=False,
    ),
]
TagOption = Annotated[
    list[str] | None, typer.Option("--tag", metavar="NAME=VALUE", help="A tag; repeatable.", show_default=False)
]


def read_wallet(file: Path) -> ArweaveWallet:
    """Raises typer.BadParameter, Malformed."""
    from canister.ao.signing.wallets import ArweaveWallet

    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise typer.BadParameter(f"{file}: there is no such file; `canister ao keygen {file}` makes a wallet") from None
    except UnicodeDecodeError:
        text = ""
    return ArweaveWallet.from_jwk(text)


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
