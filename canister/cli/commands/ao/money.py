"""`canister ao mint` and `balance`: the token of the network."""

from __future__ import annotations

from typing import Annotated

import typer

from canister.cli.shared.ao import To, WalletFile, bare_id, connected, read_wallet, root_url
from canister.cli.shared.options import ApiKey, DataDir

Address = Annotated[
    str,
    typer.Argument(metavar="ADDRESS", help="Of a wallet, or the id of a process.", show_default=False, parser=bare_id),
]


def mint(
    address: Address,
    amount: Annotated[
        str, typer.Argument(metavar="AMOUNT", help="With up to 12 decimals, such as 1.5.", show_default=False)
    ],
    to: To = None,
    api_key: ApiKey = None,
    data_dir: DataDir = None,
) -> None:
    """Make new money for an account. For controllers.

    Example: canister ao mint ADDRESS 1.5
    """
    from canister.cli.shared.connection import connection
    from canister.herd.fees import format_amount, parse_amount

    units = parse_amount(amount)
    key = connection(root_url(to), api_key, False, data_dir).api_key
    with connected(to) as network:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        told = network.request("POST", "/ao/mint", json={"account": address, "amount": str(units)}, headers=headers)
        print(f"{format_amount(int(told.json()['balance']))} for {address}")


def balance(
    address: Annotated[
        str | None,
        typer.Argument(metavar="ADDRESS", help="[default: that of the wallet]", show_default=False, parser=bare_id),
    ] = None,
    wallet: WalletFile = None,
    to: To = None,
) -> None:
    """Print how much money an account has."""
    from canister.herd.fees import format_amount

    account = address or read_wallet(wallet).address
    with connected(to) as network:
        print(format_amount(int(network.request("GET", f"/ao/balance/{account}").json()["balance"])))
