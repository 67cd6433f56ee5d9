"""`canister identity`: who signs the calls; the words are those of `icp identity`."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from canister.cli.shared.app import App
from canister.cli.shared.complete import identity_names

if TYPE_CHECKING:
    from canister.client.identities import IdentityStore

app = App("Identities: who signs the calls. Made here, or taken over from icp and dfx.")


class KeyKind(StrEnum):
    ed25519 = "ed25519"
    secp256k1 = "secp256k1"
    prime256v1 = "prime256v1"


FolderOption = Annotated[
    Path | None,
    typer.Option("--data-dir", metavar="DIR", help="Data folder of the server, for `controller`.", show_default=False),
]
NewName = Annotated[str, typer.Argument(metavar="NAME", show_default=False)]
Name = Annotated[str, typer.Argument(metavar="NAME", show_default=False, autocompletion=identity_names)]
Storage = Annotated[
    str,
    typer.Option("--storage", "--storage-mode", metavar="plaintext", help="How the key is kept; there is one way."),
]


IdentityOption = Annotated[
    str | None,
    typer.Option(
        "--identity",
        metavar="NAME",
        help="Whose. [default: of the default identity]",
        show_default=False,
        autocompletion=identity_names,
    ),
]


@app.command()
def new(
    name: NewName,
    key: Annotated[
        KeyKind, typer.Option("--key", metavar="|".join(KeyKind), help="Kind of the key pair.")
    ] = KeyKind.ed25519,
    storage: Storage = "plaintext",
) -> None:
    """Make an identity and print its principal."""
    _check_storage(storage)
    identity = _store().new(name, key.value)
    print(identity.principal)
    print(f"made identity {name}", file=sys.stderr)


@app.command("list")
def list_identities(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print the names only.")] = False,
    data_dir: FolderOption = None,
) -> None:
    """List identities with their principals.

    An asterisk marks the default one.
    """
    rows = _store(data_dir).rows()
    if as_json:
        document = [{"name": row.name, "principal": row.principal, "is_default": row.is_default} for row in rows]
        print(json.dumps(document, indent=2))
        return
    width = max(len(row.name) for row in rows)
    for row in rows:
        mark = "*" if row.is_default else " "
        print(row.name if quiet else f"{mark} {row.name.ljust(width)} {row.principal or '(cannot be read)'}")


@app.command()
def default(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", show_default=False, autocompletion=identity_names)
    ] = None,
) -> None:
    """Print the default identity; with a name, choose it.

    It calls when no identity is named.
    """
    store = _store()
    if name is None:
        print(store.default())
        return
    store.choose(name)
    print(f"{name} is the default identity now", file=sys.stderr)


def use(name: Name) -> None:
    """What dfx calls `canister identity default NAME`."""
    default(name)


def whoami(identity: IdentityOption = None) -> None:
    """Print the name of the identity that calls when none is named."""
    print(identity or _store().default())


@app.command()
def principal(
    identity: IdentityOption = None,
    data_dir: FolderOption = None,
) -> None:
    """Print the principal of an identity."""
    store = _store(data_dir)
    print(store.principal(identity or store.default()))


@app.command()
def path(data_dir: FolderOption = None) -> None:
    """Print where the server's own identity is kept (PEM)."""
    from canister.client.identities import CONTROLLER

    print(_store(data_dir).path(CONTROLLER))


@app.command("import")
def import_identity(
    name: NewName,
    from_pem: Annotated[
        Path,
        typer.Option(
            "--from-pem",
            metavar="FILE",
            help="A private key as icp and dfx export it, PKCS #8 or SEC 1; - is stdin.",
            show_default=False,
        ),
    ],
    storage: Storage = "plaintext",
) -> None:
    """Take over an identity from a PEM file.

    Its principal is printed.
    """
    _check_storage(storage)
    pem = sys.stdin.buffer.read() if from_pem == Path("-") else from_pem.read_bytes()
    print(_store().add(name, pem).principal)
    print(f"imported identity {name}", file=sys.stderr)


@app.command()
def export(name: Name, data_dir: FolderOption = None) -> None:
    """Print the private key of an identity (PEM). Whoever reads it is this identity."""
    identity = _store(data_dir).load(name)
    if identity is None:
        raise typer.BadParameter(f"{name} has no key")
    print(identity.to_pem().decode("ascii"), end="")


@app.command()
def delete(name: Name) -> None:
    """Delete an identity and its key, for ever."""
    _store().delete(name)
    print(f"deleted identity {name}", file=sys.stderr)


def _store(data_dir: Path | None = None) -> IdentityStore:
    from canister.cli.shared.settings import data_folder
    from canister.client.identities import IdentityStore

    return IdentityStore(data_dir=data_folder(data_dir))


def _check_storage(storage: str) -> None:
    if storage != "plaintext":
        raise typer.BadParameter(f"--storage {storage}: keys are kept in PEM files: plaintext is the only way")
