"""`canister herd mint`, `transfer` and `balance`: money of accounts, in the journal, also while the herd runs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from canister.cli.shared import tables
from canister.cli.shared.options import DataDir
from canister.cli.shared.settings import data_folder

if TYPE_CHECKING:
    from canister.herd.journal import Journal

T = TypeVar("T")

JOURNAL = "Journal of the herd: postgresql://…, or sqlite:///PATH. [default: herd.db in the data folder]"

JournalUrl = Annotated[str | None, typer.Option("--journal", metavar="URL", help=JOURNAL, show_default=False)]
Account = Annotated[str, typer.Argument(metavar="ACCOUNT", help="Principal of a caller.", show_default=False)]
Amount = Annotated[
    str, typer.Argument(metavar="AMOUNT", help="With up to 12 decimals, such as 1.5.", show_default=False)
]
Key = Annotated[
    str | None,
    typer.Option(
        metavar="TEXT", help="Name of this movement; a second one of that name does nothing.", show_default=False
    ),
]


def mint(
    account: Account, amount: Amount, key: Key = None, journal: JournalUrl = None, data_dir: DataDir = None
) -> None:
    """Make new money for an account. Works on the journal itself, also while the herd runs."""
    from canister.herd.fees import format_amount, parse_amount

    units = parse_amount(amount)
    is_new = _with_journal(journal, data_dir, lambda opened: opened.mint(account, units, key=_key(key)))
    print(f"{format_amount(units)} for {account}" if is_new else f"{key} was done before; nothing has changed")


def transfer(
    source: Annotated[str, typer.Argument(metavar="FROM", help="Account that pays.", show_default=False)],
    target: Annotated[str, typer.Argument(metavar="TO", help="Account that gets it.", show_default=False)],
    amount: Amount,
    key: Key = None,
    journal: JournalUrl = None,
    data_dir: DataDir = None,
) -> None:
    """Move money from one account to another. Works on the journal itself, also while the herd runs."""
    from canister.herd.fees import format_amount, parse_amount

    units = parse_amount(amount)
    is_new = _with_journal(journal, data_dir, lambda opened: opened.transfer(source, target, units, key=_key(key)))
    print(
        f"{format_amount(units)} from {source} to {target}" if is_new else f"{key} was done before; nothing has changed"
    )


def balance(
    account: Annotated[
        str | None,
        typer.Argument(metavar="ACCOUNT", help="Principal of a caller. [default: all accounts]", show_default=False),
    ] = None,
    journal: JournalUrl = None,
    data_dir: DataDir = None,
) -> None:
    """Show what an account has, and what is held for its jobs."""
    from canister.herd.fees import format_amount

    found = _with_journal(journal, data_dir, lambda opened: opened.balances())
    if account is not None:
        found = {name: balance for name, balance in found.items() if name == account}
    rows = [(name, format_amount(one.free), format_amount(one.held)) for name, one in sorted(found.items())]
    if account is not None and not rows:
        rows = [(account, "0", "0")]
    tables.show(("ACCOUNT", "FREE", "HELD"), rows, shorten=0, right=(1, 2))


def _with_journal(url: str | None, data_dir: Path | None, work: Callable[[Journal], Awaitable[T]]) -> T:
    from canister.errors import NotFound
    from canister.herd.journal import Journal
    from canister.system.data_dir import HERD_DATABASE

    async def run() -> T:
        folder = data_folder(data_dir)
        if url is None and not (folder / HERD_DATABASE).exists():
            raise NotFound(
                f"there is no {folder / HERD_DATABASE}: start the herd first, or name its journal with --journal"
            )
        opened = await Journal.open(url or f"sqlite:///{folder / HERD_DATABASE}")
        try:
            return await work(opened)
        finally:
            await opened.close()

    return asyncio.run(run())


def _key(text: str | None) -> bytes | None:
    return None if text is None else text.encode()
