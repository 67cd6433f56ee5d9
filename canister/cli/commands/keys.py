"""`canister api-key`: works on the data folder itself, also while a server runs."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from canister.cli.shared import tables
from canister.cli.shared.app import App
from canister.cli.shared.complete import api_key_names

if TYPE_CHECKING:
    from canister.state.api_keys import ApiKey

api_key_app = App("API keys of REST callers: make, list, revoke.")

HEAD = ("NAME", "EXPIRES", "CREATED", "PRINCIPAL")
CREATED_COLUMN, PRINCIPAL_COLUMN = 2, 3

FolderOption = Annotated[
    Path | None,
    typer.Option("--data-dir", metavar="DIR", help="Data folder of the server.", show_default=False),
]
KeyName = Annotated[str, typer.Argument(metavar="NAME", show_default=False)]
KnownKey = Annotated[str, typer.Argument(metavar="NAME", show_default=False, autocompletion=api_key_names)]


@api_key_app.command()
def create(
    name: KeyName,
    principal: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="Whom the key stands for. [default: a new principal]", show_default=False),
    ] = None,
    expires: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Lifetime: 12h, 30d, 2w. [default: for ever]", show_default=False),
    ] = None,
    data_dir: FolderOption = None,
) -> None:
    """Make a key and print it. It is shown only this once, and only its hash is kept."""
    from canister.state.api_keys import open_keys, parse_duration

    lifetime_seconds = None if expires is None else parse_duration(expires)
    with open_keys(_folder(data_dir)) as keys:
        key = keys.create(name, principal, lifetime_seconds)
        made = keys.get(name)
    print(key)
    if made is not None:
        print(f"{name} stands for {made.principal}; the key is not shown again", file=sys.stderr)


@api_key_app.command("list")
def list_keys(data_dir: FolderOption = None) -> None:
    """List names, times (UTC) and principals.

    The keys themselves are not kept. A terminal too narrow for a principal shows its two ends.
    """
    from canister.state.api_keys import open_keys

    with open_keys(_folder(data_dir)) as keys:
        table = tables.Pages(HEAD, shorten=PRINCIPAL_COLUMN, leave_out=[CREATED_COLUMN])
        for page in keys.pages():
            table.show([_row(key) for key in page])
    if not table.is_begun:
        table.show([])


@api_key_app.command()
def revoke(name: KnownKey, data_dir: FolderOption = None) -> None:
    """Revoke a key. It is worthless from the next request on."""
    from canister.state.api_keys import open_keys

    with open_keys(_folder(data_dir)) as keys:
        keys.revoke(name)
    print(f"revoked {name}", file=sys.stderr)


def _folder(data_dir: Path | None) -> Path:
    from canister.cli.shared.settings import data_folder
    from canister.errors import NotFound
    from canister.system.data_dir import SERVER_DATABASE

    folder = data_folder(data_dir)
    if not (folder / SERVER_DATABASE).is_file():
        raise NotFound(f"{folder} holds no server's data; name the folder with --data-dir")
    return folder


def _row(key: ApiKey) -> tuple[str, ...]:
    expires = "never" if key.expires_ns is None else _time(key.expires_ns)
    return key.name, "expired" if key.is_expired() else expires, _time(key.created_ns), key.principal


def _time(ns: int) -> str:
    return datetime.fromtimestamp(ns / 1e9, UTC).strftime("%Y-%m-%d %H:%M")
