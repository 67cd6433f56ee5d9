"""`canister backup` and `canister restore`: one file with all that a data folder holds."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from canister.ops.backup import Copied

FolderOption = Annotated[
    Path | None,
    typer.Option("--data-dir", metavar="DIR", help="Data folder of the server.", show_default=False),
]


def backup(
    target: Annotated[Path, typer.Argument(metavar="FILE", help="The tar file to write.", show_default=False)],
    data_dir: FolderOption = None,
) -> None:
    """Copy all that a server holds into one file.

    Also while it runs. The file has the server's keys in it, and the hashes of its API keys. Keep it where nobody else
    can read it.
    """
    from canister.cli.shared.settings import data_folder
    from canister.ops.backup import back_up

    _print_copied("backed up", back_up(data_folder(data_dir), target.absolute()))


def restore(
    source: Annotated[
        Path, typer.Argument(metavar="FILE", help="A file made by `canister backup`.", show_default=False)
    ],
    data_dir: FolderOption = None,
) -> None:
    """Make a data folder from a backup.

    The backup is checked first. A folder that is not empty is left alone.
    """
    from canister.cli.shared.settings import data_folder
    from canister.ops.backup import restore as restore_backup

    _print_copied("restored", restore_backup(source, data_folder(data_dir)))


def _print_copied(done: str, copied: Copied) -> None:
    for name in copied.damaged:
        print(f"not whole when it was backed up: {name}", file=sys.stderr)
    print(f"{done} {copied.n_canisters} canisters: {copied.n_files} files, {copied.n_bytes} bytes", file=sys.stderr)
