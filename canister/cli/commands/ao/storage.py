"""`canister ao keygen` and `publish`: a wallet in a file, and a file that stays under an id."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from canister.cli.shared.ao import TagOption, To, WalletFile, read_wallet, root_url, tags_of


def keygen(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where to write it; never over another file.")],
) -> None:
    """Make a wallet of Arweave, and print its address.

    Example: canister ao keygen wallet.json
    """
    from canister.cli.shared.ao import write_wallet

    try:
        wallet = write_wallet(file)
    except FileExistsError:
        raise typer.BadParameter(f"{file} exists already; a wallet is never written over") from None
    print(wallet.address)


def publish(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What to store.", show_default=False)],
    wallet: WalletFile = None,
    to: To = None,
    tag: TagOption = None,
    base_layer: Annotated[
        bool, typer.Option("--base-layer", help="As a transaction in chunks with proofs, not as an item.")
    ] = False,
) -> None:
    """Store a file at a gateway for good, and print its id.

    Small files go in one request, larger ones in chunks.

    Example: canister ao publish model.gguf --wallet wallet.json --tag Content-Type=application/octet-stream
    """
    from canister.ao.signing.tags import texts
    from canister.client.ao import publishing
    from canister.client.ao.network import Network

    signer = read_wallet(wallet)
    tags = texts(tags_of(tag))
    if not file.is_file():
        raise typer.BadParameter(f"{file}: there is no such file")
    with Network(root_url(to)) as network:
        send = publishing.publish_on_base_layer if base_layer else publishing.publish
        published = send(network, file, signer, tags)
    print(published.id)
    print(f"{published.n_bytes} bytes, at {published.url}", file=sys.stderr)
