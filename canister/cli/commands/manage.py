"""`canister status`, `settings update`, `top-up`, `id`: about a canister, by messages to the management canister.

The words and options are those of `icp canister`; `deposit-cycles` and `ledger fabricate-cycles` are dfx's for top-up.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from canister.cli.commands.call import IgnoredHidden
from canister.cli.shared import amounts, status_view
from canister.cli.shared.app import App
from canister.cli.shared.complete import canister_names
from canister.cli.shared.connection import LOCAL, agent_for, connection
from canister.cli.shared.managing import manage, report_of, run, status_of, text_of, the_only
from canister.cli.shared.options import DataDir, Environment, IdentityName, Network, RootKey

if TYPE_CHECKING:
    from canister.client.agent import Agent
    from canister.client.identities import IdentityStore

settings_app = App("Settings of a canister.")
ledger_app = App("Cycles, in the words of dfx.")

FABRICATED_CYCLES = "10t"

Name = Annotated[
    str, typer.Argument(metavar="CANISTER", help="Name or id of the canister.", autocompletion=canister_names)
]
OnlyName = Annotated[
    str | None,
    typer.Argument(
        metavar="CANISTER",
        help="Name or id of the canister. [default: the only one of the server]",
        show_default=False,
        autocompletion=canister_names,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Controllers = list[str] | None


class LogVisibility(StrEnum):
    controllers = "controllers"
    public = "public"


def canister_id(
    canister: Name,
    network: Network = LOCAL,
    environment: Environment = None,
    project_root_override: IgnoredHidden = None,
) -> None:
    """Print the id of a canister."""
    _print_id(canister, network)


def _print_id(canister: str | None, network: str) -> None:
    from canister.cli.shared.connection import url_of
    from canister.client.agent import Agent
    from canister.ic import principal

    async def id_of(agent: Agent) -> bytes:
        return await agent.id_of(canister or await the_only(agent))

    print(principal.to_text(run(Agent(url_of(network)), id_of)))


def status(
    canister: OnlyName = None,
    id_only: Annotated[bool, typer.Option("--id-only", "-i", help="Print the id and nothing else.")] = False,
    short: Annotated[bool, typer.Option("--short", help="Print only the most important lines.")] = False,
    as_json: Json = False,
    network: Network = LOCAL,
    identity: IdentityName = None,
    root_key: RootKey = None,
    data_dir: DataDir = None,
    environment: Environment = None,
    project_root_override: IgnoredHidden = None,
) -> None:
    """Show a canister and its model: state, limits, cycles.

    Callers who do not control it see what is public: its controllers.
    """
    if id_only:
        _print_id(canister, network)
        return
    # The engine is told over REST, where a key stands for the caller.
    server = connection(network, None, identity is not None, data_dir, tells_whose_key=False)
    report = run(agent_for(network, identity, data_dir, root_key), lambda agent: report_of(agent, canister, server))
    if as_json:
        print(json.dumps(report, indent=2))
    else:
        print(status_view.as_few_lines(report) if short else status_view.as_page(report))


@settings_app.command("update")
def update_settings(
    canister: Name,
    wasm_memory_limit: Annotated[
        str | None, typer.Option(metavar="BYTES", help="Largest heap: 4026531840, or 3.75gib.")
    ] = None,
    wasm_memory_threshold: Annotated[
        str | None, typer.Option(metavar="BYTES", help="Free heap below which the canister would be told.")
    ] = None,
    memory_allocation: Annotated[
        str | None, typer.Option(metavar="BYTES", help="Memory that is paid for beforehand.")
    ] = None,
    compute_allocation: Annotated[
        int | None, typer.Option(min=0, max=100, metavar="PERCENT", help="Guaranteed share of a subnet.")
    ] = None,
    freezing_threshold: Annotated[
        str | None, typer.Option(metavar="SECONDS", help="For how long the cycles must last: 2592000, or 30d.")
    ] = None,
    reserved_cycles_limit: Annotated[
        str | None, typer.Option(metavar="CYCLES", help="Most that may be put by for memory: 5t.")
    ] = None,
    log_visibility: Annotated[
        LogVisibility | None, typer.Option(metavar="|".join(LogVisibility), help="Who may see the log.")
    ] = None,
    add_controller: Annotated[
        Controllers, typer.Option(metavar="PRINCIPAL", help="Who controls it too: a principal or an identity.")
    ] = None,
    remove_controller: Annotated[
        Controllers, typer.Option(metavar="PRINCIPAL", help="Who controls it no longer.")
    ] = None,
    set_controller: Annotated[
        Controllers, typer.Option(metavar="PRINCIPAL", help="Who controls it, and nobody else.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", "-f", "--yes", "-y", help="Also when the caller loses control by it.")
    ] = False,
    network: Network = LOCAL,
    identity: IdentityName = None,
    root_key: RootKey = None,
    data_dir: DataDir = None,
    environment: Environment = None,
    project_root_override: IgnoredHidden = None,
) -> None:
    """Change settings of a canister.

    Settings that are not named stay as they are.
    """
    from canister.api.management import CanisterSettings, UpdateSettingsRecord
    from canister.api.management import LogVisibility as LogVisibilityTag

    if set_controller and (add_controller or remove_controller):
        raise typer.BadParameter("either --set-controller, or --add-controller and --remove-controller")
    texts: tuple[tuple[str, str | None, Callable[[str, str], int]], ...] = (
        ("wasm_memory_limit", wasm_memory_limit, amounts.n_bytes),
        ("wasm_memory_threshold", wasm_memory_threshold, amounts.n_bytes),
        ("memory_allocation", memory_allocation, amounts.n_bytes),
        ("freezing_threshold", freezing_threshold, amounts.seconds),
        ("reserved_cycles_limit", reserved_cycles_limit, amounts.cycles),
    )
    changes: dict[str, Any] = {
        name: parse(text, f"--{name.replace('_', '-')}") for name, text, parse in texts if text is not None
    }
    if compute_allocation is not None:
        changes["compute_allocation"] = compute_allocation
    if log_visibility is not None:
        changes["log_visibility"] = LogVisibilityTag(log_visibility.value)
    if not (changes or add_controller or remove_controller or set_controller):
        raise typer.BadParameter("nothing is to be changed; --help lists the settings")
    named = _Named.read(set_controller, add_controller, remove_controller, data_dir)

    async def change(agent: Agent) -> None:
        id = await agent.id_of(canister)
        if named is not None:
            before = (await status_of(agent, id)).settings.controllers
            changes["controllers"] = named.applied_to(before)
            caller = agent.principal
            if caller in before and caller not in changes["controllers"] and not force:
                raise typer.BadParameter(f"{caller}, who calls, would control it no longer; --force does it")
        await manage(
            agent,
            id,
            "update_settings",
            UpdateSettingsRecord(canister_id=text_of(id), settings=CanisterSettings(**changes)),
        )

    run(agent_for(network, identity, data_dir, root_key), change)
    print(f"changed {', '.join(changes)} of {canister}", file=sys.stderr)


def top_up(
    canister: Name,
    amount: Annotated[
        str, typer.Option(metavar="CYCLES", help="Number of cycles: 20000000000000, or 20t.", show_default=False)
    ],
    network: Network = LOCAL,
    identity: IdentityName = None,
    root_key: RootKey = None,
    data_dir: DataDir = None,
    environment: Environment = None,
    project_root_override: IgnoredHidden = None,
) -> None:
    """Give a canister cycles, which here come from nowhere."""
    from canister.api.management import TopUpRecord

    n_cycles = amounts.cycles(amount, "--amount")

    async def give(agent: Agent) -> None:
        id = await agent.id_of(canister)
        await manage(agent, id, "provisional_top_up_canister", TopUpRecord(canister_id=text_of(id), amount=n_cycles))

    run(agent_for(network, identity, data_dir, root_key), give)
    print(f"gave {canister} {n_cycles:,} cycles", file=sys.stderr)


def deposit_cycles(
    cycles: Annotated[str, typer.Argument(metavar="CYCLES")],
    canister: Name,
    network: Network = LOCAL,
    identity: IdentityName = None,
    root_key: RootKey = None,
    data_dir: DataDir = None,
    environment: Environment = None,
    project_root_override: IgnoredHidden = None,
) -> None:
    """What dfx calls `canister top-up`."""
    top_up(canister, cycles, network, identity, root_key, data_dir)


@ledger_app.command()
def fabricate_cycles(
    canister: Annotated[str, typer.Option(metavar="NAME", help="Name or id.", autocompletion=canister_names)],
    cycles: Annotated[
        str, typer.Option("--cycles", "--amount", metavar="CYCLES", help="How many.")
    ] = FABRICATED_CYCLES,
    trillions: Annotated[
        int | None, typer.Option("--t", min=1, metavar="N", help="How many trillions.", show_default=False)
    ] = None,
    network: Network = LOCAL,
    identity: IdentityName = None,
    root_key: RootKey = None,
    data_dir: DataDir = None,
) -> None:
    """What dfx calls `canister top-up` on a local network."""
    top_up(canister, cycles if trillions is None else f"{trillions}t", network, identity, root_key, data_dir)


# -- controllers


class _Named:
    """The future controllers: `only` these, or the present ones with and without some."""

    def __init__(self, only: list[str], added: list[str], removed: list[str]) -> None:
        self._only, self._added, self._removed = only, added, removed

    @classmethod
    def read(cls, only: Controllers, added: Controllers, removed: Controllers, data_dir: Path | None) -> _Named | None:
        """None if nobody is named. Raises CanisterError."""
        from canister.cli.shared.settings import data_folder
        from canister.client.identities import IdentityStore

        if not (only or added or removed):
            return None
        store = IdentityStore(data_dir=data_folder(data_dir))
        return cls(*([_principal(store, name) for name in names or []] for names in (only, added, removed)))

    def applied_to(self, present: list[str]) -> list[str]:
        if self._only:
            return sorted(set(self._only))
        return sorted({*present, *self._added} - set(self._removed))


def _principal(store: IdentityStore, text: str) -> str:
    """A principal, or that of an identity."""
    from canister.ic import principal

    try:
        principal.from_text(text)
    except principal.PrincipalError:
        return store.principal(text)
    return text
